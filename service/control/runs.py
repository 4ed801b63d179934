"""Run control, status, transitions and the run registry over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Response

from hltfarm.service.control.context import Context, ContextDep, RoleDep
from hltfarm.service.control.models import (
    ConfigureRequest,
    IngestModel,
    Ledger,
    LoadedModel,
    Problem,
    RatesModel,
    RunDetail,
    RunList,
    RunModel,
    Status,
    TransitionModel,
)
from hltfarm.service.control.transitions import Transition
from hltfarm.service.registry import LARGEST_RUN, Registry
from hltfarm.service.runcontrol import legal

router = APIRouter(prefix="/v1", tags=["runs"])

_MEDIA = {"application/problem+json": {"schema": Problem.model_json_schema()}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    409: {"description": "Illegal in the present state; `legal` lists what is not.", "content": _MEDIA},
    422: {"description": "A configuration that cannot be used.", "content": _MEDIA},
    502: {"description": "An ingest could not carry the command out.", "content": _MEDIA},
    503: {"description": "No ingest answers.", "content": _MEDIA},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "Not known.", "content": _MEDIA}}


def status_of(context: Context) -> Status:
    """The farm by the last look."""
    farm, view = context.farm, context.farm.view
    snapshot = view.snapshot
    models = {} if snapshot is None else {info.target: LoadedModel.of(info) for info in snapshot.models}
    return Status(
        state=view.state,
        legal=list(legal(view.state)),
        run=None if snapshot is None else snapshot.run,
        menu_hash=None if snapshot is None else snapshot.menu_hash,
        selector=models.get("track"),
        event_model=models.get("event"),
        ledger=None if snapshot is None else Ledger.of(snapshot.ledger),
        totals=None if snapshot is None else Ledger.of(snapshot.totals),
        rates=RatesModel.model_validate(farm.rates),
        workers_ready=0 if snapshot is None else sum(worker.up and worker.ready for worker in snapshot.workers),
        workers=0 if snapshot is None else len(snapshot.workers),
        queue_events=None if snapshot is None else snapshot.queue_events,
        clients=None if snapshot is None else snapshot.clients,
        ready=not farm.not_ready(),
        problems=farm.problems,
        ingests=[IngestModel.of(ingest) for ingest in view.ingests],
        pending=[TransitionModel.of(item, farm.now) for item in farm.transitions.pending()],
    )


def accepted(context: Context, response: Response, transition: Transition) -> TransitionModel:
    """The answer to a command that takes a while."""
    response.headers["Location"] = f"/v1/transitions/{transition.id}"
    return TransitionModel.of(transition, context.farm.now)


@router.get("/status")
async def status(context: ContextDep) -> Status:
    """State, legal commands, ledger, rates, workers and problems of the farm."""
    await context.farm.look(max_age_s=0.1)
    return status_of(context)


@router.post("/control/configure", status_code=202, responses=PROBLEMS)
async def configure(context: ContextDep, role: RoleDep, response: Response, request: ConfigureRequest | None = None) -> TransitionModel:
    """Give the farm its configuration and the next run number. The body may be left out."""
    asked = request or ConfigureRequest()
    transition = await context.farm.configure(await context.library.config(asked, context.farm.defaults, role))
    return accepted(context, response, transition)


async def _quick(context: Context, command: str) -> Status:
    await context.farm.command(command)
    return status_of(context)


async def _long(context: Context, response: Response, command: str) -> TransitionModel:
    transition = await context.farm.command(command)
    assert transition is not None, command
    return accepted(context, response, transition)


@router.post("/control/start", responses=PROBLEMS)
async def start(context: ContextDep) -> Status:
    """Begin the configured run; if that run took place already, the same configuration gets the next run number."""
    return await _quick(context, "start")


@router.post("/control/pause", responses=PROBLEMS)
async def pause(context: ContextDep) -> Status:
    """Take no new events; those in flight are decided."""
    return await _quick(context, "pause")


@router.post("/control/resume", responses=PROBLEMS)
async def resume(context: ContextDep) -> Status:
    """Take events again."""
    return await _quick(context, "resume")


@router.post("/control/reset", responses=PROBLEMS)
async def reset(context: ContextDep) -> Status:
    """Give up whatever goes on and be Halted; events in flight go to the error stream. Automatic start is off from here on."""
    return await _quick(context, "reset")


@router.post("/control/drain", status_code=202, responses=PROBLEMS)
async def drain(context: ContextDep, response: Response) -> TransitionModel:
    """Take no new events and wait until all in flight are decided; the run stays open until `stop`."""
    return await _long(context, response, "drain")


@router.post("/control/stop", status_code=202, responses=PROBLEMS)
async def stop(context: ContextDep, response: Response) -> TransitionModel:
    """End the run: no new events, those in flight are decided, then the ledger is closed."""
    return await _long(context, response, "stop")


@router.get("/transitions/{transition_id}", responses=NOT_FOUND)
async def transition(context: ContextDep, transition_id: Annotated[str, Path(pattern=r"^[0-9A-Za-z-]{1,32}$")]) -> TransitionModel:
    """How far a configure, drain or stop is."""
    await context.farm.look(max_age_s=0.1)
    found = context.farm.transitions.get(transition_id)
    if found is not None:
        return TransitionModel.of(found, context.farm.now)
    record = await context.farm.registry(lambda registry: registry.journal.transition_of(transition_id))
    if record is None:
        raise HTTPException(404, f"transition {transition_id!r} is not known")
    return TransitionModel.recorded(record, datetime.now(UTC))


@router.get("/runs")
async def runs(
    context: ContextDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_RUN, description="only runs below this number")] = None,
) -> RunList:
    """The run registry, newest first."""
    records = await context.farm.registry(lambda registry: registry.runs.page(limit, before))
    more = records[-1].config.run if len(records) == limit and records[-1].config.run > 1 else None
    return RunList(runs=[RunModel.of(record) for record in records], next=more)


@router.get("/runs/{number}", responses=NOT_FOUND)
async def run(context: ContextDep, number: Annotated[int, Path(ge=1, le=LARGEST_RUN)]) -> RunDetail:
    """One run: configuration, times, final ledger, what was counted, what decided from which lumisection."""

    def detail(registry: Registry) -> RunDetail | None:
        record = registry.runs.get(number)
        return (
            None if record is None else RunDetail.with_counts(record, registry.counters.get(number), registry.counters.activations(number))
        )

    found = await context.farm.registry(detail)
    if found is None:
        raise HTTPException(404, f"run {number} is not in the registry")
    return found
