"""Events of the demo sample that the ingest of the fake farm keeps."""

from __future__ import annotations

from pathlib import Path

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.messages import ACCEPTED, FAILED, EventInfo, RunConfig
from hltfarm.service.ingest.programmes import Entry
from tests.unit.farm_fake import SELECTOR, FakeLink

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
PROGRAMME = Entry(1, RunConfig(run=9), built=True, menu_hash="feed", models=(SELECTOR,))


def keep(farm: FakeLink, number: int = 0, digest: str = "00000000000000ab", when: float = 1000.0, programme: Entry = PROGRAMME) -> str:
    """An accepted event of the demo sample that the ingest keeps; its id."""
    event = Sample(DEMO)[number]
    info = EventInfo(
        id="", kind=ACCEPTED, run=9, lumi=4, event=event.id.event, bx=event.id.bx, decided_at=when, size_bytes=event.payload.nbytes,
        attempts=1, worker="w0", paths=("HLT_A", "HLT_B"), streams=("physics",), digest=digest,
    )  # fmt: skip
    farm.kept.accepted(info, programme, event.payload.tobytes, int(when * 1e9))
    return farm.kept.listed(ACCEPTED, 1)[0].id


def fail(farm: FakeLink, number: int = 1, when: float = 2000.0, size: int | None = None) -> str:
    """An event of the error stream; its id."""
    event = Sample(DEMO)[number]
    info = EventInfo(
        id="", kind=FAILED, run=9, lumi=5, event=event.id.event, bx=1, decided_at=when, size_bytes=size or event.payload.nbytes, attempts=3,
        worker="w1", reason="WORKER_FAILED", error="RuntimeError: on order", bundle="run000009/000001-worker_failed-1",
    )  # fmt: skip
    farm.kept.failed([(info, event.payload.tobytes)], PROGRAMME, int(when * 1e9))
    return farm.kept.failures(1)[0].id
