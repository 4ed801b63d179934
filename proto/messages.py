"""Messages between the control plane and an ingest (JSON, one per ZeroMQ frame), and the state names both use.

The event path does not use these: its frames are binary (wire.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec


class RunState(StrEnum):
    """Run states; names as CMS run control uses them."""

    HALTED = "Halted"
    CONFIGURED = "Configured"
    RUNNING = "Running"
    PAUSED = "Paused"
    DRAINING = "Draining"
    RUNNING_DEGRADED = "RunningDegraded"
    ERROR = "Error"


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the result of an event, apart from the event.

    Models and engine: empty is what the reconstruction's configuration says, the model "none" is no model.
    """

    run: int
    detector: str = "phase1"  # "phase1", a detector file, or a data directory with conditions
    menu: str = ""  # YAML text; empty: the default menu
    model: str = ""  # selector of tracks: a shipped model, or a folder on the workers' machines
    working_point: str = ""  # of the selector; empty: its own default
    engine: str = ""  # how the selector is computed
    event_model: str = ""  # classifier of events, as `model`


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model that takes part in the decision, as a worker loaded it.

    `working_point`: the one that selects tracks; empty for a classifier of events, on whose score the menu cuts.
    """

    target: str  # "track" or "event"
    name: str
    version: int
    hash: str
    kind: str
    engine: str
    working_point: str
    features: tuple[str, ...]  # what it reads, in this order
    working_points: dict[str, dict[str, float]]  # thresholds of every one that it has

    @property
    def label(self) -> str:
        """Name and hash, for metrics and messages."""
        return f"{self.name}:{self.hash}"


def menu_id(menu_hash: str) -> int:
    """A menu's hash (hexadecimal) as the number that decisions carry, 0 for none."""
    return int(menu_hash or "0", 16)


def models_id(models: Sequence[ModelInfo]) -> int:
    """64 bits that identify what the models of a programme decide: hashes, working points and engines. 0 without a model."""
    if not models:
        return 0
    text = ";".join(f"{model.target}:{model.hash}:{model.working_point}:{model.engine}" for model in models)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def models_text(models: Sequence[ModelInfo]) -> str:
    """Labels of models in one word, "none" without one."""
    return ",".join(model.label for model in models) or "none"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the control plane. `op` is one of OPS. Those of WORKER_OPS concern the worker of the name `worker`.

    `prepare` (config): the workers build another programme for the run. `activate` (lumi): it decides from that lumisection on, 0 for
    the next one; repeated with its config, it moves what has not begun. `discard`: it is not wanted any more; with its config also where it
    is active and has not begun. `shadow` (config, fraction): a programme that decides a share of the events beside the active one, without
    effect; `shadow_end` ends that. `detach` (consumer): wait no longer for a consumer of the output. `leave`: this ingest ends its run as
    with `stop`, however long what is in flight takes, and takes part in no other (`leaving` in the info of its snapshots).
    `pid`: the process that ended (worker_lost), 0 if that is not known. `reason`: why a worker is put into quarantine.
    `events` (kind, limit): the latest events that are kept, of a kind or of both. `failures` (limit): the latest of the error stream.
    `event` (event_id): one that is kept; its payload is a frame behind the reply.
    """

    id: str
    op: str
    config: RunConfig | None = None
    worker: str | None = None
    lumi: int = 0
    fraction: float = 0.0
    consumer: str | None = None
    pid: int = 0
    reason: str = ""
    kind: str = ""
    limit: int = 0
    event_id: str = ""


#: Commands that change what decides in an open run.
PROGRAMME_OPS = ("prepare", "activate", "discard", "shadow", "shadow_end")
#: A worker's process ended; it is to finish and leave; it is to get no more work; it may have work again.
WORKER_OPS = ("worker_lost", "worker_drain", "worker_quarantine", "worker_release")
#: Questions about events, which change nothing.
EVENT_OPS = ("events", "failures", "event")
COMMAND_OPS = ("configure", "start", "pause", "resume", "drain", "stop", "reset", "detach", "leave")
OPS = (*COMMAND_OPS, "snapshot", *WORKER_OPS, *PROGRAMME_OPS, *EVENT_OPS)

#: Kinds of events that are kept.
ACCEPTED, FAILED = "accepted", "error"


class EventInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was decided. `id`: by which its ingest finds it, empty where no copy is kept. `decided_at`: seconds since 1970.

    Of an accepted event: `paths`, `streams`, `digest` (16 hexadecimal digits). Of one of the error stream: `reason`, `error`, the last
    `worker` that had it, the `stage` in which it failed, as far as it is known, and its `bundle` below the folder of the errors.
    """

    id: str
    kind: str
    run: int
    lumi: int
    event: int
    bx: int
    decided_at: float
    size_bytes: int
    attempts: int
    worker: str = ""
    paths: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    digest: str = ""
    reason: str = ""
    error: str = ""
    stage: str = ""
    bundle: str = ""


class KeptEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is kept, with what decided it; empty where no worker had built that."""

    info: EventInfo
    config: RunConfig
    menu_hash: str
    models: tuple[ModelInfo, ...]
    conditions: str


class CommandReply(msgspec.Struct, frozen=True, kw_only=True):
    """`error` is None on success; `legal` lists the commands that the state allows when it was illegal.

    `events`, `event`: answers to the questions about events; no snapshot comes with them. `event` is None for one that is not kept.
    """

    id: str
    error: str | None = None
    legal: tuple[str, ...] = ()
    snapshot: Snapshot | None = None
    events: tuple[EventInfo, ...] = ()
    event: KeptEvent | None = None


class Histogram(msgspec.Struct, kw_only=True):
    """Histogram, not cumulative: counts[i] for values <= bounds[i], the last for the rest. Seconds unless named otherwise."""

    bounds: list[float]
    counts: list[int]
    sum: float = 0.0


class LedgerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The accounting of one run: received = accepted + rejected + error + in_flight."""

    received: int = 0
    accepted: int = 0
    rejected: int = 0
    error: int = 0
    in_flight: int = 0
    duplicates: int = 0  # resent events that were recognised; not part of `received`

    @property
    def mismatch(self) -> int:
        return self.received - self.accepted - self.rejected - self.error - self.in_flight


class GpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """The GPU of a worker, as its driver describes it. `index`: on its host; `utilization`: share of the last second or so."""

    index: int
    uuid: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilization: float


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process uses. `resident_bytes` includes the pages of slot rings that it has touched."""

    resident_bytes: int
    gpu: GpuUse | None = None


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as an ingest sees it. `quarantined`: why an operator took it out of service, empty if nobody did."""

    name: str
    backend: str
    device: str
    up: bool
    ready: bool
    credit_events: int
    in_flight: int
    processed: int
    restarts: int = 0
    pid: int = 0
    host: str = ""
    canary_at: float = 0.0  # when its last good answer to a canary came, seconds since 1970; 0 if none did
    canary_age_s: float = -1.0  # the same as an age; -1 if none did
    canary_failures: int = 0
    distrusted: str = ""  # why it gets no events although it could, empty for nearly all
    leaving: bool = False
    quarantined: str = ""
    resources: Resources | None = None


class Programme(msgspec.Struct, frozen=True, kw_only=True):
    """Menu and models that decide the events of a run from a lumisection on, until that of the next programme.

    `config`: what was asked for; the rest is what the workers built of it. Each decision names `menu_hash` and `models_id(models)`.
    """

    generation: int  # number of the programme in its ingest
    first_lumi: int
    config: RunConfig
    menu_hash: str
    models: tuple[ModelInfo, ...]
    conditions: str  # digest of the detector description
    accepted: int
    rejected: int


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A programme that is being prepared. `waits_for`: workers that have not built it yet; `error`: why one could not."""

    config: RunConfig
    waits_for: tuple[str, ...]
    error: str | None = None

    @property
    def prepared(self) -> bool:
        return self.error is None and not self.waits_for


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """What a shadow programme would have decided, beside what was decided, of the events it saw.

    `matrix`: events by both decisions, (active accepts, shadow accepts), as [both, active only, shadow only, neither].
    `paths`: the same three first numbers for every path that one of the two menus has. `failed`: events that the shadow could not process.
    """

    config: RunConfig
    fraction: float
    menu_hash: str
    models: tuple[ModelInfo, ...]
    waits_for: tuple[str, ...]
    error: str | None
    events: int
    matrix: tuple[int, int, int, int]
    paths: dict[str, tuple[int, int, int]]
    failed: int


class ConsumerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer of the output stream. `mode`: monitor or lossless; no `streams`: all. `waiting`: events kept in flight for it."""

    name: str
    mode: str
    streams: tuple[str, ...]
    present: bool
    sent: int
    missed: int
    waiting: int
    silent_s: float


class OutputStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where accepted events of one ingest go; counters since it started. `free_bytes`: of the disk, -1 if there are no files."""

    folder: str
    url: str
    fsync: str
    waiting_events: int
    open_files: int
    closed_files: int
    closed_bytes: int
    fsyncs: int
    removed_files: int
    removed_bytes: int
    recovered_files: int
    recovered_events: int
    free_bytes: int
    sent_events: int
    sent_bytes: int
    consumers: tuple[ConsumerStatus, ...]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """State and monotonic counters of an ingest since its start (`ledger`: of the present run)."""

    state: RunState
    run: int | None
    ledger: LedgerCounts
    totals: LedgerCounts
    workers: list[WorkerStatus]
    queue_events: int
    slots_free: int
    slots_total: int
    clients: int
    ingest_bytes: int
    frames_refused: dict[str, int]  # WireCode name -> count
    failures: dict[str, int]  # reason -> events that went to the error stream
    path_accepts: dict[str, int]
    path_prescaled: dict[str, int]
    stream_events: dict[str, int]
    stream_bytes: dict[str, int]
    backpressure_seconds: dict[str, float]  # cause -> seconds without credit to give
    event_latency: Histogram
    stage_duration: dict[str, Histogram]
    batch_events: Histogram
    menu_hash: str
    models: tuple[ModelInfo, ...] = ()  # known, as the menu's hash is, from the first worker that is ready
    programmes: tuple[Programme, ...] = ()  # of the present run, in order of their first lumisections
    pending: Pending | None = None
    shadow: Shadow | None = None
    lumi: int = 0  # highest lumisection of the run so far, 0 before the first event
    problems: list[str]  # why the state is RunningDegraded or Error, in words
    clients_url: str = ""  # where this ingest takes events; empty in a sum over several
    canary_s: float = 0.0  # time between two canaries of a worker, 0 for none
    started: float = 0.0  # when this ingest did, seconds since 1970; in a sum: the latest
    last_decision: float = 0.0  # when an event was decided last, likewise; 0 if none was
    path_events: dict[str, int] = {}  # events decided by a menu that has the path: what its accepts are a share of
    event_flags: dict[str, int] = {}  # EventFlag name -> events decided by a menu that had the condition
    objects: dict[str, int] = {}  # field of RESULT -> its sum over the events decided by a menu
    disks: dict[str, tuple[int, int]] = {}  # what is written there -> (free, size) of its file system in bytes; empty in a sum
    outputs: tuple[OutputStatus, ...] = ()  # one for each ingest that has an output
    info: dict[str, Any] = {}
