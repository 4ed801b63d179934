"""One reconstructed event, and what must be known of the detector, as the study wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hltfarm.loadgen.validation.definitions import Bools, Floats, Ints
from hltfarm.proto.detector import Detector
from hltfarm.proto.errors import SampleError

#: GeV per (cm tesla): pt = GEV_PER_CM_TESLA * field * radius.
GEV_PER_CM_TESLA = 0.00299792458

#: Truth arrays that the study reads (docs/sample-format.md).
TRUTH = {
    "vtx": ("xyz", "hs"),
    "part": ("vtx", "q", "pt", "eta", "phi", "vx", "vy", "vz", "src"),
    "hit": ("part", "module", "lx", "ly", "pass"),
    "digi": ("module", "row", "col", "hit"),
}


@dataclass(frozen=True, eq=False)
class Geometry:
    """Of the detector: layer and kind of every module (n_modules,), beam spot (cm), field."""

    layer: Ints
    is_barrel: Bools
    layer_names: tuple[str, ...]
    beam_spot: tuple[float, float, float]
    field_tesla: float

    @classmethod
    def of(cls, detector: Detector) -> Geometry:
        """The tables of a detector description."""
        spot = detector.beam_spot
        return cls(
            detector.modules.layer.astype(np.int64),
            detector.modules.is_barrel.astype(np.bool_),
            tuple(layer.name for layer in detector.layers),
            (spot.x, spot.y, spot.z),
            detector.field_tesla,
        )

    @property
    def gev_per_cm(self) -> float:
        """pt of a particle with a radius of curvature of 1 cm."""
        return GEV_PER_CM_TESLA * self.field_tesla


@dataclass(frozen=True, eq=False)
class Hits:
    """Rec hits of an event (h,): module, local position (cm) and, where known, its variance (cm^2)."""

    module: Ints
    x_local: Floats
    y_local: Floats
    x_error2: Floats | None = None
    y_error2: Floats | None = None


@dataclass(frozen=True, eq=False)
class Digis:
    """Fired pixels of an event (d,): where they are, and the hit they belong to (-1: none)."""

    module: Ints
    row: Ints
    col: Ints
    hit: Ints


@dataclass(frozen=True, eq=False)
class Tracks:
    """Tracks of an event (t,). Momenta in GeV, lengths in cm relative to the beam spot.

    `tip` is positive where the point of closest approach lies right of the flight direction. `hits` (t, most hits of a track) counts
    within the event, -1 fills up. `cov` (t, 15): upper triangle of the covariance of (phi, tip, q/pt, cot theta, zip), row by row.
    """

    pt: Floats
    eta: Floats
    phi: Floats
    tip: Floats
    zip: Floats
    chi2: Floats
    charge: Ints
    n_hits: Ints
    quality: Ints
    hits: Ints
    cov: Floats | None = None

    def __len__(self) -> int:
        return len(self.pt)


@dataclass(frozen=True, eq=False)
class Vertices:
    """Vertices of an event (v,): z relative to the beam spot (cm), degrees of freedom, chi2, sum of the squared pt (GeV^2).

    `error`, where known: of z (cm).
    """

    z: Floats
    ndof: Ints
    chi2: Floats
    sum_pt2: Floats
    error: Floats | None = None

    def __len__(self) -> int:
        return len(self.z)


@dataclass(frozen=True, eq=False)
class EventReco:
    """What the chain made of an event; tracks and vertices are None where the chain does not reach them."""

    hits: Hits
    digis: Digis
    tracks: Tracks | None = None
    vertices: Vertices | None = None

    @classmethod
    def of(
        cls,
        hits: Mapping[str, NDArray[Any]],
        digis: Mapping[str, NDArray[Any]],
        tracks: Mapping[str, NDArray[Any]] | None = None,
        vertices: Mapping[str, NDArray[Any]] | None = None,
    ) -> EventReco:
        """From columns by name, as a batch result has them; `tracks["hits"]` is (t, most hits), filled up with -1."""
        return cls(
            Hits(
                integers(hits["module"]),
                floats(hits["x_local"]),
                floats(hits["y_local"]),
                floats(hits["x_error2"]) if "x_error2" in hits else None,
                floats(hits["y_error2"]) if "y_error2" in hits else None,
            ),
            Digis(*(integers(digis[name]) for name in ("module", "row", "col", "hit"))),
            None if tracks is None else _tracks(tracks),
            None if vertices is None else _vertices(vertices),
        )


def _tracks(t: Mapping[str, NDArray[Any]]) -> Tracks:
    return Tracks(
        pt=floats(t["pt"]),
        eta=floats(t["eta"]),
        phi=floats(t["phi"]),
        tip=floats(t["tip"]),
        zip=floats(t["zip"]),
        chi2=floats(t["chi2"]),
        charge=integers(t["charge"]),
        n_hits=integers(t["n_hits"]),
        quality=integers(t["quality"]),
        hits=integers(t["hits"]),
        cov=floats(t["cov"]) if "cov" in t else None,
    )


def _vertices(v: Mapping[str, NDArray[Any]]) -> Vertices:
    return Vertices(
        z=floats(v["z"]),
        ndof=integers(v["ndof"]),
        chi2=floats(v["chi2"]),
        sum_pt2=floats(v["sum_pt2"]),
        error=floats(v["error"]) if "error" in v else None,
    )


def floats(values: ArrayLike) -> Floats:
    """As float64."""
    return np.asarray(values, np.float64)


def integers(values: ArrayLike) -> Ints:
    """As int64."""
    return np.asarray(values).astype(np.int64)


def check_truth(truth: Mapping[str, NDArray[Any]], where: str) -> None:
    """Raise SampleError if an array that the study reads is missing, or has another length than its group."""
    for group, names in TRUTH.items():
        lengths = set()
        for name in names:
            array = truth.get(f"{group}_{name}")
            if array is None:
                raise SampleError(f"{where}: truth without {group}_{name}; simulate the sample with truth")
            lengths.add(len(array))
        if len(lengths) > 1:
            raise SampleError(f"{where}: truth arrays {group}_* of different lengths; copy or simulate the sample again")
