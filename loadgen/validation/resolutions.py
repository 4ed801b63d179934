"""Track parameters against those of the matched particle: resolutions, biases and pulls of all five, and of pt."""

from __future__ import annotations

from typing import Any

import numpy as np

from hltfarm.loadgen.validation.binned import Spread
from hltfarm.loadgen.validation.definitions import FINE_ETA, FINE_PT, REGIONS, TABLE_PT, Axis, Cuts, Floats, Ints, selected
from hltfarm.loadgen.validation.event import Geometry, Tracks
from hltfarm.loadgen.validation.helix import perigee, wrapped
from hltfarm.loadgen.validation.matching import TrackMatch, Truth

#: Parameter -> (scale, limit) of its histogram: rad, cm, relative, -, cm, relative.
PARAMETERS: dict[str, tuple[float, float]] = {
    "phi": (1e-5, 3.2),
    "tip": (1e-5, 10.0),
    "q_over_pt": (1e-4, 100.0),
    "cot_theta": (1e-5, 10.0),
    "zip": (1e-5, 100.0),
    "pt": (1e-4, 1000.0),
}
UNITS = {"phi": "rad", "tip": "cm", "q_over_pt": "relative", "cot_theta": "", "zip": "cm", "pt": "relative"}
#: Parameter -> place of its variance in the packed covariance.
VARIANCES = {"phi": 0, "tip": 5, "q_over_pt": 9, "cot_theta": 12, "zip": 14}
#: Tracks whose resolutions are shown.
SHAPES = ("quadruplets", "triplets")
#: Half range of the plotted pulls.
PULL_RANGE = 6.0


class ResolutionStudy:
    """Sums over events; `add` one event after the other, then `document`."""

    def __init__(self, geometry: Geometry, cuts: Cuts) -> None:
        self._geometry, self._cuts = geometry, cuts
        regions = len(REGIONS)
        self._table = {s: _spreads(regions * TABLE_PT.bins) for s in SHAPES}
        self._fine_pt = {s: _spreads(regions * FINE_PT.bins) for s in SHAPES}
        self._fine_eta = {s: _spreads(FINE_ETA.bins) for s in SHAPES}
        self._pulls = {s: {p: Spread(regions, 0.01, 1000.0) for p in VARIANCES} for s in SHAPES}
        self._with_pulls = False

    def add(self, tracks: Tracks, truth: Truth, match: TrackMatch) -> None:
        """Count the matched tracks of an event whose particle is charged and produced near the beam line."""
        x, y, _ = self._geometry.beam_spot
        near = np.hypot(truth["part_vx"] - x, truth["part_vy"] - y) < self._cuts.radius_max_cm
        good = near & (truth["part_q"] != 0) & (np.abs(truth["part_eta"]) < self._cuts.eta_max)
        for shape in SHAPES:
            at = np.flatnonzero(selected(tracks.quality, tracks.n_hits, shape) & match.matched)
            at = at[good[match.particle[at]]]
            self._add(shape, tracks, at, truth, match.particle[at])

    def _add(self, shape: str, tracks: Tracks, at: Ints, truth: Truth, particle: Ints) -> None:
        true = perigee(truth, particle, self._geometry)
        pt, eta = truth["part_pt"][particle].astype(np.float64), truth["part_eta"][particle].astype(np.float64)
        difference: dict[str, Floats] = {
            "phi": wrapped(tracks.phi[at] - true.phi),
            "tip": tracks.tip[at] - true.tip,
            "q_over_pt": tracks.charge[at] / tracks.pt[at] - true.q_over_pt,
            "cot_theta": np.sinh(tracks.eta[at]) - true.cot_theta,
            "zip": tracks.zip[at] - true.zip,
        }
        residual = difference | {"q_over_pt": difference["q_over_pt"] / true.q_over_pt, "pt": tracks.pt[at] / pt - 1}
        region = (np.abs(eta) >= self._cuts.barrel_eta_max).astype(np.int64)
        hard = pt > self._cuts.pt_min_gev
        in_eta = np.where(hard, FINE_ETA.index(eta), -1)
        for name, values in residual.items():
            self._table[shape][name].add(_cell(TABLE_PT, region, pt), values)
            self._fine_pt[shape][name].add(_cell(FINE_PT, region, pt), values)
            self._fine_eta[shape][name].add(in_eta, values)
        if tracks.cov is None:
            return
        self._with_pulls |= len(at) > 0
        for name, place in VARIANCES.items():
            variance = tracks.cov[at, place]
            # A variance that is not positive is no error estimate: it counts as an infinite pull.
            bad = np.where(difference[name] < 0, -np.inf, np.inf)
            pull = np.where(variance > 0, difference[name] / np.sqrt(np.where(variance > 0, variance, 1.0)), bad)
            self._pulls[shape][name].add(np.where(hard, region, -1), pull)

    def document(self) -> dict[str, Any]:
        """Tables by region and pt, curves against pt and eta; pulls None where the tracks came without a covariance."""
        return {
            "resolutions": {
                s: {p: _by_region(TABLE_PT, spread) for p, spread in self._table[s].items()} | {"pt_edges": list(TABLE_PT.edges)}
                for s in SHAPES
            },
            "resolutions_against_pt": {
                s: {p: _by_region(FINE_PT, spread) for p, spread in self._fine_pt[s].items()} | {"edges": list(FINE_PT.edges)}
                for s in SHAPES
            },
            "resolutions_against_eta": {
                s: {p: [spread.summary(i) for i in range(FINE_ETA.bins)] for p, spread in self._fine_eta[s].items()}
                | {"edges": list(FINE_ETA.edges)}
                for s in SHAPES
            },
            "pulls": {
                s: {
                    p: {
                        **{region: spread.summary(i) for i, region in enumerate(REGIONS)},
                        "all": spread.summary(),
                        "distribution": spread.histogram(None, PULL_RANGE),
                    }
                    for p, spread in self._pulls[s].items()
                }
                for s in SHAPES
            }
            if self._with_pulls
            else None,
        }


def _spreads(cells: int) -> dict[str, Spread]:
    return {name: Spread(cells, scale, limit) for name, (scale, limit) in PARAMETERS.items()}


def _cell(axis: Axis, region: Ints, pt: Floats) -> Ints:
    k = axis.index(pt)
    cell: Ints = np.where(k >= 0, region * axis.bins + k, -1)
    return cell


def _by_region(axis: Axis, spread: Spread) -> dict[str, Any]:
    return {region: [spread.summary(i * axis.bins + k) for k in range(axis.bins)] for i, region in enumerate(REGIONS)}
