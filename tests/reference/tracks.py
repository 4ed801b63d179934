"""Cells to track candidates: links between cells, duplicate cells, paths, shorter candidates.

Floating point is float32, one IEEE operation at a time, from left to right. Cell (1 -> 2) is continued by cell (2 -> 3) if

    |z1 * (r2 - r3) + z2 * (r3 - r1) + z3 * (r1 - r2)| * pt_min <= theta_cut * sqrt((r1 - r3)^2 + (z1 - z3)^2) * |r1 - r3|

    a = p1 - p2, b = p3 - p2, cross = ax * by - ay * bx, n = (by * a^2 - ay * b^2, ax * b^2 - bx * a^2)
    curvature = 2 * cross / |n|                           of the circle through the three points; its centre is at p2 + n / (2 * cross)
    curvature <= max_curvature                            |curvature|, if both charges are cut; |n| must not be 0
    ||curvature * p2 + n / |n|| - 1| < dca_cut * |curvature|                  the circle's distance to the beam line; a line has none
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
    """Per cell the cells that continue it, in order; which cells are used: they continue another one or are continued."""

    of: tuple[tuple[int, ...], ...]
    used: Bools
    flags: EventFlag


def linked(
    hits: Columns, one: int, two: int, three: NDArray[np.int64], theta_cut: np.float32, dca_cut: np.float32, config: TrackConfig
) -> Bools:
    """Whether the hits (one, two, each of three) may belong to one particle."""
    r1, z1, r2, z2, r3, z3 = (hits[name][i] for i in (one, two, three) for name in ("r", "z"))
    aligned = np.abs(z1 * (r2 - r3) + z2 * (r3 - r1) + z3 * (r1 - r2)) * f32(config.pt_min_gev) <= (
        theta_cut * np.sqrt((r1 - r3) * (r1 - r3) + (z1 - z3) * (z1 - z3)) * np.abs(r1 - r3)
    )
    xm, ym = hits["x"][two], hits["y"][two]
    ax, ay, bx, by = hits["x"][one] - xm, hits["y"][one] - ym, hits["x"][three] - xm, hits["y"][three] - ym
    cross, a2, b2 = ax * by - ay * bx, ax * ax + ay * ay, bx * bx + by * by
    nx, ny = by * a2 - ay * b2, ax * b2 - bx * a2
    norm = np.sqrt(nx * nx + ny * ny)
    with np.errstate(divide="ignore", invalid="ignore"):
        curvature = f32(2) * cross / norm
        ux, uy = curvature * xm + nx / norm, curvature * ym + ny / norm
    dca = np.abs(np.sqrt(ux * ux + uy * uy) - f32(1))
    bent = np.abs(curvature) if config.cut_both_charges else curvature
    kept: Bools = (norm > 0) & aligned & (bent <= f32(config.max_curvature)) & (dca < dca_cut * np.abs(curvature))
    return kept


def link_cells(hits: Columns, cells: Cells, detector: Detector, config: TrackConfig, words: int) -> Links:
    """The cells that continue each cell; used cells beyond the capacity are left out with their links."""
    layer = layer_of_hits(hits, detector)
    theta_cut = [config.theta_cut_barrel if description.is_barrel else config.theta_cut_forward for description in detector.layers]
    dca_cut = [config.dca_cut_first_layer_cm if i == 0 else config.dca_cut_cm for i in range(len(detector.layers))]
    out: list[list[int]] = []
    for one, two in zip(cells.inner, cells.outer, strict=True):
        following = np.flatnonzero(cells.inner == two)
        ok = linked(hits, one, two, cells.outer[following], f32(theta_cut[layer[two]]), f32(dca_cut[layer[one]]), config)
        out.append(following[ok].tolist())
    used = np.array([bool(following) for following in out], bool)
    for continuing in out:
        used[continuing] = True
    capacity = config.used_cells_per_word * words
    flags = EventFlag.TRACK_OVERFLOW if used.sum() > capacity else EventFlag(0)
    used &= np.cumsum(used) <= capacity
    return Links(tuple(tuple(c for c in continuing if used[c]) if used[i] else () for i, continuing in enumerate(out)), used, flags)


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
    for start in np.flatnonzero(links.used & alive & cells.starts):
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
