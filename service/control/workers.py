"""Workers over HTTP: what the ingests know of them, and the processes that this machine's supervisor runs."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException

from hltfarm.service.control.context import Context, ContextDep
from hltfarm.service.control.models import WorkerList, WorkerModel
from hltfarm.service.control.runs import NOT_FOUND

router = APIRouter(prefix="/v1/workers", tags=["workers"])


async def _all(context: Context) -> dict[str, WorkerModel]:
    view = await context.farm.look(max_age_s=0.1)
    joined = {} if view.snapshot is None else {worker.name: worker for worker in view.snapshot.workers}
    supervised = context.supervisor.processes() if context.supervisor is not None else ()
    processes = {process.name: process for process in supervised if process.role == "worker"}
    names = sorted({*joined, *processes})
    return {name: WorkerModel.of(joined.get(name), processes.get(name)) for name in names}


@router.get("")
async def workers(context: ContextDep) -> WorkerList:
    """Every worker that joined an ingest or is run by this machine's supervisor."""
    return WorkerList(workers=list((await _all(context)).values()))


@router.get("/{name}", responses=NOT_FOUND)
async def worker(context: ContextDep, name: str) -> WorkerModel:
    """One worker."""
    found = (await _all(context)).get(name)
    if found is None:
        raise HTTPException(404, f"worker {name!r} is not known")
    return found


@router.post("/{name}/release", responses=NOT_FOUND | {409: {"description": "The worker is neither quarantined nor waiting."}})
async def release(context: ContextDep, name: str) -> WorkerModel:
    """Start a quarantined worker (or one that waits for its restart) now, with a clean record."""
    if context.supervisor is None:
        raise HTTPException(404, f"worker {name!r}: this control supervises no processes; use what started it")
    try:
        released = context.supervisor.release(name)
    except KeyError:
        raise HTTPException(404, f"worker {name!r} is not supervised here") from None
    if not released:
        raise HTTPException(409, f"worker {name!r} is neither quarantined nor waiting for a restart")
    return await worker(context, name)
