"""What is counted: the cuts of the study, its axes and its selections of tracks (docs/validation.md says it in words)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Track quality, as reconstructed.
LOOSE = 2
HIGH_PURITY = 3


@dataclass(frozen=True)
class Cuts:
    """Which particles and vertices count, and when something is matched."""

    pt_min_gev: float = 0.9  # lower: particles that the doublet cut (0.5 GeV) already loses; higher: fewer particles
    eta_max: float = 2.5  # higher: particles that leave the detector at its ends
    radius_max_cm: float = 0.3  # production radius; higher: decays and conversions that miss the first layer
    match_fraction: float = 0.75  # of the hits of a track; lower: more tracks count as found, fewer as fake
    vertex_window_cm: float = 0.05  # along z; lower: good vertices count as fake; higher: chance coincidences
    vertex_pt_min_gev: float = 0.5  # of the particles that make a collision visible
    vertex_layers: int = 4  # that these particles cross
    vertex_particles: int = 2  # how many of them
    barrel_eta_max: float = 1.4  # border between "barrel" and "forward" tracks in the tables of resolutions


@dataclass(frozen=True)
class Axis:
    """Bins of a variable. Values outside are left out; an open end takes them into the first or last bin."""

    name: str
    label: str
    edges: tuple[float, ...]
    log: bool = False
    open_low: bool = False
    open_high: bool = False

    @property
    def bins(self) -> int:
        return len(self.edges) - 1

    def index(self, values: ArrayLike) -> Ints:
        """Bin of every value, -1 for those left out (NaN included). Bins are closed below and open above."""
        v = np.asarray(values, np.float64)
        k: Ints = np.searchsorted(np.array(self.edges), v, side="right").astype(np.int64) - 1
        k[v < self.edges[0]] = 0 if self.open_low else -1
        k[v >= self.edges[-1]] = self.bins - 1 if self.open_high else -1
        k[np.isnan(v)] = -1
        return k


def _even(low: float, high: float, bins: int) -> tuple[float, ...]:
    return tuple(float(x) for x in np.linspace(low, high, bins + 1))


PT_EDGES = (0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0)
_RADIUS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

#: Axes of particles, for efficiencies.
PARTICLE_AXES: tuple[Axis, ...] = (
    Axis("pt", "generated pT [GeV]", PT_EDGES, log=True, open_high=True),
    Axis("eta", "generated η", _even(-3, 3, 30)),
    Axis("phi", "generated φ [rad]", _even(-np.pi, np.pi, 24), open_low=True, open_high=True),
    Axis("radius", "production radius [cm]", _RADIUS, log=True, open_low=True),
    Axis("pileup", "additional collisions", _even(0, 250, 25), open_high=True),
)

#: Axes of tracks, for fake and duplicate rates; the impact parameter stands for the production radius, which a fake has not.
TRACK_AXES: tuple[Axis, ...] = (
    Axis("pt", "track pT [GeV]", PT_EDGES, log=True, open_high=True),
    Axis("eta", "track η", _even(-3, 3, 30)),
    Axis("phi", "track φ [rad]", _even(-np.pi, np.pi, 24), open_low=True, open_high=True),
    Axis("tip", "|transverse impact parameter| [cm]", _RADIUS[:-2], log=True, open_low=True, open_high=True),
    Axis("pileup", "additional collisions", _even(0, 250, 25), open_high=True),
)

#: Smallest number of layers that a particle of the denominator crosses, by name.
DENOMINATORS: dict[str, int] = {"all": 0, "layers3": 3, "layers4": 4}

#: Name -> (smallest quality, fewest hits, most hits).
SELECTIONS: dict[str, tuple[int, int, int]] = {
    "loose": (LOOSE, 3, 99),
    "quadruplets": (LOOSE, 4, 99),
    "triplets": (LOOSE, 3, 3),
    "high_purity": (HIGH_PURITY, 3, 99),
}

#: Axes of the resolutions.
TABLE_PT = Axis("pt", "generated pT [GeV]", (0.9, 1.5, 3.0, 10.0, 1000.0))
FINE_PT = Axis("pt", "generated pT [GeV]", (0.5, 0.7, 0.9, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0), log=True)
FINE_ETA = Axis("eta", "generated η", _even(-2.5, 2.5, 20))
REGIONS = ("barrel", "forward")


def selected(quality: NDArray[np.integer], n_hits: NDArray[np.integer], name: str) -> Bools:
    """Mask of the tracks of a selection."""
    lowest, fewest, most = SELECTIONS[name]
    return (quality >= lowest) & (n_hits >= fewest) & (n_hits <= most)
