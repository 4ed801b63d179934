"""What follows from the silicon: how far charge drifts sideways in a magnetic field, and how well a cluster tells a position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def lorentz_drift(field_local: F64, mobility: F64, thickness: F64) -> tuple[F64, F64]:
    """Drift over the thickness in local x and y: v ~ E + mu E x B + mu^2 (E.B) B with E along local z (stationary Langevin equation)."""
    mb = mobility[:, None] * field_local
    along_z = 1 + mb[:, 2] ** 2
    return thickness * (mb[:, 1] + mb[:, 2] * mb[:, 0]) / along_z, thickness * (mb[:, 2] * mb[:, 1] - mb[:, 0]) / along_z


def hit_errors_x(pitch: float, spread: F64) -> F32:
    """(n, 3) errors along rows, cm, of charge that spreads over `spread` (n,)."""
    return _hit_errors(pitch, spread, np.hypot(3.5e-4, 0.05 * spread), 5e-4)


def hit_errors_y(pitch: float, spread: F64) -> F32:
    """The same along columns, where tracks are inclined and clusters long."""
    return _hit_errors(pitch, spread, np.hypot(5e-4, 20e-4 * (1 - np.exp(-spread / 200e-4))), 7e-4)


def _hit_errors(pitch: float, spread: F64, shared: F64, least: float) -> F32:
    """(n, 3) errors in cm: clusters of several pixels (`shared`); one pixel; one double pixel.

    A charge that spreads over w leaves a single pixel only |pitch - w| of room: a uniform density over that width, at least `least`.
    """

    def single(width: float) -> F64:
        return np.asarray(np.clip(np.abs(width - spread), least * np.sqrt(12), width) / np.sqrt(12), np.float64)

    return np.stack([shared, single(pitch), single(2 * pitch)], 1).astype(np.float32)
