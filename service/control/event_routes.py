"""Events over HTTP: the latest ones that the ingests keep, drawn and raw, and what is in the error stream."""

from __future__ import annotations

import asyncio
import tempfile
from enum import StrEnum
from pathlib import Path as File
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response

from hltfarm.loadgen.sample import SampleWriter
from hltfarm.proto.detector import load_detector
from hltfarm.proto.errors import ConditionsError, SampleError
from hltfarm.proto.messages import ACCEPTED, FAILED, KeptEvent
from hltfarm.service.control.context import Context, ContextDep
from hltfarm.service.control.display import CannotShowError, event_of
from hltfarm.service.control.event_models import ErrorList, ErrorModel, EventDisplay, EventList, EventModel, display
from hltfarm.service.control.models import Problem
from hltfarm.service.control.packed import json_answer
from hltfarm.service.control.runs import NOT_FOUND

router = APIRouter(prefix="/v1", tags=["console"])

_MEDIA = {"application/problem+json": {"schema": Problem.model_json_schema()}}
_NO_ANSWER: dict[int | str, dict[str, Any]] = {
    502: {"description": "An ingest refused to answer.", "content": _MEDIA},
    503: {"description": "No ingest answers.", "content": _MEDIA},
}
_NOT_SHOWN: dict[int | str, dict[str, Any]] = {
    **NOT_FOUND,
    502: _NO_ANSWER[502],
    503: {"description": "It cannot be reconstructed here, too many are asked for at a time, or no ingest answers.", "content": _MEDIA},
    504: {"description": "The reconstruction was given up after its time limit.", "content": _MEDIA},
}
EventIdPath = Annotated[str, Path(pattern=r"^[0-9a-f]{8}-[0-9]{1,15}$", description="`id` of the list")]
Limit = Annotated[int, Query(ge=1, le=256)]


class Kind(StrEnum):
    """Which events."""

    ACCEPTED = ACCEPTED
    ERROR = FAILED


class Quality(StrEnum):
    """Which tracks: loose ones and better, or every candidate that was fitted."""

    LOOSE = "loose"
    ALL = "all"


@router.get("/events", responses=_NO_ANSWER)
async def events(
    context: ContextDep,
    kind: Annotated[Kind | None, Query(description="accepted ones or those of the error stream; left out: both")] = None,
    limit: Limit = 50,
) -> EventList:
    """The latest events that the ingests keep, newest first."""
    found = await context.link.recent("events", "" if kind is None else str(kind), limit)
    found.sort(key=lambda item: item[1].decided_at, reverse=True)
    return EventList(events=[EventModel.of(endpoint, info) for endpoint, info in found[:limit]])


@router.get("/errors", responses=_NO_ANSWER)
async def errors(context: ContextDep, limit: Limit = 50) -> ErrorList:
    """The latest events of the error stream over all ingests, newest first, also those of which no copy is kept."""
    found = await context.link.recent("failures", "", limit)
    found.sort(key=lambda item: item[1].decided_at, reverse=True)
    return ErrorList(errors=[ErrorModel.of(endpoint, info) for endpoint, info in found[:limit]])


async def _find(context: Context, event_id: str) -> tuple[str, KeptEvent, bytes]:
    looked_at = context.display.looked_at
    found = looked_at.get(event_id)
    if found is None:
        found = await context.link.recent_event(event_id)
        if found is None:
            raise HTTPException(404, f"no ingest has the event {event_id} (any more); they keep the latest ones")
        looked_at.keep(event_id, found)
    return found


@router.get("/events/{event_id}", response_model=EventDisplay, responses=_NOT_SHOWN)
async def event(context: ContextDep, request: Request, event_id: EventIdPath, quality: Quality = Quality.LOOSE) -> Response:
    """One event, reconstructed again on the CPU of the control plane by what decided it, as columns to be drawn."""
    endpoint, kept, payload = await _find(context, event_id)
    shown = await context.display.show(kept, payload)
    content = await asyncio.to_thread(display, endpoint, kept, shown, every_track=quality is Quality.ALL)
    return await json_answer(content, request.headers)


@router.get(
    "/events/{event_id}/raw",
    response_class=Response,
    responses={
        **_NOT_SHOWN,
        200: {"content": {"application/octet-stream": {}}, "description": "A sample of one event (docs/sample-format.md)."},
    },
)
async def raw_event(context: ContextDep, event_id: EventIdPath) -> Response:
    """The raw event as a sample of one event, which `hltfarm reco` reads."""
    _, kept, payload = await _find(context, event_id)
    info = kept.info
    name = f"run{info.run}-lumi{info.lumi}-event{info.event}.hlt"
    body = await asyncio.to_thread(_sample, kept, payload)
    return Response(body, headers={"Content-Disposition": f'attachment; filename="{name}"'}, media_type="application/octet-stream")


def _sample(kept: KeptEvent, payload: bytes) -> bytes:
    """The file. A detector that this machine does not have is named in it, not embedded. Raises CannotShowError for a full disk."""
    try:
        detector = load_detector(kept.config.detector)
    except ConditionsError:
        detector = None
    about = {
        "origin": "recent event",
        "detector_spec": kept.config.detector,
        "menu_hash": kept.menu_hash,
        "info": msgspec.to_builtins(kept.info),
    }
    try:
        with tempfile.TemporaryDirectory(prefix="hltfarm-raw-") as folder:
            file = File(folder) / "event.hlt"
            with SampleWriter(file, about, detector=detector) as writer:
                writer.add(event_of(kept, payload))
            return file.read_bytes()
    except (OSError, SampleError) as error:
        raise CannotShowError(f"the sample cannot be written: {error}") from error
