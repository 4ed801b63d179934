"""What the HTTP API says and takes: pydantic models. Times are UTC (ISO 8601), durations in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hltfarm.proto.messages import LedgerCounts, ModelInfo, RunState, WorkerStatus
from hltfarm.service.control.link import IngestView
from hltfarm.service.control.transitions import Progress, Transition
from hltfarm.service.registry import Activation, Outcome, RunCounts, RunRecord, TransitionRecord

#: A menu or a model of the stores: a hash, NAME or NAME@VERSION.
REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$"


class FaultModel(BaseModel):
    """One thing that is wrong with a menu."""

    line: int = Field(description="counted from 1")
    text: str


class Problem(BaseModel):
    """An error, as RFC 9457 (application/problem+json) describes it."""

    type: str = Field(description="urn:hltfarm:error:<class of the error tree>")
    title: str
    status: int
    detail: str
    retryable: bool = Field(description="whether the identical request can succeed later")
    legal: list[str] | None = Field(default=None, description="commands that the present state allows, where it was illegal")
    faults: list[FaultModel] | None = Field(default=None, description="everything that is wrong with a menu, in the order of its lines")


class ProgrammeRequest(BaseModel):
    """Menu and models that are to decide; what is left out stays as it is.

    A model is a shipped one (NAME or NAME@VERSION), an uploaded one (hash, NAME or NAME@VERSION), an absolute folder on the workers'
    machines, or `none`; the empty text, here as for its working point and engine, is what the configuration of the reconstruction says.
    """

    model_config = ConfigDict(extra="forbid")
    menu: str | None = Field(default=None, max_length=1 << 20, description="menu as YAML text; the empty text is the built-in menu")
    menu_ref: str | None = Field(default=None, pattern=REFERENCE, description="menu of the store, by name or hash; `default`: built-in")
    model: str | None = Field(default=None, max_length=4096, description="selector of tracks")
    working_point: str | None = Field(
        default=None, max_length=8, description="of the selector, e.g. 0.99; the default of another model than the present one is its own"
    )
    engine: str | None = Field(default=None, max_length=16, description="of the selector: fused (kernels), or torch: eager, compile, aot")
    event_model: str | None = Field(default=None, max_length=4096, description="classifier of events; a menu cuts on event_score")

    @model_validator(mode="after")
    def _one_menu(self) -> Self:
        if self.menu is not None and self.menu_ref is not None:
            raise ValueError("give menu or menu_ref, not both")
        return self


class ConfigureRequest(ProgrammeRequest):
    """What the next run is to be; what is left out is as the control was started with."""

    detector: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="phase1, a detector file, or a folder with conditions on the ingest's machine",
    )
    run: int | None = Field(default=None, ge=1, lt=1 << 32, description="run number, above every earlier one; default: the next one")


class LoadedModel(BaseModel):
    """A model that takes part in the decision. `working_point` is null for a classifier of events: the menu cuts on its score."""

    name: str
    version: int
    hash: str = Field(description="of all that it computes and decides")
    kind: str
    target: str = Field(description="track or event")
    engine: str
    working_point: str | None

    @classmethod
    def of(cls, info: ModelInfo) -> LoadedModel:
        """From the message."""
        return cls(
            name=info.name,
            version=info.version,
            hash=info.hash,
            kind=info.kind,
            target=info.target,
            engine=info.engine,
            working_point=info.working_point or None,
        )


class Ledger(BaseModel):
    """received = accepted + rejected + error + in_flight; `mismatch` is what is missing to that."""

    received: int
    accepted: int
    rejected: int
    error: int
    in_flight: int
    duplicates: int
    mismatch: int

    @classmethod
    def of(cls, counts: LedgerCounts) -> Ledger:
        """From the message."""
        return cls(
            received=counts.received,
            accepted=counts.accepted,
            rejected=counts.rejected,
            error=counts.error,
            in_flight=counts.in_flight,
            duplicates=counts.duplicates,
            mismatch=counts.mismatch,
        )


class TransitionModel(BaseModel):
    """A command that takes time; poll `/v1/transitions/{id}` until `progress` is done or failed."""

    id: str
    command: str
    run: int | None
    worker: str | None = Field(default=None, description="of a command that concerns one worker")
    progress: Progress
    seconds: float
    error: str | None
    lumisection: int | None = Field(default=None, description="of an exchange: from which it counts")

    @classmethod
    def of(cls, transition: Transition, now: float) -> TransitionModel:
        """From the transition; `now` on the same clock."""
        end = now if transition.ended is None else transition.ended
        return cls(
            id=transition.id,
            command=transition.command,
            run=transition.run,
            worker=transition.worker,
            progress=transition.progress,
            seconds=max(0.0, end - transition.began),
            error=transition.error,
            lumisection=transition.lumisection,
        )

    @classmethod
    def recorded(cls, record: TransitionRecord, now: datetime) -> TransitionModel:
        """From the registry, for one that an earlier control process followed."""
        return cls(
            id=record.id,
            command=record.command,
            run=record.run,
            progress=Progress(record.progress),
            seconds=max(0.0, ((record.ended or now) - record.began).total_seconds()),
            error=record.error,
        )


class RatesModel(BaseModel):
    """Averages over the last seconds."""

    model_config = ConfigDict(from_attributes=True)
    received_hz: float
    decided_hz: float
    accepted_hz: float
    bytes_per_s: float
    over_s: float


class IngestModel(BaseModel):
    """One ingest; `error` says why it does not answer. What only it knows is null then."""

    endpoint: str = Field(description="for the control plane")
    clients_url: str | None = Field(description="where it takes events")
    up: bool
    state: RunState | None
    error: str | None
    clients: int | None
    ledger: Ledger | None = Field(description="of the present run; the books of every ingest close for themselves")

    @classmethod
    def of(cls, view: IngestView) -> IngestModel:
        """From what is known of it."""
        snapshot = view.snapshot
        return cls(
            endpoint=view.endpoint,
            clients_url=None if snapshot is None else snapshot.clients_url,
            up=snapshot is not None,
            state=None if snapshot is None else snapshot.state,
            error=view.error,
            clients=None if snapshot is None else snapshot.clients,
            ledger=None if snapshot is None else Ledger.of(snapshot.ledger),
        )


class Status(BaseModel):
    """The farm now. Numbers of the ingests are null while none answers."""

    state: RunState
    legal: list[str]
    run: int | None
    menu_hash: str | None
    selector: LoadedModel | None = Field(description="of tracks; null where there is none, or no worker is ready yet")
    event_model: LoadedModel | None = Field(description="classifier of events, likewise")
    ledger: Ledger | None = Field(description="of the present run")
    totals: Ledger | None = Field(description="since the ingests started")
    rates: RatesModel
    workers_ready: int
    workers: int
    queue_events: int | None
    clients: int | None
    ready: bool
    problems: list[str]
    ingests: list[IngestModel]
    pending: list[TransitionModel]


class RunModel(BaseModel):
    """One run of the registry."""

    number: int
    farm: str = Field(description="whose run it was, where several farms share a database")
    detector: str
    menu: str
    menu_hash: str
    model: str = Field(description="as asked for; empty: what the configuration of the reconstruction says")
    working_point: str
    engine: str
    event_model: str
    models: list[LoadedModel] | None = Field(description="what the workers loaded; null if the run was not started")
    outcome: Outcome
    created: datetime
    started: datetime | None
    stopped: datetime | None
    ledger: Ledger | None = Field(description="final accounting; null while the run lasts, or if nobody saw its end")

    @classmethod
    def of(cls, record: RunRecord) -> RunModel:
        """From the registry's record."""
        return cls(
            number=record.config.run,
            farm=record.farm,
            detector=record.config.detector,
            menu=record.config.menu,
            menu_hash=record.menu_hash,
            model=record.config.model,
            working_point=record.config.working_point,
            engine=record.config.engine,
            event_model=record.config.event_model,
            models=None if record.models is None else [LoadedModel.of(info) for info in record.models],
            outcome=record.outcome,
            created=record.created,
            started=record.started,
            stopped=record.stopped,
            ledger=None if record.ledger is None else Ledger.of(record.ledger),
        )


class ActivationModel(BaseModel):
    """Menu and models that decided events of a run, from a lumisection on until the next activation."""

    first_lumi: int
    menu_hash: str
    menu: str = Field(description="YAML text; empty: the built-in menu")
    models: list[LoadedModel]
    accepted: int
    rejected: int

    @classmethod
    def of(cls, activation: Activation) -> ActivationModel:
        """From the registry's record."""
        return cls(
            first_lumi=activation.first_lumi,
            menu_hash=activation.menu_hash,
            menu=activation.menu,
            models=[LoadedModel.of(info) for info in activation.models],
            accepted=activation.accepted,
            rejected=activation.rejected,
        )


class RunDetail(RunModel):
    """One run with all that was counted in it."""

    counters: dict[str, dict[str, int]] = Field(
        description="kind -> name -> value: ledger, paths (accepts), prescaled, streams, stream_bytes, failures, refused (frames)"
    )
    counted: datetime | None = Field(description="when the counters were written; every few seconds while the run lasts")
    activations: list[ActivationModel]

    @classmethod
    def with_counts(cls, record: RunRecord, counts: RunCounts, activations: Sequence[Activation]) -> RunDetail:
        """From the registry's records."""
        return cls(
            **RunModel.of(record).model_dump(),
            counters=counts.values,
            counted=counts.counted,
            activations=[ActivationModel.of(activation) for activation in activations],
        )


class RunList(BaseModel):
    """A page of runs, newest first; `next` continues it (`?before=next`)."""

    runs: list[RunModel]
    next: int | None


class ProcessModel(BaseModel):
    """A process of this machine's supervisor. `reason`: why it is quarantined, null if it is not."""

    model_config = ConfigDict(from_attributes=True)
    name: str
    role: str
    phase: str
    pid: int | None
    restarts: int
    last_exit: str | None
    reason: str | None = None


class AddWorker(BaseModel):
    """A worker that is to be started; what is left out is as for the workers that the farm was started with."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="default: worker-N with the next free number"
    )
    backend: Literal["cpu", "cuda", "auto"] | None = None
    device: int | None = Field(default=None, ge=0, le=1023, description="GPU, counted among those that the farm sees")
    threads: int | None = Field(default=None, ge=1, le=1024, description="of the CPU backend")


class QuarantineRequest(BaseModel):
    """Why a worker is taken out of service."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(default="by an operator", min_length=1, max_length=500)


class GpuModel(BaseModel):
    """A worker's GPU, as its driver describes it. `index`: on its host, whatever the worker may see of them."""

    model_config = ConfigDict(from_attributes=True)
    index: int
    uuid: str
    memory_used_bytes: int
    memory_total_bytes: int
    utilization: float = Field(description="share of the time, over the last second or so")


class WorkerModel(BaseModel):
    """A worker as its ingest sees it, and its process if this control supervises it. The ingest knows only workers that joined."""

    name: str
    joined: bool
    backend: str | None = None
    device: str | None = None
    host: str | None = None
    up: bool = False
    ready: bool = False
    credit_events: int = 0
    in_flight: int = 0
    processed: int = 0
    restarts: int = 0
    leaving: bool = False
    quarantined: str | None = Field(default=None, description="why, if it is")
    resident_bytes: int | None = Field(default=None, description="of the process, with the pages of slot rings that it has touched")
    gpu: GpuModel | None = None
    process: ProcessModel | None = None

    @classmethod
    def of(cls, status: WorkerStatus | None, process: ProcessModel | None) -> WorkerModel:
        """From what the ingest and the supervisor know; at least one of them."""
        restarts = process.restarts if process is not None else 0
        if status is None:
            assert process is not None
            return cls(name=process.name, joined=False, restarts=restarts, quarantined=process.reason, process=process)
        used = status.resources
        return cls(
            name=status.name,
            joined=True,
            backend=status.backend,
            device=status.device,
            host=status.host,
            up=status.up,
            ready=status.ready,
            credit_events=status.credit_events,
            in_flight=status.in_flight,
            processed=status.processed,
            restarts=max(restarts, status.restarts),
            leaving=status.leaving,
            quarantined=status.quarantined or (process.reason if process is not None else None),
            resident_bytes=None if used is None else used.resident_bytes,
            gpu=None if used is None or used.gpu is None else GpuModel.model_validate(used.gpu),
            process=process,
        )


class WorkerList(BaseModel):
    """All workers."""

    workers: list[WorkerModel]


class Live(BaseModel):
    """KServe v2 liveness."""

    live: bool


class Ready(BaseModel):
    """KServe v2 readiness, with the reasons where it is not."""

    ready: bool
    reasons: list[str]


class Server(BaseModel):
    """KServe v2 server metadata."""

    name: str
    version: str
    extensions: list[str]
