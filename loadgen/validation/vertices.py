"""Vertices against collisions: efficiency, merging, splitting, fakes, resolution, and the choice of the hard scatter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hltfarm.loadgen.validation.binned import Ratio, Spread, rate
from hltfarm.loadgen.validation.definitions import Axis, Bools, Cuts, Floats, Ints
from hltfarm.loadgen.validation.event import Geometry, Vertices, floats
from hltfarm.loadgen.validation.matching import Truth, layers_crossed

_PARTICLES = Axis("particles", "particles of the collision", (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100), open_high=True, log=True)
_PILEUP = Axis("pileup", "additional collisions", tuple(float(x) for x in range(0, 260, 10)), open_high=True)
_NDOF = Axis("ndof", "degrees of freedom of the vertex", (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128), open_high=True, log=True)
_RANGE_CM = 0.03


@dataclass(frozen=True, eq=False)
class VertexMatch:
    """Pairs of vertices and collisions.

    Of the vertices (v,): `collision`, -1 for none, and `nearest`, the distance to the nearest one (cm). Of the collisions (c,): `vertex`.
    """

    collision: Ints
    nearest: Floats
    vertex: Ints


def pair(z: Floats, true_z: Floats, window: float) -> VertexMatch:
    """Pairs of vertices and collisions, one to one, nearest pairs first, at most `window` apart along z (cm)."""
    distance = np.abs(z[:, None] - true_z[None, :])
    collision, vertex = np.full(len(z), -1, np.int64), np.full(len(true_z), -1, np.int64)
    i, j = np.nonzero(distance <= window)
    for k in np.argsort(distance[i, j], kind="stable"):
        if collision[i[k]] < 0 and vertex[j[k]] < 0:
            collision[i[k]], vertex[j[k]] = j[k], i[k]
    return VertexMatch(collision, distance.min(axis=1, initial=np.inf), vertex)


class VertexStudy:
    """Sums over events; `add` one event after the other, then `document`."""

    def __init__(self, geometry: Geometry, cuts: Cuts) -> None:
        self._geometry, self._cuts = geometry, cuts
        names = ("events", "vertices", "collisions", "visible", "found", "merged", "fake", "split")
        self._counts = dict.fromkeys((*names, "with_hard", "hard_leading", "hard_found", "hard_visible"), 0)
        self._efficiency = [Ratio(_PARTICLES), Ratio(_PILEUP)]
        self._merge = [Ratio(_PARTICLES), Ratio(_PILEUP)]
        self._residual = Spread(_NDOF.bins + 1, 1e-5, 1.0)  # the last cell: the hard scatter
        self._pull = Spread(1, 0.01, 1000.0)

    def add(self, vertices: Vertices, truth: Truth) -> None:
        """Count an event."""
        cuts, n = self._cuts, self._counts
        true_z = floats(truth["vtx_xyz"])[:, 2] - self._geometry.beam_spot[2]
        hard = truth["vtx_hs"].astype(np.bool_)
        particles = self._particles(truth)
        visible = particles >= cuts.vertex_particles
        match = pair(vertices.z, true_z, cuts.vertex_window_cm)
        distance = np.abs(vertices.z[:, None] - true_z[None, :])
        found = match.vertex >= 0
        merged = visible & ~found & (distance <= cuts.vertex_window_cm).any(axis=0)
        inside = match.nearest <= cuts.vertex_window_cm
        for name, count in (
            ("events", 1),
            ("vertices", len(vertices)),
            ("collisions", len(true_z)),
            ("visible", visible.sum()),
            ("found", (visible & found).sum()),
            ("merged", merged.sum()),
            ("fake", (~inside).sum()),
            ("split", (inside & (match.collision < 0)).sum()),
        ):
            n[name] += int(count)
        pileup = np.full(len(true_z), float((~hard).sum()))
        for ratios, passed in ((self._efficiency, found), (self._merge, merged)):
            ratios[0].add(particles[visible], passed[visible])
            ratios[1].add(pileup[visible], passed[visible])
        self._add_hard(vertices, true_z, hard, visible)
        paired = match.collision >= 0
        residual = vertices.z[paired] - true_z[match.collision[paired]]
        self._residual.add(_NDOF.index(vertices.ndof[paired]), residual)
        if vertices.error is not None:
            self._pull.add(np.zeros(len(residual), np.int64), residual / vertices.error[paired])
        of_hard = hard[match.collision[paired]]
        self._residual.add(np.full(int(of_hard.sum()), _NDOF.bins, np.int64), residual[of_hard])

    def _add_hard(self, vertices: Vertices, true_z: Floats, hard: Bools, visible: Bools) -> None:
        """Is the hard scatter among the vertices, and is it the one with the largest sum of squared pt?"""
        if not hard.any():
            return
        z = float(true_z[hard][0])
        self._counts["with_hard"] += 1
        self._counts["hard_visible"] += int(visible[hard][0])
        if len(vertices) == 0:
            return
        near = np.abs(vertices.z - z) <= self._cuts.vertex_window_cm
        self._counts["hard_found"] += int(near.any())
        self._counts["hard_leading"] += int(near[np.argmax(vertices.sum_pt2)])

    def _particles(self, truth: Truth) -> Ints:
        """Charged particles of every collision that a vertex can be made of (c,)."""
        x, y, _ = self._geometry.beam_spot
        use = (truth["part_q"] != 0) & (truth["part_pt"] > self._cuts.vertex_pt_min_gev) & (np.abs(truth["part_eta"]) < self._cuts.eta_max)
        use &= np.hypot(truth["part_vx"] - x, truth["part_vy"] - y) < self._cuts.radius_max_cm
        use &= (layers_crossed(truth, self._geometry) >= self._cuts.vertex_layers) & (truth["part_vtx"] >= 0)
        n: Ints = np.bincount(truth["part_vtx"][use], minlength=len(truth["vtx_hs"])).astype(np.int64)
        return n

    def document(self) -> dict[str, Any]:
        """Rates with bands, resolution along z (cm)."""
        n = self._counts
        events = max(1, n["events"])
        all_cells = self._residual.merged(np.arange(_NDOF.bins + 1) < _NDOF.bins)
        return {
            "vertices_per_event": n["vertices"] / events,
            "collisions_per_event": n["collisions"] / events,
            "visible_per_event": n["visible"] / events,
            "fakes_per_event": n["fake"] / events,
            "efficiency": rate(n["found"], n["visible"]),
            "merge_rate": rate(n["merged"], n["visible"]),
            "fake_rate": rate(n["fake"], n["vertices"]),
            "split_rate": rate(n["split"], n["vertices"]),
            "hard_scatter": {
                "visible": rate(n["hard_visible"], n["with_hard"]),
                "found": rate(n["hard_found"], n["with_hard"]),
                "leading": rate(n["hard_leading"], n["with_hard"]),
            },
            "efficiency_against": {r.axis.name: r.document() for r in self._efficiency},
            "merge_rate_against": {r.axis.name: r.document() for r in self._merge},
            "resolution": all_cells.summary(0),
            "resolution_hard_scatter": self._residual.summary(_NDOF.bins),
            "pull": self._pull.summary(0),
            "resolution_against_ndof": {"edges": list(_NDOF.edges), "bins": [self._residual.summary(i) for i in range(_NDOF.bins)]},
            "distribution": all_cells.histogram(0, _RANGE_CM),
        }
