"""Helices in a field along z.

A state is a point (x, y, z), the direction phi in the transverse plane, tan_lambda = dz/ds and the signed curvature h = dphi/ds in 1/cm,
s being the transverse path length. A positive charge in a field along +z turns clockwise: h = -q B / pt.
All functions are vectorised over states and use float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation.geometry import Geometry

Floats = NDArray[np.float64]

#: GeV/c per cm of radius and tesla: pt = LIGHT * B * radius.
LIGHT = 0.299792458e-2
NEWTON_STEPS = 6


@dataclass(eq=False)
class States:
    """Points and directions on n helices; every field has the shape (n,)."""

    x: Floats
    y: Floats
    z: Floats
    phi: Floats
    tan_lambda: Floats
    h: Floats

    def take(self, i: NDArray[np.int64]) -> States:
        """The states with these indices, copied."""
        return States(self.x[i], self.y[i], self.z[i], self.phi[i], self.tan_lambda[i], self.h[i])


def curvature(charge: Floats, pt_gev: Floats, field_tesla: float) -> Floats:
    """Signed curvature h in 1/cm."""
    return -charge * LIGHT * field_tesla / pt_gev


def advance(state: States, s: Floats) -> States:
    """States after a transverse path s in cm."""
    phi = state.phi + state.h * s
    # Chord form: exact, and without cancellation for straight tracks.
    half = 0.5 * state.h * s
    chord = s * np.sinc(half / np.pi)
    mid = state.phi + half
    return States(
        state.x + chord * np.cos(mid), state.y + chord * np.sin(mid), state.z + s * state.tan_lambda, phi, state.tan_lambda, state.h
    )


@dataclass(frozen=True, eq=False)
class Orbit:
    """Circle of a helix seen from the beam axis. `turn` is the angle run through since the point nearest to the axis, in (-pi, pi].

    r^2 = (radius - distance)^2 + 4 radius distance sin^2(turn / 2): no cancellation, however straight the track.
    """

    radius: Floats
    closest: Floats  # |radius - distance|
    product: Floats  # 4 radius distance
    turn: Floats

    @property
    def farthest(self) -> Floats:
        """Largest distance from the axis."""
        return np.sqrt(self.closest**2 + self.product)

    def radius_at(self, turn: Floats) -> Floats:
        """Distance from the axis at a turn angle."""
        out: Floats = np.sqrt(self.closest**2 + self.product * np.sin(0.5 * turn) ** 2)
        return out

    def turn_at(self, r: Floats) -> Floats:
        """Angle in [0, pi] at which the circle is at radius r; 0 or pi where it does not get so near or far."""
        sin2 = (r**2 - self.closest**2) / np.maximum(self.product, 1e-12)
        out: Floats = 2.0 * np.arcsin(np.sqrt(np.clip(sin2, 0.0, 1.0)))
        return out


def orbit(state: States) -> Orbit:
    """Orbit of each state."""
    radius = 1.0 / np.abs(state.h)
    c, s = np.cos(state.phi), np.sin(state.phi)
    radial = state.x * c + state.y * s  # r . direction: > 0 on the way out
    across = np.sign(state.h) * (state.y * c - state.x * s)
    # centre = r + radius * (left or right normal); |centre|^2 = radius^2 - 2 radius across' + r^2
    r2 = state.x**2 + state.y**2
    distance = np.sqrt(np.maximum(radius**2 + 2.0 * radius * across + r2, 0.0))
    closest = np.abs((2.0 * radius * across + r2) / (radius + distance))
    product = 4.0 * radius * distance
    sin2 = np.clip((r2 - closest**2) / np.maximum(product, 1e-12), 0.0, 1.0)
    turn = 2.0 * np.arcsin(np.sqrt(sin2))
    return Orbit(radius, closest, product, np.where(radial >= 0, turn, -turn))


def cross_planes(state: States, s: Floats, module: NDArray[np.int64], geometry: Geometry) -> tuple[Floats, NDArray[np.bool_]]:
    """Transverse path length at which each helix meets the plane of its module, by Newton's method from the guess s.

    Returns the paths and whether the iteration converged (1e-9 cm); a helix parallel to its plane does not.
    """
    normal = geometry.rotation[module, 2]
    offset = np.einsum("ij,ij->i", normal, geometry.position[module])
    # A step beyond a quarter turn would land on another crossing.
    largest = np.minimum(5.0, 1.0 / np.maximum(np.abs(state.h), 1e-12))
    step = np.zeros_like(s)
    s = s.copy()
    for _ in range(NEWTON_STEPS):
        at = advance(state, s)
        value = normal[:, 0] * at.x + normal[:, 1] * at.y + normal[:, 2] * at.z - offset
        slope = normal[:, 0] * np.cos(at.phi) + normal[:, 1] * np.sin(at.phi) + normal[:, 2] * at.tan_lambda
        slope = np.where(np.abs(slope) < 1e-6, np.copysign(1e-6, slope), slope)
        step = np.clip(value / slope, -largest, largest)
        s -= step
    return s, np.abs(step) < 1e-9
