"""A farm without sockets: a link whose ingest is a run-control machine and a few numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np

from hltfarm.proto.errors import HltfarmError, StateError
from hltfarm.proto.messages import (
    Command,
    CommandReply,
    ConsumerStatus,
    EventInfo,
    GpuUse,
    Histogram,
    KeptEvent,
    LedgerCounts,
    ModelInfo,
    OutputStatus,
    Resources,
    RunConfig,
    RunState,
    Shadow,
    Snapshot,
    WorkerStatus,
)
from hltfarm.proto.worker_link import Configured, PathInfo
from hltfarm.service.control.link import FarmView, IngestView, RefusedError, UnreachableError, view_of
from hltfarm.service.ingest.programmes import Entry, Programmes
from hltfarm.service.ingest.questions import answer
from hltfarm.service.ingest.recent import RecentEvents
from hltfarm.service.runcontrol import OPEN, RunControl
from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu

ENDPOINT = "ipc:///fake"
SELECTOR = ModelInfo(
    target="track",
    name="tiny",
    version=3,
    hash="fedcba9876543210",
    kind="mlp",
    engine="fused",
    working_point="0.98",
    features=("log_pt", "tip"),
    working_points={"0.99": {"triplets": 0.5, "longer": 0.25}, "0.98": {"triplets": 0.75, "longer": 0.5}},
)
CLASSIFIER = ModelInfo(
    target="event",
    name="busy",
    version=1,
    hash="0011223344556677",
    kind="mlp",
    engine="fused",
    working_point="",
    features=("vertices",),
    working_points={"0.95": {"event": 0.5}},
)


def snapshot(**changes: object) -> Snapshot:
    """A snapshot with a different number in every place."""
    given = Snapshot(
        state=RunState.RUNNING,
        run=7,
        ledger=LedgerCounts(received=60, accepted=10, rejected=30, error=5, in_flight=15, duplicates=1),
        totals=LedgerCounts(received=1000, accepted=200, rejected=700, error=85, in_flight=15, duplicates=3),
        workers=[
            WorkerStatus(
                name="w0",
                backend="cpu",
                device="cpu",
                up=True,
                ready=True,
                credit_events=12,
                in_flight=15,
                processed=985,
                restarts=2,
                canary_at=1_700_000_700.0,
                canary_age_s=1.5,
                canary_failures=3,
                host="node",
                resources=Resources(
                    resident_bytes=1001,
                    gpu=GpuUse(index=3, uuid="GPU-4", memory_used_bytes=1002, memory_total_bytes=1003, utilization=0.25),
                ),
            ),
            WorkerStatus(name="w1", backend="cpu", device="cpu", up=False, ready=False, credit_events=0, in_flight=0, processed=0),
        ],
        queue_events=4,
        slots_free=109,
        slots_total=128,
        clients=2,
        ingest_bytes=123_456_789,
        frames_refused={"BAD_CRC": 6},
        failures={"WORKER_LOST": 80, "WORKER_FAILED": 5},
        path_accepts={"HLT_A": 150, "HLT_B": 0},
        path_prescaled={"HLT_A": 0, "HLT_B": 33},
        stream_events={"physics": 200, "error": 85},
        stream_bytes={"physics": 50_000_000, "error": 21_000_000},
        backpressure_seconds={"slots": 1.5, "workers": 0.0},
        event_latency=Histogram(bounds=[0.001, 0.01, 0.1], counts=[100, 800, 80, 5], sum=6.25),
        stage_duration={"unpack": Histogram(bounds=[0.001, 0.01], counts=[20, 10, 1], sum=0.125)},
        batch_events=Histogram(bounds=[1.0, 8.0, 64.0], counts=[1, 10, 20, 0], sum=985.0),
        menu_hash="0123456789abcdef",
        problems=[],
        lumi=21,
        shadow=Shadow(
            config=RunConfig(run=7),
            fraction=0.5,
            menu_hash="feed",
            models=(),
            waits_for=(),
            error=None,
            events=130,
            matrix=(31, 32, 33, 34),
            paths={"HLT_A": (35, 36, 37)},
            failed=38,
        ),
        outputs=(
            OutputStatus(
                folder="/data/output",
                url="tcp://127.0.0.1:7410",
                fsync="lumisection",
                waiting_events=41,
                open_files=42,
                closed_files=43,
                closed_bytes=44,
                fsyncs=45,
                removed_files=46,
                removed_bytes=47,
                recovered_files=48,
                recovered_events=49,
                free_bytes=50,
                sent_events=51,
                sent_bytes=52,
                consumers=(
                    ConsumerStatus(
                        name="tap", mode="lossless", streams=("physics",), present=True, sent=53, missed=54, waiting=55, silent_s=0.5
                    ),
                ),
            ),
        ),
        canary_s=5.0,
        started=1_700_000_000.5,
        last_decision=1_700_000_777.25,
        path_events={"HLT_A": 900, "HLT_B": 899},
        event_flags={"HIT_OVERFLOW": 61, "FED_REJECTED": 0},
        objects={"tracks": 62, "vertices": 63},
        disks={"errors": (7_000_000, 9_000_000)},
        info={
            "stale_answers": 8,
            "lost_sessions": 9,
            "columns_sent": 70,
            "columns_left_out": 11,
            "suspects": 12,
            "stranded": 13,
            "reserved_events": 14,
        },
    )
    return msgspec.structs.replace(given, **changes)


class FakeLink:
    """One ingest. `gone`: it does not answer; `refusal`: what it says to the next command; `in_flight`: events it has to finish;
    `deaf`: how many times it does not hear a command.
    """

    def __init__(self, state: RunState = RunState.HALTED, run: int | None = None) -> None:
        self.machine = RunControl(state)
        self.run = run
        self.gone = False
        self.refusal: str | None = None
        self.in_flight = 0
        self.received = 0
        self.started = 1_700_000_000.5
        self.path_accepts = {"HLT_A": 150, "HLT_B": 0}
        self.built = True  # whether the workers have built the configuration, and with which models
        self.models: tuple[ModelInfo, ...] = ()
        self.sent: list[tuple[str, RunConfig | None, str | None]] = []
        self.detached: list[str] = []  # consumers
        self.worker_commands: list[tuple[str, str, int, str]] = []
        self.deaf: dict[str, int] = {}
        self.programmes = Programmes()  # as a real ingest keeps them; one worker builds them
        self.programme_commands: list[tuple[str, RunConfig | None, int]] = []
        self.builds = True  # at once; else `build` does
        self.unable: dict[str, str] = {}  # menus (YAML text) that the worker cannot build -> why
        self.closed = False
        self.kept = RecentEvents(32 << 20, "cafe0001")  # events that it keeps
        self._watching: list[asyncio.Future[None]] = []

    async def looked(self, times: int) -> None:
        """Wait until the ingest was asked for its snapshot so many times more."""
        for _ in range(times):
            self._watching.append(asyncio.get_running_loop().create_future())
            await self._watching[-1]

    def snapshot(self) -> Snapshot:
        """What the ingest says of itself."""
        ledger = LedgerCounts(received=self.received, rejected=self.received - self.in_flight, in_flight=self.in_flight)
        programmes, pending = self.programmes, self.programmes.pending
        given = snapshot(
            state=self.machine.state,
            run=self.run,
            ledger=ledger,
            totals=ledger,
            info={},
            started=self.started,
            path_accepts=self.path_accepts,
            programmes=programmes.told(),
            pending=programmes.told_pending([] if pending is None or pending.workers else ["w0"]),
            lumi=programmes.lumi,
            shadow=self._told_shadow(),
        )
        if not self.built:
            return msgspec.structs.replace(given, menu_hash="", problems=["worker w0: configuring"])
        return msgspec.structs.replace(given, models=self.models if self.run is not None else ())

    async def look(self) -> FarmView:
        """See `Link.look`."""
        for watching in self._watching:
            watching.set_result(None)
        self._watching.clear()
        if self.gone:
            return view_of([IngestView(ENDPOINT, None, f"ingest {ENDPOINT} did not answer")])
        return view_of([IngestView(ENDPOINT, self.snapshot())])

    async def command(self, op: str, config: RunConfig | None = None, worker: str | None = None) -> FarmView:
        """See `Link.command`."""
        if self.gone:
            raise UnreachableError(f"ingest {ENDPOINT} did not answer {op!r}")
        if self.deaf.get(op, 0):
            self.deaf[op] -= 1
            raise UnreachableError(f"ingest {ENDPOINT} did not answer {op!r}")
        if self.refusal is not None:
            raise RefusedError(self.refusal)
        self.sent.append((op, config, worker))
        if op not in ("snapshot", "worker_lost"):
            self.machine = self.machine.command(op)
        if op == "reset":
            self.run, self.in_flight = None, 0
            self.programmes.forget()
        if config is not None:
            self.run = config.run
            self.settle_programme(self.programmes.configure(config))
        self.settle()
        return await self.look()

    async def change_programme(
        self, endpoint: str, op: str, config: RunConfig | None = None, *, lumi: int = 0, fraction: float = 0.0
    ) -> None:
        """See `Link.change_programme`; what it means is what it means to a real ingest."""
        if self.gone or self.deaf.get(op, 0):
            self.deaf[op] = max(0, self.deaf.get(op, 0) - 1)
            raise UnreachableError(f"ingest {ENDPOINT} did not answer {op!r}")
        if self.machine.state not in OPEN and self.machine.state is not RunState.CONFIGURED:
            raise StateError(f"{op!r} needs a run", ("configure",))
        self.programme_commands.append((op, config, lumi))
        programmes = self.programmes
        try:
            if op == "prepare" and config is not None:
                entry = programmes.prepare(config)
                if self.builds:
                    self.settle_programme(entry)
            elif op == "activate":
                pending = programmes.pending
                programmes.activate(lumi, [] if pending is None or pending.workers else ["w0"], config)
            elif op == "discard":
                programmes.discard(config)
            elif op == "shadow" and config is not None:
                self.settle_programme(programmes.cast(config, fraction))
            else:
                programmes.shadow = None
        except StateError:
            raise
        except HltfarmError as error:
            raise RefusedError(str(error)) from error

    def decide(self, lumi: int, accepted: Sequence[bool]) -> str:
        """Events of a lumisection are received and decided; the hash of the menu that did."""
        generations = [self.programmes.admit(lumi) for _ in accepted]
        ((entry, _),) = self.programmes.decided(np.array(generations, dtype=np.uint32), np.array(accepted, dtype=np.bool_))
        return entry.menu_hash

    def build(self) -> None:
        """The worker has built what is being prepared."""
        assert self.programmes.pending is not None
        self.settle_programme(self.programmes.pending)

    def settle_programme(self, entry: Entry) -> None:
        """The worker has built a programme, or says why it cannot."""
        menu = Menu.parse(entry.config.menu or DEFAULT_MENU)
        if (problem := self.unable.get(entry.config.menu)) is not None:
            entry.error = f"worker w0: {problem}"
            return
        paths = tuple(PathInfo(path.name, path.stream) for path in menu.paths)
        entry.settle(Configured(generation=entry.generation, menu_hash=menu.hash, models=self.models, paths=paths))
        entry.workers.add("w0")

    def _told_shadow(self) -> Shadow | None:
        book = self.programmes.shadow
        entry = self.programmes.get(book.generation) if book is not None else None
        return None if book is None or entry is None else book.told(entry.menu_hash, entry.models, [], entry.error)

    async def worker_command(self, op: str, worker: str, *, pid: int = 0, reason: str = "") -> None:
        """See `Link.worker_command`."""
        if self.gone:
            raise UnreachableError(f"ingest {ENDPOINT} did not answer {op!r}")
        self.worker_commands.append((op, worker, pid, reason))

    async def tell(self, endpoint: str, op: str, config: RunConfig | None = None, worker: str | None = None, reason: str = "") -> None:
        """See `Link.tell`."""
        assert endpoint == ENDPOINT
        if worker is not None:
            await self.worker_command(op, worker, reason=reason)
        else:
            await self.command(op, config)

    async def detach(self, endpoint: str, consumer: str) -> None:
        """See `Link.detach`."""
        assert endpoint == ENDPOINT
        self.detached.append(consumer)

    async def recent(self, op: str, kind: str, limit: int) -> list[tuple[str, EventInfo]]:
        """See `Link.recent`."""
        return [(ENDPOINT, info) for info in self._answered(Command(id="", op=op, kind=kind, limit=limit))[0].events]

    async def recent_event(self, event_id: str) -> tuple[str, KeptEvent, bytes] | None:
        """See `Link.recent_event`."""
        reply, parts = self._answered(Command(id="", op="event", event_id=event_id))
        return None if reply.event is None else (ENDPOINT, reply.event, parts[0])

    def _answered(self, command: Command) -> tuple[CommandReply, list[bytes]]:
        if self.gone:
            raise UnreachableError(f"ingest {ENDPOINT} did not answer {command.op!r}")
        return answer(self.kept, command)

    def kill(self) -> None:
        """It was killed, and started again."""
        self.machine, self.run, self.in_flight, self.received = RunControl(), None, 0, 0
        self.programmes = Programmes()
        self.started += 1.0

    def finish_events(self) -> None:
        """Everything in flight is decided."""
        self.in_flight = 0
        self.settle()

    def settle(self) -> None:
        """A stopped run ends when nothing is in flight."""
        if self.in_flight == 0:
            self.machine = self.machine.emptied()

    async def close(self) -> None:
        """See `Link.close`."""
        self.closed = True
