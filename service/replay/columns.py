"""What there is to be drawn of an event, as tables of columns: of a reconstruction, or of its raw words alone."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.columns import Tables
from hltfarm.proto.detector import Detector
from hltfarm.proto.raw import unpack_event

HIT_COLUMNS = ("x", "y", "z")
TRACK_COLUMNS = ("pt", "eta", "phi", "tip", "zip", "chi2", "score")
LOOSE = 2  # quality of a track from which on it is one
ZIP_VARIANCE = 14  # its place in the packed covariance of a track
NOWHERE = -1  # vertex of a track that is near none


class Event(Protocol):
    """What is needed of a result of a reconstruction of one event, all columns kept (`workers.reconstructor.BatchResult`)."""

    def hits(self, i: int) -> dict[str, NDArray[Any]]: ...

    def tracks(self, i: int) -> dict[str, NDArray[Any]]: ...

    def vertices(self, i: int) -> dict[str, NDArray[Any]]: ...


class Nearness(Protocol):
    """What is near a vertex (`workers.configuration.VertexConfig`)."""

    @property
    def near_cm(self) -> float: ...

    @property
    def near_errors(self) -> float: ...


def display_tables(detector: Detector, near: Nearness, event: Event) -> Tables:
    """Tables `hits`, `tracks` (every fitted candidate), `vertices` and `detector` (one row). Lengths in cm, relative to the beam spot."""
    hits, tracks, vertices = event.hits(0), event.tracks(0), event.vertices(0)
    vertex = nearest_vertices(tracks["zip"], tracks["cov"][:, ZIP_VARIANCE], vertices["z"], near)
    mine = vertex[(vertex != NOWHERE) & (tracks["quality"] >= LOOSE)]
    spot = detector.beam_spot
    place = {name: getattr(spot, name) for name in ("x", "y", "z", "sigma_x", "sigma_y", "sigma_z")} | {"field_tesla": detector.field_tesla}
    return {
        "hits": {
            **{name: hits[name] for name in HIT_COLUMNS},
            "layer": detector.modules.layer[hits["module"].astype(np.int64)],
            "charge": hits["charge"].astype(np.int32),
        },
        "tracks": {
            **{name: tracks[name].astype(np.float32) for name in TRACK_COLUMNS},
            **{name: tracks[name].astype(np.int32) for name in ("charge", "n_hits", "quality", "hits")},
            "vertex": vertex,
        },
        "vertices": {
            **{name: vertices[name].astype(np.float32) for name in ("z", "chi2", "sum_pt2")},
            "ndof": vertices["ndof"].astype(np.int32),
            "n_tracks": np.bincount(mine, minlength=len(vertices["z"])).astype(np.int32),
        },
        "detector": {name: np.array([value], dtype=np.float64) for name, value in place.items()},
    }


def nearest_vertices(zip_cm: NDArray[Any], variance: NDArray[Any], z: NDArray[Any], near: Nearness) -> NDArray[np.int32]:
    """For each track the nearest vertex (of two equally near ones the harder), or NOWHERE: as the chain assigns selected tracks."""
    if not len(z) or not len(zip_cm):
        return np.full(len(zip_cm), NOWHERE, dtype=np.int32)
    distance = np.abs(z[None, :] - zip_cm[:, None])
    found = np.argmin(distance, axis=1)
    limit = near.near_cm + near.near_errors * np.sqrt(np.maximum(variance, 0))
    return np.where(distance[np.arange(len(found)), found] < limit, found, NOWHERE).astype(np.int32)


def occupancy_tables(detector: Detector, payload: NDArray[np.uint8]) -> Tables:
    """Table `occupancy`: of each layer the modules that have a pixel word, and the words. Raises WireError for a malformed one."""
    modules = unpack_event(detector, payload).module.astype(np.int64)
    words = np.bincount(modules, minlength=detector.n_modules)
    layer, layers = detector.modules.layer.astype(np.int64), len(detector.layers)
    return {
        "occupancy": {
            "layer": np.arange(layers, dtype=np.int32),
            "fired": np.bincount(layer[words > 0], minlength=layers).astype(np.int32),
            "pixels": np.bincount(layer, weights=words, minlength=layers).astype(np.int32),
        }
    }
