"""Track parameters of a generated particle, at the same place where the fit has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.validation.definitions import Floats, Ints
from hltfarm.loadgen.validation.event import Geometry, floats


@dataclass(frozen=True, eq=False)
class Perigee:
    """Helix at the point of closest approach to the beam line (n,): rad, cm relative to the beam spot, 1/GeV."""

    phi: Floats
    tip: Floats
    q_over_pt: Floats
    cot_theta: Floats
    zip: Floats


def wrapped(angle: Floats) -> Floats:
    """The angle within [-pi, pi)."""
    inside: Floats = (angle + np.pi) % (2 * np.pi) - np.pi
    return inside


def perigee(truth: dict[str, NDArray[Any]], particles: Ints, geometry: Geometry) -> Perigee:
    """Parameters of charged particles: the helix through the production point, followed to its closest approach to the z axis.

    With signed radius R = q pt / B (positive: clockwise), centre C = X + R (sin phi, -cos phi) and s = sign R: tip = s |C| - R,
    direction there (cos phi0, sin phi0) = s / |C| (-C_y, C_x), and zip = z + R (phi - phi0) cot theta.
    """
    x, y, z = (floats(truth[f"part_v{axis}"][particles]) - spot for axis, spot in zip("xyz", geometry.beam_spot, strict=True))
    pt, eta, phi = (floats(truth[f"part_{name}"][particles]) for name in ("pt", "eta", "phi"))
    charge = floats(truth["part_q"][particles])
    q_over_pt = charge / pt
    radius = 1 / (q_over_pt * geometry.gev_per_cm)
    cx, cy = x + radius * np.sin(phi), y - radius * np.cos(phi)
    sign = np.sign(radius)
    phi0 = np.arctan2(sign * cx, -sign * cy)
    cot = np.sinh(eta)
    return Perigee(phi0, sign * np.hypot(cx, cy) - radius, q_over_pt, cot, z + radius * wrapped(phi - phi0) * cot)
