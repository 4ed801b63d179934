"""Charged particles on their way into the detector, and what their passage leaves."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

ELECTRON_MASS = 0.000510999
PION_MASS = 0.13957
PROTON_MASS = 0.93827

#: `Particles.source`
GENERATOR, CONVERSION, SECONDARY, OUT_OF_TIME = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one length."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, i: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[i] for f in fields(self)})

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """One table after the other; at least one part is needed."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


@dataclass(frozen=True, eq=False)
class Particles(Table):
    """n particles where they are produced. cm, GeV."""

    interaction: NDArray[np.int32]  # (n,) index of the event's interaction
    pdg: NDArray[np.int32]  # (n,)
    charge: NDArray[np.int8]  # (n,)
    mass: NDArray[np.float64]  # (n,)
    position: NDArray[np.float64]  # (n, 3)
    momentum: NDArray[np.float64]  # (n, 3)
    source: NDArray[np.int8]  # (n,)


@dataclass(frozen=True, eq=False)
class Crossings(Table):
    """n points where particles cross the mid-plane of a sensor, in the order of each particle's path."""

    particle: NDArray[np.int32]  # (n,) index into the Particles that were propagated
    module: NDArray[np.int32]  # (n,)
    local: NDArray[np.float64]  # (n, 2) x and y in the module's frame
    slope: NDArray[np.float64]  # (n, 2) dx/dz and dy/dz in the module's frame: cot(alpha), cot(beta)
    point: NDArray[np.float64]  # (n, 3) global
    direction: NDArray[np.float64]  # (n, 3) unit vector, global
    momentum: NDArray[np.float64]  # (n,) GeV, before the material of this layer
    half_turn: NDArray[np.int8]  # (n,) turning points (apogee, perigee) passed since the production


@dataclass(frozen=True, eq=False)
class Interactions(Table):
    """Points where a hadron ended in a nuclear interaction."""

    particle: NDArray[np.int32]  # (n,)
    point: NDArray[np.float64]  # (n, 3)
    direction: NDArray[np.float64]  # (n, 3)
    momentum: NDArray[np.float64]  # (n,)
