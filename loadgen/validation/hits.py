"""Rec hits against the crossings that made them: residuals, pulls, efficiency, merging."""

from __future__ import annotations

from typing import Any

import numpy as np

from hltfarm.loadgen.validation.binned import Ratio, Spread, rate
from hltfarm.loadgen.validation.definitions import Axis, Bools, Ints
from hltfarm.loadgen.validation.event import EventReco, Geometry, floats
from hltfarm.loadgen.validation.matching import Links, Truth

REGIONS = ("barrel", "disks")
AXES = ("x", "y")
_ETA = Axis("eta", "generated η", tuple(float(x) for x in np.linspace(-3, 3, 31)))
#: Half range of the plotted residuals, cm.
_RANGE = {"x": 0.01, "y": 0.02}


class HitStudy:
    """Sums over events; `add` one event after the other, then `document`."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        layers = len(geometry.layer_names)
        # 1 um scale, at most 1 cm. Cells: layers.
        self._residual = {axis: Spread(layers, 1e-4, 1.0) for axis in AXES}
        self._pull = {axis: Spread(layers, 0.01, 1000.0) for axis in AXES}
        self._crossed = {kind: np.zeros((2, layers), np.int64) for kind in ("all", "primary")}
        self._against_eta = Ratio(_ETA)
        self._kinds = dict.fromkeys(("hits", "one_crossing", "same_particle", "merged", "noise"), 0)
        self._pixels = dict.fromkeys(("generated", "reconstructed", "noise", "in_hits"), 0)
        self._events = 0

    def add(self, reco: EventReco, truth: Truth, crossing: Ints, crossings: Links, particles: Links) -> None:
        """Count an event. `crossing` (d,) of every pixel; `crossings` and `particles` of every hit."""
        self._events += 1
        self._count_kinds(crossings, particles)
        self._count_pixels(reco, truth, crossing)
        self._count_efficiency(truth, crossings)
        self._count_residuals(reco, truth, crossings)

    def _count_kinds(self, crossings: Links, particles: Links) -> None:
        n_crossings, n_particles = crossings.count(), particles.count()
        self._kinds["hits"] += len(n_crossings)
        self._kinds["noise"] += int((n_crossings == 0).sum())
        self._kinds["one_crossing"] += int((n_crossings == 1).sum())
        self._kinds["merged"] += int((n_particles > 1).sum())
        self._kinds["same_particle"] += int(((n_crossings > 1) & (n_particles <= 1)).sum())

    def _count_pixels(self, reco: EventReco, truth: Truth, crossing: Ints) -> None:
        self._pixels["generated"] += len(truth["digi_module"])
        self._pixels["reconstructed"] += len(crossing)
        self._pixels["noise"] += int((crossing < 0).sum())
        self._pixels["in_hits"] += int((reco.digis.hit >= 0).sum())

    def _count_efficiency(self, truth: Truth, crossings: Links) -> None:
        found = np.zeros(len(truth["hit_module"]), np.bool_)
        found[crossings.source] = True
        layer = self._geometry.layer[truth["hit_module"]]
        primary = _primary(truth)
        for kind, use in (("all", np.ones_like(found)), ("primary", primary)):
            self._crossed[kind][1] += np.bincount(layer[use], minlength=len(self._geometry.layer_names))
            self._crossed[kind][0] += np.bincount(layer[use & found], minlength=len(self._geometry.layer_names))
        self._against_eta.add(truth["part_eta"][truth["hit_part"][primary]], found[primary])

    def _count_residuals(self, reco: EventReco, truth: Truth, crossings: Links) -> None:
        alone = crossings.count()[crossings.hit] == 1
        hit, crossing = crossings.hit[alone], crossings.source[alone]
        use = _primary(truth)[crossing]
        hit, crossing = hit[use], crossing[use]
        layer = self._geometry.layer[reco.hits.module[hit]]
        for axis, at, error2, true in (
            ("x", reco.hits.x_local, reco.hits.x_error2, truth["hit_lx"]),
            ("y", reco.hits.y_local, reco.hits.y_error2, truth["hit_ly"]),
        ):
            residual = at[hit] - floats(true[crossing])
            self._residual[axis].add(layer, residual)
            if error2 is not None:
                self._pull[axis].add(layer, residual / np.sqrt(error2[hit]))

    def document(self) -> dict[str, Any]:
        """Counts per event, rates and residuals (cm), as docs/validation.md defines them."""
        names = self._geometry.layer_names
        k, n = self._kinds, max(1, self._events)
        efficiency = {
            kind: {
                "total": rate(int(counts[0].sum()), int(counts[1].sum())),
                "layers": {name: rate(int(counts[0, i]), int(counts[1, i])) for i, name in enumerate(names)},
            }
            for kind, counts in self._crossed.items()
        }
        return {
            "hits_per_event": k["hits"] / n,
            "kinds": {kind: rate(k[kind], k["hits"]) for kind in ("one_crossing", "same_particle", "merged", "noise")},
            "pixels": {
                "generated_per_event": self._pixels["generated"] / n,
                "noise": rate(self._pixels["noise"], self._pixels["reconstructed"]),
                "in_hits": rate(self._pixels["in_hits"], self._pixels["reconstructed"]),
            },
            "efficiency": efficiency,
            "efficiency_against_eta": self._against_eta.document(),
            "residuals": {region: self._region(region, self._residual) for region in REGIONS},
            "pulls": {region: self._region(region, self._pull) for region in REGIONS},
            "layers": {name: {axis: self._residual[axis].summary(i) for axis in AXES} for i, name in enumerate(names)},
            "distributions": {
                region: {axis: self._merged(self._residual[axis], region).histogram(0, _RANGE[axis]) for axis in AXES} for region in REGIONS
            },
        }

    def _region(self, region: str, spreads: dict[str, Spread]) -> dict[str, Any]:
        return {axis: self._merged(spreads[axis], region).summary(0) for axis in AXES}

    def _merged(self, spread: Spread, region: str) -> Spread:
        """One cell with all layers of a region."""
        barrel = np.array([self._geometry.is_barrel[self._geometry.layer == i].any() for i in range(len(self._geometry.layer_names))])
        return spread.merged(barrel == (region == "barrel"))


def _primary(truth: Truth) -> Bools:
    """Crossings of generator particles on their way out (first half-turn)."""
    part = truth["hit_part"]
    primary: Bools = (truth["hit_pass"] == 0) & (part >= 0) & (truth["part_src"][part] == 0)
    return primary
