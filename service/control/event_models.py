"""What the HTTP API says of events that are kept: pydantic models, and how they are made. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from hltfarm.proto.columns import Tables
from hltfarm.proto.messages import EventInfo, KeptEvent
from hltfarm.proto.results import EventFlag
from hltfarm.service.control.display import Shown

COUNTS = ("modules", "digis", "clusters", "hits", "doublets", "ntuplets", "tracks", "tracks_high_purity", "vertices")
LOOSE = 2
#: Decimals of what is drawn: 0.1 um, 0.1 MeV.
DECIMALS = {"pt": 4, "chi2": 3, "sum_pt2": 3, "score": 4}
OTHERS = 5


class EventModel(BaseModel):
    """An event of which an ingest keeps a copy."""

    id: str
    kind: str = Field(description="accepted, or error: of the error stream")
    run: int
    lumi: int
    bx: int
    event: int
    ingest: str = Field(description="endpoint of the ingest that keeps it")
    decided_at: datetime
    paths: list[str] = Field(description="that accepted it")
    streams: list[str]
    reason: str | None = Field(description="why it is in the error stream; null for an accepted one")
    worker: str | None = Field(description="that decided it, or had it last")
    digest: str | None = Field(description="16 hexadecimal digits; null for one of the error stream")
    size_bytes: int

    @classmethod
    def of(cls, endpoint: str, info: EventInfo) -> EventModel:
        """From the message."""
        return cls(**_about(endpoint, info))


def _about(endpoint: str, info: EventInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "kind": info.kind,
        "run": info.run,
        "lumi": info.lumi,
        "bx": info.bx,
        "event": info.event,
        "ingest": endpoint,
        "decided_at": moment(info.decided_at),
        "paths": list(info.paths),
        "streams": list(info.streams),
        "reason": info.reason or None,
        "worker": info.worker or None,
        "digest": info.digest or None,
        "size_bytes": info.size_bytes,
    }


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as UTC."""
    return datetime.fromtimestamp(seconds, UTC)


class EventList(BaseModel):
    """Newest first."""

    events: list[EventModel]


class ErrorModel(BaseModel):
    """An event of the error stream."""

    time: datetime
    ingest: str
    run: int
    lumi: int
    event: int
    bx: int
    reason: str
    stage: str | None = Field(description="of the chain, in which it failed; null where nobody knows")
    worker: str | None = Field(description="that had it last")
    attempts: int
    error: str | None = Field(description="what that worker said")
    bundle: str = Field(description="below the ingest's folder of errors")
    size_bytes: int
    id: str | None = Field(description="by which the event can be shown; null where no copy is kept")

    @classmethod
    def of(cls, endpoint: str, info: EventInfo) -> ErrorModel:
        """From the message."""
        return cls(
            time=moment(info.decided_at),
            ingest=endpoint,
            run=info.run,
            lumi=info.lumi,
            event=info.event,
            bx=info.bx,
            reason=info.reason,
            stage=info.stage or None,
            worker=info.worker or None,
            attempts=info.attempts,
            error=info.error or None,
            bundle=info.bundle,
            size_bytes=info.size_bytes,
            id=info.id or None,
        )


class ErrorList(BaseModel):
    """Newest first."""

    errors: list[ErrorModel]


class EventMeta(EventModel):
    """An event that is shown."""

    menu: str | None = Field(description="hash of the menu that decided; null where no worker had built it")
    models: list[str] = Field(description="name:hash of the models that took part")
    digest_equal: bool | None = Field(description="whether the CPU gave the same bits here; null for one of the error stream")
    reconstructed_in_ms: float | None
    error: str | None = Field(description="why there is no reconstruction")
    differences: list[str] = Field(description="what decided it and is something else here, in words")


class HitColumns(BaseModel):
    """cm relative to the beam spot, electrons; `layer`: id in the geometry."""

    x: list[float]
    y: list[float]
    z: list[float]
    layer: list[int]
    charge: list[int]


class TrackColumns(BaseModel):
    """GeV, cm relative to the beam spot. Hits of track i: hits[hit_offsets[i] : hit_offsets[i + 1]], indices, from the inside out."""

    pt: list[float]
    eta: list[float]
    phi: list[float]
    tip: list[float]
    zip: list[float]
    chi2: list[float | None]
    charge: list[int]
    n_hits: list[int]
    quality: list[int] = Field(description="0 bad, 1 duplicate, 2 loose, 3 high purity")
    score: list[float | None]
    hit_offsets: list[int]
    hits: list[int]
    vertex: list[int] = Field(description="place of the vertex it is near, -1 for none")


class VertexColumns(BaseModel):
    """Hardest first. `n_tracks`: loose tracks near it."""

    z: list[float]
    ndof: list[int]
    chi2: list[float | None]
    sum_pt2: list[float]
    n_tracks: list[int]


class BeamSpotModel(BaseModel):
    """cm, in the global frame."""

    x: float
    y: float
    z: float
    sigma_x: float
    sigma_y: float
    sigma_z: float


class Occupancy(BaseModel):
    """By layer: modules with data, and pixel words in them."""

    layer: list[int]
    fired: list[int]
    pixels: list[int]


class EventDisplay(BaseModel):
    """An event to be drawn; columns have one entry for each hit, track, vertex."""

    meta: EventMeta
    counts: dict[str, int]
    flags: list[str] = Field(description="conditions of the event, such as HIT_OVERFLOW")
    hits: HitColumns
    tracks: TrackColumns
    vertices: VertexColumns
    beam_spot: BeamSpotModel | None = Field(description="null where there is no reconstruction")
    field_tesla: float | None
    occupancy: Occupancy | None = Field(description="of an event of the error stream that cannot be reconstructed")


def display(endpoint: str, kept: KeptEvent, shown: Shown, *, every_track: bool) -> dict[str, Any]:
    """An EventDisplay as plain values, ready to be encoded."""
    info, row, tables = kept.info, shown.row, shown.tables
    meta = _about(endpoint, info) | {
        "menu": kept.menu_hash or None,
        "models": [model.label for model in kept.models],
        "digest_equal": None if row is None or not info.digest else f"{int(row['digest']):016x}" == info.digest,
        "reconstructed_in_ms": None if row is None else round(1e3 * shown.seconds, 3),
        "error": shown.error,
        "differences": list(shown.differences),
    }
    place = {name: round(float(values[0]), 6) for name, values in tables.get("detector", {}).items()}
    field = place.pop("field_tesla", None)
    return {
        "meta": meta,
        "counts": {name: 0 if row is None else int(row[name]) for name in COUNTS},
        "flags": [] if row is None else [flag.name for flag in EventFlag if int(row["flags"]) & flag],
        "hits": _rounded(tables, "hits", HitColumns),
        "tracks": _tracks(tables, every_track),
        "vertices": _rounded(tables, "vertices", VertexColumns),
        "beam_spot": place or None,
        "field_tesla": field,
        "occupancy": _rounded(tables, "occupancy", Occupancy) if "occupancy" in tables else None,
    }


def _rounded(tables: Tables, table: str, model: type[BaseModel], keep: NDArray[np.bool_] | None = None) -> dict[str, list[Any]]:
    columns = tables.get(table, {})
    return {name: _listed(name, columns[name], keep) if name in columns else [] for name in model.model_fields}


def _listed(name: str, column: NDArray[Any], keep: NDArray[np.bool_] | None) -> list[Any]:
    values = column if keep is None else column[keep]
    if values.dtype.kind == "f":
        values = values.astype(np.float64).round(DECIMALS.get(name, OTHERS))
    listed: list[Any] = values.tolist()
    return listed


def _tracks(tables: Tables, every: bool) -> dict[str, list[Any]]:
    tracks = tables.get("tracks")
    if tracks is None:
        return {name: [] for name in TrackColumns.model_fields} | {"hit_offsets": [0]}
    keep = np.ones(len(tracks["quality"]), dtype=np.bool_) if every else tracks["quality"] >= LOOSE
    hits, plain = tracks["hits"][keep], {name: column for name, column in tracks.items() if name != "hits"}
    found = _rounded({"tracks": plain}, "tracks", TrackColumns, keep)
    there = hits >= 0
    found["hit_offsets"] = [0, *np.cumsum(there.sum(axis=1)).tolist()]
    found["hits"] = hits[there].tolist()
    return found
