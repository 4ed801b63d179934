"""Columns of one event, copied out of an arena for people, files and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.soa import Collection
from hltfarm.workers.dnn.features import FEATURES
from hltfarm.workers.hits import HITS

TRACK_COLUMNS = ("n_hits", "quality", "pt", "eta", "phi", "tip", "qpt", "cot", "zip", "chi2", "score", "cov", "hit")
VERTEX_COLUMNS = ("z", "error", "chi2", "ndof", "sum_pt2")


#: What a client gets that asks for the columns of an event, in this order; tracks from LOOSE on.
REPLY_TRACKS = ("pt", "eta", "phi", "tip", "zip", "chi2", "charge", "n_hits", "quality", "score", "cov", "hits")
LOOSE = 2  # value of Tracks.quality


@dataclass(frozen=True)
class FitColumns:
    """Tracks and vertices of an event."""

    tracks: dict[str, NDArray[Any]]
    vertices: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class EventColumns(FitColumns):
    """Besides them digis (module, row, col, charge, hit), hits (columns of the Hits structure) and features (see `BatchResult`)."""

    digis: dict[str, NDArray[Any]]
    hits: dict[str, NDArray[Any]]
    features: dict[str, NDArray[Any]]


def fit_columns(arena: Mapping[str, Collection], i: int) -> FitColumns:
    """Copy tracks and vertices of event i of a batch to the host (NumPy or CuPy collections); digis and hits stay where they are."""
    first_hit = int(_host(arena["Events"].hit_offset[i : i + 1])[0])
    return FitColumns(_tracks(arena, i, first_hit), _vertices(arena, i))


def fits_asked(arena: Mapping[str, Collection], rows: NDArray[np.void], asked: Sequence[bool] | None) -> list[FitColumns | None]:
    """`fit_columns` of the events of a batch that are asked for and accepted in its result rows, None for the others."""
    if asked is None:
        return [None] * len(rows)
    accepted = rows["accept"] != 0
    return [fit_columns(arena, i) if want and accepted[i] else None for i, want in enumerate(asked)]


def reply_tables(columns: FitColumns) -> dict[str, dict[str, NDArray[Any]]]:
    """The tables of a reply: loose tracks (`hits` as 32-bit integers), and all vertices."""
    keep = columns.tracks["quality"] >= LOOSE
    tracks = {name: columns.tracks[name][keep] for name in REPLY_TRACKS}
    tracks["hits"] = tracks["hits"].astype(np.int32)
    return {"tracks": tracks, "vertices": {name: columns.vertices[name] for name in VERTEX_COLUMNS}}


def event_columns(arena: Mapping[str, Collection], detector: Detector, i: int, selector: bool) -> EventColumns:
    """Copy the columns of event i of a batch to the host (NumPy or CuPy collections)."""
    n = detector.n_modules
    begin = _host(arena["ModulePixels"].begin[i * n : (i + 1) * n]).astype(np.int64)
    count = _host(arena["ModuleClusters"].digis[i * n : (i + 1) * n]).astype(np.int64)
    first, last = (int(x) for x in _host(arena["Events"].hit_offset[i : i + 2]))
    lo, hi = int(begin.min(initial=0)), int((begin + count).max(initial=0))
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    at = np.repeat(begin, count) + within - lo
    column = {name: _host(arena["Digis"][name][lo:hi])[at] for name in ("position", "charge", "cluster")}
    hit = column["cluster"].astype(np.int64) + np.repeat(_host(arena["ModuleClusters"].hit_begin[i * n : (i + 1) * n]), count)
    hit[(column["cluster"] == 0xFFFFFFFF) | (hit >= last - first)] = -1  # cut, or beyond the most hits of an event
    padded_rows = -(-detector.topology.rows // 32) * 32
    digis = {
        "module": np.repeat(np.arange(n, dtype=np.uint16), count),
        "row": (column["position"] % padded_rows).astype(np.uint16),
        "col": (column["position"] // padded_rows).astype(np.uint16),
        "charge": column["charge"].astype(np.int64),
        "hit": hit,
    }
    hits = {c.name: _host(arena["Hits"][c.name][first:last]) for c in HITS.columns}
    return EventColumns(_tracks(arena, i, first), _vertices(arena, i), digis, hits, _features(arena, i) if selector else {})


def _tracks(arena: Mapping[str, Collection], i: int, first_hit: int) -> dict[str, NDArray[Any]]:
    """Fitted candidates of event i; those dropped before the fit have no parameters and stay behind."""
    begin, end = (int(x) for x in _host(arena["Events"].track_offset[i : i + 2]))
    columns = {name: _host(arena["Tracks"][name][begin:end]) for name in TRACK_COLUMNS}
    fitted = columns["chi2"] >= 0
    columns = {name: column[fitted] for name, column in columns.items()}
    hits = columns.pop("hit").astype(np.int64) - first_hit
    hits[np.arange(hits.shape[1]) >= columns["n_hits"][:, None]] = -1
    return {**columns, "hits": hits, "charge": np.sign(columns["qpt"]).astype(np.int32)}


def _features(arena: Mapping[str, Collection], i: int) -> dict[str, NDArray[Any]]:
    """Of the tracks that the selector saw: their rows in `_tracks`, and (n, features) values."""
    begin, end = (int(x) for x in _host(arena["Events"].track_offset[i : i + 2]))
    first, last = (int(x) for x in _host(arena["Events"].selected_offset[i : i + 2]))
    row = np.cumsum(_host(arena["Tracks"].chi2[begin:end]) >= 0) - 1
    selected = arena["Selected"]
    values = [_host(selected[name][first:last]) for name in FEATURES]
    return {"track": row[_host(selected.track[first:last]).astype(np.int64) - begin], "values": np.stack(values, axis=1)}


def _vertices(arena: Mapping[str, Collection], i: int) -> dict[str, NDArray[Any]]:
    begin = int(_host(arena["Events"].track_offset[i : i + 1])[0])
    n = int(_host(arena["Results"].vertices[i : i + 1])[0])
    return {name: _host(arena["Vertices"][name][begin : begin + n]) for name in VERTEX_COLUMNS}


def _host(column: Any) -> NDArray[Any]:
    return column.copy() if isinstance(column, np.ndarray) else column.get()
