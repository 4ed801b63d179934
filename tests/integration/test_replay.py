"""A poisonous event makes a bundle in a farm of real workers; `hltfarm replay` sees the failure while the fault is on, and none after."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.events import RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.service.cli import run
from hltfarm.service.ingest.sample_writer import write_sample
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.supervisor.specs import HLTFARM
from hltfarm.workers.faults import VARIABLE, Act, Order, give
from hltfarm.workers.models import Cut, Cuts, save
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
POISON = 2  # place in the sample


class RealFarm(Farm):
    """Its ingest writes bundles as `hltfarm ingest` does; its workers reconstruct, with faults on order."""

    def _server(self) -> IngestServer:
        return IngestServer(self.settings, write_sample)

    def worker(self, name: str, max_events: int = 4) -> subprocess.Popen[bytes]:
        command = (*HLTFARM, "worker", "--ingest", self.settings.workers_url, "--name", name, "--backend", "cpu", "--threads", "1")
        process = subprocess.Popen(
            (*command, "--batch", str(max_events)), env=os.environ | {VARIABLE: str(self.folder / "faults.json")}, stderr=subprocess.DEVNULL
        )
        self.workers[name] = process
        return process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuts(tmp_path_factory.mktemp("models") / "some", 4)


def cuts(folder: Path, min_hits: float) -> Path:
    """A model that selects tracks with so many hits."""
    points = {"0.99": {"triplets": 0.5, "longer": 0.5}, "0.9": {"triplets": 0.75, "longer": 0.75}}
    content = Cuts((Cut(feature="n_hits", min=min_hits),))
    save(folder, content, name="some", version=1, target="track", features=("n_hits",), working_points=points, default_working_point="0.99")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The bundle of an event that no worker could reconstruct."""
    folder = tmp_path_factory.mktemp("farm")
    sample = Sample(DEMO)
    give(folder / "faults.json", [Order(number=1, act=Act.FAIL, events=(sample[POISON].id.event,))])
    farm = RealFarm(folder, limits=Limits(), canary_s=0.0, worker_timeout_s=10.0, worker_heartbeat_s=0.5)
    try:
        for name in ("w0", "w1"):
            farm.worker(name)
        farm.command("configure", config=RunConfig(run=RUN, model=str(model), working_point="0.9"))
        farm.command("start")
        farm.wait(lambda snapshot: sum(worker.ready for worker in snapshot.workers) == 2)
        with farm.client() as client:
            client.wait_open(DEADLINE_S)
            for i in range(6):
                client.send(RawEvent(sample[i].id._replace(run=RUN), sample[i].payload), timeout=DEADLINE_S)
            decisions = {decision.id.event: decision for decision in client.flush(DEADLINE_S)}
    finally:
        farm.close()
    failed = [decision for decision in decisions.values() if decision.outcome is Outcome.ERROR]
    assert [(decision.id.event, decision.reason) for decision in failed] == [(sample[POISON].id.event, Reason.WORKER_FAILED)]
    (found,) = (folder / "errors" / f"run{RUN:06d}").iterdir()
    return found


def replay(bundle: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document."""
    file = bundle.parent.parent / "replay.json"
    code = run(["replay", str(bundle), "--backend", "cpu", "--json", str(file), *options])
    return code, json.loads(file.read_text())


def test_without_the_fault_the_event_is_reconstructed_and_reproducible(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = replay(bundle)
    (told,) = document["bundles"]
    (event,) = told["events"]
    assert (code, document["exit_code"], event["ending"]) == (0, 0, "reconstructed")
    assert (told["reason"], told["differences"], told["cautions"]) == ("WORKER_FAILED", [], [])
    assert [(m["label"].partition(":")[0], m["working_point"]) for m in told["models"]] == [("some", "0.9"), ("event-mlp", "")]
    assert len(event["digests"]) == 2
    assert len(set(event["digests"])) == 1
    assert event["result"]["tracks"] > 0
    assert {failure["worker"] for failure in event["failures"]} == {"w0", "w1"}
    printed = capsys.readouterr().out
    assert "reconstructed 2 times with the same bits" in printed
    assert "RuntimeError: this batch fails on order" in printed


@pytest.mark.parametrize(
    ("act", "ending", "text", "compared"),
    [
        (Act.FAIL, "raised", "RuntimeError: this batch fails on order", "as in the farm"),
        (Act.OOM, "raised", "MemoryError", "not what the farm recorded"),
        (Act.DIE, "crashed", "the process ended: signal SIGKILL", "not what the farm recorded"),
        (Act.HANG, "timed out", "no result after 1 s", "not what the farm recorded"),
    ],
)
def test_with_the_fault_it_is_seen_again(
    act: Act, ending: str, text: str, compared: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = Sample(bundle / "events.hlt")[0].id.event
    give(tmp_path / "faults.json", [Order(number=1, act=act, events=(number,))])
    monkeypatch.setenv(VARIABLE, str(tmp_path / "faults.json"))
    code, document = replay(bundle, "--timeout-s", "1")
    event = document["bundles"][0]["events"][0]
    assert (code, event["ending"], event["compared"], event["result"]) == (1, ending, compared, None)
    assert text in event["text"]
    if act is Act.HANG:
        assert "faults.py" in event["detail"], "the stack says where it hangs"


def test_what_decides_must_be_what_decided(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = cuts(tmp_path / "other", 5)
    assert run(["replay", str(bundle), "--backend", "cpu", "--model", str(other)]) == 2
    message = capsys.readouterr().err
    assert "not what decided in the farm: models some:" in message
    assert "--force" in message
    code, document = replay(bundle, "--model", str(other), "--force")
    assert code == 0
    (difference,) = document["bundles"][0]["differences"]
    assert difference.startswith("models some:")


def test_a_bundle_from_another_site(bundle: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its model's folder is not here; a copy elsewhere will do, and the menu comes with the bundle."""
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["config"]["menu"] == ""
    record["config"]["model"] = "/nowhere/some"
    here = tmp_path / "bundle"
    here.mkdir()
    (here / "bundle.json").write_text(json.dumps(record))
    for name in ("events.hlt", "menu.yaml"):
        (here / name).write_bytes((bundle / name).read_bytes())
    assert run(["replay", str(here), "--backend", "cpu"]) == 2
    assert "there is no model at '/nowhere/some' on this machine" in capsys.readouterr().err
    assert run(["replay", str(here), "--backend", "cpu", "--model", str(model), "--times", "1"]) == 0
    (here / "menu.yaml").write_text("version: 1\npaths:\n- name: HLT_Other\n")
    assert run(["replay", str(here), "--backend", "cpu", "--model", str(model)]) == 2
    assert "not what decided in the farm: menu " in capsys.readouterr().err


def test_a_folder_of_bundles_goes_on_after_a_damaged_one(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("000001-good", "000002-short"):
        (tmp_path / name).mkdir()
        for part in ("bundle.json", "events.hlt", "menu.yaml"):
            (tmp_path / name / part).write_bytes((bundle / part).read_bytes())
    short = tmp_path / "000002-short" / "events.hlt"
    short.write_bytes(short.read_bytes()[:5000])
    assert run(["replay", str(tmp_path), "--backend", "cpu", "--times", "1"]) == 2
    printed = capsys.readouterr().out
    assert "events.hlt" in printed
    assert "2 bundles: 1 event, 1 reconstructed, 1 bundle not replayed" in printed


def test_reco_reads_the_events(bundle: Path, tmp_path: Path) -> None:
    command = (*HLTFARM, "reco", str(bundle / "events.hlt"), "--backend", "cpu", "--threads", "1", "--menu", str(bundle / "menu.yaml"))
    subprocess.run([*command, "--json", str(tmp_path / "reco.json")], check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert json.loads((tmp_path / "reco.json").read_text())["events"] == 1
