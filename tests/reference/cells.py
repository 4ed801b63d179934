"""Hits to cells: pairs of hits on two layers that one particle from the beam line may have made.

Floating point is float32, one IEEE operation at a time, from left to right; products are never fused with sums. For an inner hit
(z, r, phi, s = size_y) and an outer one (zo, ro, phio, so), with the columns of the layer pair:

    dr    = ro - r
    dphi  = int16(phio - phi)                             an integer, 32768 = pi
    angle = float(dphi) * float32(pi / 32768)
    kept if all of
        min_z <= z <= max_z,  not (0 < s < min_size_y)
        |dphi| <= phi_cut
        0 <= dr <= max_dr
        |z * ro - r * zo| <= max_z0 * dr
        |so - s| <= max_size_difference                   if that is not None, s > 0 and so > 0
        |s - int(|(z - zo) / (r - ro)| * size_y_per_slope + 0.5)| <= max_size_deviation
                                                          if that is not None and s > 0; int() truncates, beyond 2^30 it is 2^30
        angle * angle * (4 * R * R - r * ro) <= dr * dr   with R = min_radius

Order: inner hit, pair as in the configuration, uint16(phio), outer hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import Detector
from hltfarm.proto.results import EventFlag
from hltfarm.workers.configuration import CellConfig, LayerPair

Columns = dict[str, NDArray[Any]]
Ints = NDArray[np.int64]
f32 = np.float32

RADIANS_PER_UNIT = f32(np.pi / 32768)


@dataclass(frozen=True, eq=False)
class Cells:
    """inner and outer hit of every cell, and whether a track may start with it, in order; `found` counts those beyond the capacity too."""

    inner: Ints
    outer: Ints
    starts: NDArray[np.bool_]
    found: int
    flags: EventFlag

    def __len__(self) -> int:
        return len(self.inner)


def layer_of_hits(hits: Columns, detector: Detector) -> Ints:
    """Index of the layer of each hit."""
    return detector.modules.layer[hits["module"].astype(np.int64)].astype(np.int64)


def make_cells(hits: Columns, detector: Detector, config: CellConfig, words: int) -> Cells:
    """All cells of an event whose payload has so many words."""
    layer = layer_of_hits(hits, detector)
    number = {description.name: i for i, description in enumerate(detector.layers)}
    rows: list[tuple[int, int, int, int, int, int, bool]] = []
    for k, pair in enumerate(config.pairs):
        outer = np.flatnonzero(layer == number[pair.outer])
        for i in np.flatnonzero(layer == number[pair.inner]):
            kept = outer[_compatible(hits, int(i), outer, pair, config)]
            place = (int(layer[i]), int(hits["phi"][i]) % 65536, int(i))
            rows += [(*place, k, int(hits["phi"][o]) % 65536, int(o), pair.starts_tracks) for o in kept]
    rows.sort()
    capacity = config.cells_per_word * words
    flags = EventFlag.DOUBLET_OVERFLOW if len(rows) > capacity else EventFlag(0)
    kept_rows = rows[:capacity]
    return Cells(
        np.array([r[2] for r in kept_rows], np.int64),
        np.array([r[5] for r in kept_rows], np.int64),
        np.array([r[6] for r in kept_rows], bool),
        len(rows),
        flags,
    )


def _compatible(hits: Columns, i: int, outer: Ints, pair: LayerPair, config: CellConfig) -> NDArray[np.bool_]:
    """Which of the outer hits make a cell with hit i."""
    z, r, phi, s = (hits[name][i] for name in ("z", "r", "phi", "size_y"))
    zo, ro, phio, so = (hits[name][outer] for name in ("z", "r", "phi", "size_y"))
    size, sizes = int(s), so.astype(np.int64)
    if not f32(pair.min_z) <= z <= f32(pair.max_z) or 0 < size < pair.min_size_y:
        return np.zeros(len(outer), bool)
    dr = ro - r
    dphi = (phio.astype(np.int64) - int(phi) + 32768) % 65536 - 32768
    angle = dphi.astype(f32) * RADIANS_PER_UNIT
    radius = f32(config.min_radius_cm)
    kept = np.abs(dphi) <= pair.phi_cut
    kept &= (dr >= 0) & (dr <= f32(pair.max_dr))
    kept &= np.abs(z * ro - r * zo) <= f32(config.max_z0_cm) * dr
    kept &= angle * angle * (f32(4) * radius * radius - r * ro) <= dr * dr
    if pair.max_size_difference is not None and size > 0:
        kept &= (sizes <= 0) | (np.abs(sizes - size) <= pair.max_size_difference)
    if pair.max_size_deviation is not None and size > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            predicted = np.abs((z - zo) / (r - ro)) * f32(config.size_y_per_slope) + f32(0.5)
        predicted = np.where(predicted < f32(2**30), predicted, f32(2**30))
        kept &= np.abs(size - predicted.astype(np.int64)) <= pair.max_size_deviation
    return kept
