"""Health on the paths of the KServe v2 protocol."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hltfarm.service.control.context import ContextDep
from hltfarm.service.control.models import Live, Ready, Server

router = APIRouter(prefix="/v2", tags=["health"])


@router.get("")
async def server(context: ContextDep) -> Server:
    """Server metadata."""
    return Server(name="hltfarm", version=context.version, extensions=[])


@router.get("/health/live", responses={503: {"model": Live, "description": "The monitor of the farm has ended; restart this process."}})
async def live(context: ContextDep, response: Response) -> Live:
    """The control process serves requests and watches the farm."""
    alive = context.watching()
    if not alive:
        response.status_code = 503
    return Live(live=alive)


@router.get("/health/ready", responses={503: {"model": Ready, "description": "Events would not be taken or not be decided."}})
async def ready(context: ContextDep, response: Response) -> Ready:
    """Whether the farm can be given events: it runs, workers hold credit, and what is in flight gets decided."""
    await context.farm.look(max_age_s=0.2)
    reasons = context.farm.not_ready()
    if reasons:
        response.status_code = 503
    return Ready(ready=not reasons, reasons=reasons)
