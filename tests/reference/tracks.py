"""Cells to track candidates: links between cells, duplicate cells, paths, shorter candidates.

Floating point is float32, one IEEE operation at a time, from left to right. Cell (1 -> 2) is continued by cell (2 -> 3) if `linked`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import Detector
from hltfarm.proto.results import EventFlag
from hltfarm.workers.configuration import TrackConfig
from tests.reference.cells import Cells, layer_of_hits

Columns = dict[str, NDArray[Any]]
Bools = NDArray[np.bool_]
f32 = np.float32


@dataclass(frozen=True)
class Candidate:
    """Hits and cells from the inside out; `dropped` if a longer candidate uses one of its cells."""

    hits: tuple[int, ...]
    cells: tuple[int, ...]
    dropped: bool = False


@dataclass(frozen=True)
class Links:
    """Per cell the cells that continue it, in order."""

    of: tuple[tuple[int, ...], ...]
    flags: EventFlag

    def used(self) -> Bools:
        """Cells that continue another one or are continued."""
        used = np.array([bool(following) for following in self.of], bool)
        for following in self.of:
            used[list(following)] = True
        return used


def linked(hits: Columns, one: int, two: int, three: NDArray[np.int64], theta_cut: np.float32, dca_cut: np.float32, config: TrackConfig) -> Bools:
    """Whether the hits (one, two, each of three) may belong to one particle."""
    r1, z1, r2, z2, r3, z3 = (hits[name][i] for i in (one, two, three) for name in ("r", "z"))
    aligned = np.abs(z1 * (r2 - r3) + z2 * (r3 - r1) + z3 * (r1 - r2)) * f32(config.pt_min_gev) <= (
        theta_cut * np.sqrt((r1 - r3) * (r1 - r3) + (z1 - z3) * (z1 - z3)) * np.abs(r1 - r3)
    )
    x1, y1, x2, y2, x3, y3 = (hits[name][i].astype(np.float64) for i in (one, two, three) for name in ("x", "y"))
    ax, ay, bx, by = x2 - x1, y2 - y1, x3 - x2, y3 - y2
    cx, cy = x3 - x1, y3 - y1
    cross = ax * by - ay * bx
    twice = -2 * (ax * cy - ay * cx)
    a2, c2 = ax * ax + ay * ay, cx * cx + cy * cy
    with np.errstate(divide="ignore", invalid="ignore"):
        curvature = -2 * cross / np.sqrt(a2 * (bx * bx + by * by) * c2)
        xc = x1 + (ay * c2 - cy * a2) / twice
        yc = y1 + (cx * a2 - ax * c2) / twice
        radius = np.hypot(x1 - xc, y1 - yc)
        dca = np.abs(np.hypot(xc, yc) - radius)
    bent = np.abs(curvature) if config.cut_both_charges else curvature
    kept: Bools = aligned & (bent <= config.max_curvature) & (dca < dca_cut)
    return kept


def link_cells(hits: Columns, cells: Cells, detector: Detector, config: TrackConfig, words: int) -> Links:
    """The cells that continue each cell. Beyond the capacity the links of the last cells are left out."""
    layer = layer_of_hits(hits, detector)
    theta_cut = [config.theta_cut_barrel if description.is_barrel else config.theta_cut_forward for description in detector.layers]
    dca_cut = [config.dca_cut_first_layer_cm if i == 0 else config.dca_cut_cm for i in range(len(detector.layers))]
    capacity, total, flags = config.links_per_word * words, 0, EventFlag(0)
    out: list[tuple[int, ...]] = []
    for one, two in zip(cells.inner, cells.outer, strict=True):
        following = np.flatnonzero(cells.inner == two)
        ok = linked(hits, one, two, cells.outer[following], f32(theta_cut[layer[two]]), f32(dca_cut[layer[one]]), config)
        mine = tuple(following[ok].tolist())
        total += len(mine)
        if total > capacity:
            mine, flags = (), EventFlag.TRACK_OVERFLOW
        out.append(mine)
    return Links(tuple(out), flags)


def living_cells(hits: Columns, cells: Cells, used: Bools, config: TrackConfig) -> Bools:
    """False for a used cell if there is a shorter used cell on its outer hit (or one as long with a smaller number) that comes from another
    module and points the same way."""
    alive = np.ones(len(cells), bool)
    xyz = np.stack([hits["x"], hits["y"], hits["z"]], axis=1)
    module = hits["module"]
    for outer in np.unique(cells.outer[used]):
        group = np.flatnonzero(used & (cells.outer == outer))
        way = xyz[cells.inner[group]] - xyz[outer]
        length2 = way[:, 0] * way[:, 0] + way[:, 1] * way[:, 1] + way[:, 2] * way[:, 2]
        for i, a in enumerate(group):
            for j, b in enumerate(group):
                shorter = length2[j] < length2[i] or (length2[j] == length2[i] and b < a)
                if i == j or not shorter or module[cells.inner[a]] == module[cells.inner[b]]:
                    continue
                dot = way[i, 0] * way[j, 0] + way[i, 1] * way[j, 1] + way[i, 2] * way[j, 2]
                if dot * dot >= f32(config.min_alignment2) * length2[i] * length2[j]:
                    alive[a] = False
    return alive


def find_candidates(cells: Cells, links: Links, alive: Bools, config: TrackConfig, words: int) -> tuple[list[Candidate], EventFlag]:
    """Every path from a living cell that may start a track to one without living continuation; depth first."""
    paths: list[tuple[int, ...]] = []
    flags = EventFlag(0)
    for start in np.flatnonzero(alive & cells.starts):
        steps = 0

        def follow(path: tuple[int, ...]) -> None:
            nonlocal steps, flags
            steps += 1
            if steps > config.max_steps:
                flags |= EventFlag.TRACK_OVERFLOW
                return
            further = [c for c in links.of[path[-1]] if alive[c]]
            if further and len(path) + 1 < config.max_track_hits:
                for cell in further:
                    follow((*path, cell))
            elif len(path) + 1 >= config.min_track_hits:
                paths.append(path)

        follow((int(start),))
    capacity = config.tracks_per_word * words
    if len(paths) > capacity:
        paths, flags = paths[:capacity], flags | EventFlag.TRACK_OVERFLOW
    longest: dict[int, int] = {}
    for path in paths:
        for cell in path:
            longest[cell] = max(longest.get(cell, 0), len(path))
    return [
        Candidate(
            (int(cells.inner[path[0]]), *(int(cells.outer[c]) for c in path)),
            path,
            any(longest[c] > len(path) for c in path),
        )
        for path in paths
    ], flags
