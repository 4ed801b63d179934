"""The output of accepted events over HTTP: files and consumers of every ingest."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from hltfarm.service.control.context import ContextDep
from hltfarm.service.control.runs import NOT_FOUND

router = APIRouter(prefix="/v1/outputs", tags=["outputs"])


class ConsumerModel(BaseModel):
    """A consumer of the output stream."""

    model_config = ConfigDict(from_attributes=True)
    name: str
    mode: str = Field(description="monitor: gets what it has time for; lossless: events stay in flight until it has them")
    streams: list[str] = Field(description="empty: all")
    present: bool
    sent: int
    missed: int = Field(description="events for which it had given no credit, in its session")
    waiting: int = Field(description="events that are kept in flight for it")
    silent_s: float


class OutputModel(BaseModel):
    """Where the accepted events of one ingest go; counters since it started."""

    model_config = ConfigDict(from_attributes=True)
    folder: str = Field(description="of its files; empty if it writes none")
    url: str = Field(description="where consumers subscribe; empty for nowhere")
    fsync: str
    waiting_events: int = Field(description="accepted events that wait in flight for a file or a consumer")
    open_files: int
    closed_files: int
    closed_bytes: int
    fsyncs: int
    removed_files: int
    removed_bytes: int
    recovered_files: int
    recovered_events: int
    free_bytes: int = Field(description="on the disk of the files; -1 if there are none")
    sent_events: int
    sent_bytes: int
    consumers: list[ConsumerModel]


class OutputList(BaseModel):
    """One for each ingest that answers and has an output."""

    outputs: list[OutputModel]


@router.get("")
async def outputs(context: ContextDep) -> OutputList:
    """Files and consumers of every ingest."""
    view = await context.farm.look(max_age_s=0.1)
    found = () if view.snapshot is None else view.snapshot.outputs
    return OutputList(outputs=[OutputModel.model_validate(output) for output in found])


@router.post("/consumers/{name}/detach", responses=NOT_FOUND)
async def detach(context: ContextDep, name: str) -> OutputList:
    """Wait no longer for a consumer: its subscriptions end, and events that only it had not confirmed are decided."""
    if not await context.farm.detach(name):
        raise HTTPException(404, f"no ingest has a consumer {name!r}")
    return await outputs(context)
