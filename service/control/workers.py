"""Workers over HTTP: what the ingests know of them, the processes that this machine's supervisor runs, and commands on both."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import APIRouter, HTTPException, Query, Response

from hltfarm.service.control.context import Context, ContextDep
from hltfarm.service.control.models import AddWorker, QuarantineRequest, TransitionModel, WorkerList, WorkerModel
from hltfarm.service.control.runs import NOT_FOUND, PROBLEMS
from hltfarm.service.control.transitions import Transition
from hltfarm.service.control.worker_control import WorkerControl

router = APIRouter(prefix="/v1/workers", tags=["workers"])
T = TypeVar("T")
_RESPONSES = NOT_FOUND | {409: PROBLEMS[409], 503: PROBLEMS[503]}


def _workers(context: Context) -> WorkerControl:
    return WorkerControl(context.farm, context.supervisor)


async def _of(name: str, call: Awaitable[T]) -> T:
    """What a command on a worker gives; 404 if there is no such worker."""
    try:
        return await call
    except KeyError:
        raise HTTPException(404, f"worker {name!r} is not known") from None


def _accepted(context: Context, response: Response, transition: Transition) -> TransitionModel:
    response.headers["Location"] = f"/v1/transitions/{transition.id}"
    return TransitionModel.of(transition, context.farm.now)


@router.get("")
async def workers(context: ContextDep) -> WorkerList:
    """Every worker that joined an ingest or is run by this machine's supervisor."""
    return WorkerList(workers=list((await _workers(context).all()).values()))


@router.post("", status_code=202, responses={409: PROBLEMS[409], 422: PROBLEMS[422]})
async def add(context: ContextDep, response: Response, request: AddWorker | None = None) -> TransitionModel:
    """Start one more worker on this machine, until the farm ends; done when it has joined. The body may be left out."""
    return _accepted(context, response, await _workers(context).add(request or AddWorker()))


@router.get("/{name}", responses=NOT_FOUND)
async def worker(context: ContextDep, name: str) -> WorkerModel:
    """One worker."""
    found = (await _workers(context).all()).get(name)
    if found is None:
        raise HTTPException(404, f"worker {name!r} is not known")
    return found


@router.post("/{name}/drain", status_code=202, responses=_RESPONSES)
async def drain(context: ContextDep, response: Response, name: str) -> TransitionModel:
    """The worker finishes what it has and leaves; it is not started again before it is released."""
    return _accepted(context, response, await _of(name, _workers(context).drain(name)))


@router.post("/{name}/restart", status_code=202, responses=_RESPONSES)
async def restart(
    context: ContextDep, response: Response, name: str, now: Annotated[bool, Query(description="kill it instead of draining it")] = False
) -> TransitionModel:
    """Drain (or kill) the worker and start it again; done when it has joined."""
    return _accepted(context, response, await _of(name, _workers(context).restart(name, now)))


@router.post("/{name}/quarantine", status_code=202, responses=_RESPONSES)
async def quarantine(context: ContextDep, response: Response, name: str, request: QuarantineRequest | None = None) -> TransitionModel:
    """Take the worker out of service until it is released. The body, with the reason, may be left out."""
    asked = request or QuarantineRequest()
    return _accepted(context, response, await _of(name, _workers(context).quarantine(name, asked.reason)))


@router.post("/{name}/release", responses=_RESPONSES)
async def release(context: ContextDep, name: str) -> WorkerModel:
    """Let a worker work again that is quarantined, drained or waits for its restart; a process starts with a clean record."""
    await _of(name, _workers(context).release(name))
    return await worker(context, name)


@router.delete("/{name}", status_code=202, responses=_RESPONSES)
async def forget(context: ContextDep, response: Response, name: str) -> TransitionModel:
    """Drain the worker and keep its process no longer."""
    return _accepted(context, response, await _of(name, _workers(context).forget(name)))
