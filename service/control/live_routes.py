"""Over HTTP: the last minutes, and the paths that decide. What the web console draws its plots from."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from pathlib import Path as File
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from hltfarm.proto.detector import load_detector
from hltfarm.proto.errors import ConditionsError
from hltfarm.service.control.context import ContextDep
from hltfarm.service.control.display import CannotShowError
from hltfarm.service.control.event_models import BeamSpotModel
from hltfarm.service.control.exchange_routes import wilson
from hltfarm.service.control.geometry import geometry as drawn
from hltfarm.service.control.history import columns
from hltfarm.service.control.models import Problem
from hltfarm.service.control.packed import json_answer
from hltfarm.service.control.programmes import current
from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu
from hltfarm.workers.menu.menu import Path as MenuPath

router = APIRouter(prefix="/v1", tags=["console"])

Numbers = list[float | None]
_LAST = "of the second before `time`; null where no ingest answered, or the counting began anew"


class HistoryModel(BaseModel):
    """The last 15 minutes, one sample a second, as columns of one length; oldest first."""

    interval_s: float
    time: list[float] = Field(description="seconds since 1970")
    state: list[str]
    received_hz: Numbers = Field(description=_LAST)
    accepted_hz: Numbers
    rejected_hz: Numbers
    error_hz: Numbers
    in_flight: list[int | None]
    mb_per_s: Numbers = Field(description="payload bytes, 10^6 a second")
    latency_p50_ms: Numbers = Field(
        description="from receipt to decision, linear within the bins of the histogram; null where nothing was decided"
    )
    latency_p99_ms: Numbers
    workers_ready: list[int | None]
    workers: list[int | None]
    paths: dict[str, Numbers] = Field(description="accepted events per second of each path; null where it was not known")
    stages_ms: dict[str, Numbers] = Field(description="mean time of each stage of a batch; null where none ran")


class PathModel(BaseModel):
    """A path of the menus that decide the present run. Counts since the ingests started."""

    name: str
    stream: str
    prescale: int = Field(description="0: it accepts nothing")
    description: str
    active: bool = Field(description="whether the menu of the present lumisection has it")
    events: int = Field(description="decided by a menu that has the path")
    accepted: int
    prescaled: int = Field(description="accepts that the prescale dropped")
    rate_hz: float = Field(description="accepted, over the last ten seconds")
    fraction: float = Field(description="accepted / events")
    fraction_low: float = Field(description="lower end of its 68 % interval (Wilson)")
    fraction_high: float


class PathList(BaseModel):
    """Paths in the order of the menu of the present lumisection, then those of others. `menu`: its hash, null without a run."""

    menu: str | None
    paths: list[PathModel]


class LayerModel(BaseModel):
    """A layer of the detector, cm."""

    id: int
    name: str
    part: Literal["barrel", "endcap"]
    r_min: float
    r_max: float
    z_min: float
    z_max: float
    modules: int


class ModuleColumns(BaseModel):
    """`layer` of each module; `corners`: four points of three coordinates for each, in order around it, one after the other."""

    layer: list[int]
    corners: list[float]


class GeometryModel(BaseModel):
    """The detector as it is drawn. cm, in the global frame."""

    detector: str
    layers: list[LayerModel]
    modules: ModuleColumns
    beam_spot: BeamSpotModel
    field_tesla: float


@router.get("/history", response_model=HistoryModel)
async def history(
    context: ContextDep,
    request: Request,
    since: Annotated[float | None, Query(ge=0, lt=1e11, description="only what is newer than this `time`", allow_inf_nan=False)] = None,
) -> Response:
    """Rates, latency and workers of the last 15 minutes. Poll it with the last `time` to get what came since."""
    found = {"interval_s": context.history.interval_s, **columns(context.history.after(since))}
    return await json_answer(found, request.headers)


@lru_cache(maxsize=16)
def _paths_of(menu: str) -> tuple[MenuPath, ...]:
    return Menu.parse(menu or DEFAULT_MENU).paths


@router.get("/paths")
async def paths(context: ContextDep) -> PathList:
    """Paths of the menus that decide the present run, with what they accepted."""
    view = await context.farm.look(max_age_s=0.25)
    snapshot = view.snapshot
    if snapshot is None or snapshot.run is None or not snapshot.programmes:
        return PathList(menu=None, paths=[])
    present = current(snapshot)
    assert present is not None, "there are programmes"
    active = _paths_of(present.config.menu)
    found = {path.name: path for programme in snapshot.programmes for path in _paths_of(programme.config.menu)}
    names = [*(path.name for path in active), *sorted(found.keys() - {path.name for path in active})]
    found |= {path.name: path for path in active}
    rates = context.history.path_rates()
    rows = []
    for name in names:
        path, events, accepted = found[name], snapshot.path_events.get(name, 0), snapshot.path_accepts.get(name, 0)
        low, high = wilson(min(accepted, events), events)
        rows.append(
            PathModel(
                name=name,
                stream=path.stream,
                prescale=path.prescale,
                description=path.description,
                active=path in active,
                events=events,
                accepted=accepted,
                prescaled=snapshot.path_prescaled.get(name, 0),
                rate_hz=rates.get(name, 0.0),
                fraction=accepted / events if events else 0.0,
                fraction_low=low,
                fraction_high=high,
            )
        )
    return PathList(menu=present.menu_hash, paths=rows)


def _stamp(detector: str) -> tuple[int, ...]:
    """What changes with the files of a detector; empty where there are none."""
    path = File(detector)
    try:
        return tuple(file.stat().st_mtime_ns for file in (path, *(sorted(path.iterdir()) if path.is_dir() else ())))
    except OSError:
        return ()


@lru_cache(maxsize=4)
def _geometry(detector: str, outlines: bool, stamp: tuple[int, ...]) -> dict[str, Any]:
    return drawn(load_detector(detector), outlines=outlines)


_NO_DETECTOR: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "The detector is not on this machine.",
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
}


@router.get("/geometry", response_model=GeometryModel, responses=_NO_DETECTOR)
async def geometry(
    context: ContextDep,
    request: Request,
    modules: Annotated[bool, Query(description="with the outlines of the modules")] = True,
) -> Response:
    """Layers and modules of the detector of the present run, or of the next one."""
    config = context.farm.deciding
    detector = context.farm.settings.detector if config is None else config.detector
    try:
        content = await asyncio.to_thread(lambda: _geometry(detector, modules, _stamp(detector)))
    except ConditionsError as error:
        raise CannotShowError(f"the detector cannot be drawn: {error}") from error
    return await json_answer(content, request.headers)
