"""Helix of a track by broken lines, in float64: Blobel, NIM A 566 (2006) 14; Blobel, Kleinwort, Meier, CPC 182 (2011) 1760;
circle parameters and their translation after Karimaki, NIM A 305 (1991) 187; scattering after Highland in the PDG's form.

Notation. p_i = (x_i, y_i), u x v = u_x v_y - u_y v_x; q = charge for a field along +z, k > 0 turns clockwise, k = q (1/R + dkappa);
s = arc length from the point of closest approach (PCA) of the first circle, sigma = dz/ds; S, Z = s, z rotated by atan(sigma).
PCA = tip (sin phi, -cos phi). The system matrix is written down as G: chi2 = sum w (y - u)^2 + sum beta^2 / V with beta = G u, so that
C = diag(w) + G^T V^-1 G. `upstream` selects what the reference programs compute:

* charge from (p_1 - p_0) x (p_{n-1} - p_{n-2}) instead of the three points of the circle (unless these are on a line);
* the weights of the line fit without the charge;
* circle parameters by way of the midpoint of the first two corrected hits, with the sagitta of the first circle, the wrong sign of
  d(phi)/d(u_0), and reference points whose motion is forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RADIATION_LENGTHS_PER_CM = 0.06 / 16
MAX_SCATTERING_MOMENTUM = 20.0  # GeV
MIN_LENGTH = 1e-4  # cm between consecutive hits
MIN_CURVATURE = 1e-6  # 1/cm; straighter first circles are replaced by one of this curvature


@dataclass(frozen=True, eq=False)
class Helix:
    """`state` = (phi, tip, q/pt, cot theta, zip), `cov` its packed upper triangle (15,); chi2 per degree of freedom."""

    state: Floats
    cov: Floats
    chi2: float
    pt: float
    eta: float


@dataclass(frozen=True)
class Circle:
    """Karimaki's parameters of a circle (phi, d, k) relative to a reference point, and their covariance (3, 3)."""

    parameters: Floats
    cov: Floats


def fit_helix(x: Floats, e: Floats, field: float, upstream: bool = False) -> Helix | None:
    """Fit hits `x` (n, 3) with covariances `e` (n, 6: xx, xy, yy, xz, yz, zz); None if there is no such helix."""
    with np.errstate(all="ignore"):
        found = _fit(np.asarray(x, np.float64), np.asarray(e, np.float64), field, upstream)
    if found is None or not all(np.isfinite(v).all() for v in (found.state, found.cov, found.chi2, found.pt, found.eta)):
        return None
    return found


def scattering(length: float, momentum: float, slope: float) -> float:
    """Variance of a planar angle behind `length` cm of uniform material."""
    depth = abs(length) * RADIATION_LENGTHS_PER_CM
    if depth == 0:
        return math.nan
    return 0.7 * 0.0136**2 * depth * (1 + 0.038 * math.log(depth)) ** 2 / (momentum**2 * (1 + slope**2))


def broken_line(t: Floats, y: Floats, w: Floats, v: Floats, curved: bool) -> tuple[Floats, Floats, float]:
    """Solution u (with dkappa last, if curved), its covariance, and chi2; v[i] is the variance of the kink at inner hit i."""
    n = len(t)
    g = np.zeros((n - 2, n + curved))
    for i in range(1, n - 1):
        before, after = 1 / (t[i] - t[i - 1]), 1 / (t[i + 1] - t[i])
        g[i - 1, i - 1], g[i - 1, i], g[i - 1, i + 1] = before, -(before + after), after
        if curved:
            g[i - 1, n] = (t[i + 1] - t[i - 1]) / 2
    c = g.T @ np.diag(1 / v[1:-1]) @ g
    c[np.arange(n), np.arange(n)] += w
    inverse = np.linalg.inv(c)
    u = np.linalg.solve(c, np.concatenate([w * y, np.zeros(int(curved))]))
    return u, inverse, float((w * (y - u[:n]) ** 2).sum() + ((g @ u) ** 2 / v[1:-1]).sum())


def translate(circle: Circle, x0: float, y0: float) -> Circle:
    """The same circle relative to another point; (x0, y0) is the old reference point as seen from the new one."""
    phi, d, k = circle.parameters
    sin, cos = math.sin(phi), math.cos(phi)
    along, across = x0 * cos + y0 * sin, x0 * sin - y0 * cos + d
    zeta, upsilon, nu = across**2 + along**2, 1 + k * d, 1 + k * across
    b, c = k * x0 + upsilon * sin, -k * y0 + upsilon * cos
    a = 2 * across + k * zeta
    u = math.sqrt(1 + k * a)
    xi, mu, lam = 1 / (b * b + c * c), 1 / (2 * u), a / (2 * u * (1 + u) ** 2)
    jacobian = np.array(
        [
            [xi * upsilon * nu, -xi * k * k * along, xi * along],
            [2 * mu * upsilon * along, 2 * mu * nu, mu * zeta - lam * a],
            [0, 0, 1],
        ]
    )
    return Circle(np.array([math.atan2(b, c), a / (1 + u), k]), jacobian @ circle.cov @ jacobian.T)


def _cross(u: Floats, v: Floats) -> float:
    return float(u[0] * v[1] - u[1] * v[0])


def first_circle(p: Floats) -> tuple[Floats, float, float]:
    """Centre, radius and charge of the circle through the first, the middle (n // 2) and the last point.

    Points on a line (curvature up to MIN_CURVATURE) get a circle of that curvature to the right of the direction; the fit restores it.
    """
    a, b, c = p[len(p) // 2] - p[0], p[-1] - p[len(p) // 2], p[0] - p[-1]
    la, lb, lc = (float(np.hypot(*v)) for v in (a, b, c))
    if 2 * abs(_cross(b, a)) <= MIN_CURVATURE * la * lb * lc:
        radius = 1 / MIN_CURVATURE
        return p[0] + radius * np.array([-c[1], c[0]]) / lc, radius, 1.0
    twice = 2 * _cross(c, a)
    centre = p[0] + np.array([-(a[1] * lc**2 + c[1] * la**2), a[0] * lc**2 + c[0] * la**2]) / twice
    return centre, la * lb * lc / (2 * abs(_cross(b, a))), -1.0 if _cross(a, b) > 0 else 1.0


def _fit(x: Floats, e: Floats, field: float, upstream: bool) -> Helix | None:
    n, p, z = len(x), x[:, :2], x[:, 2]
    h = n // 2
    if min(np.hypot(*(p[j] - p[i])) for i, j in ((0, h), (h, n - 1), (0, n - 1))) == 0:
        return None
    centre, radius, q = first_circle(p)
    if upstream and radius * MIN_CURVATURE < 1:
        q = -1.0 if _cross(p[1] - p[0], p[-1] - p[-2]) > 0 else 1.0
    rho = p - centre
    distance = np.hypot(rho[:, 0], rho[:, 1])
    if np.hypot(*centre) == 0:
        return None
    turn = math.atan2(_cross(rho[0], rho[-1]), float(rho[0] @ rho[-1]))
    slope = -q * (z[-1] - z[0]) / (radius * turn)
    cos, sin = 1 / math.sqrt(1 + slope**2), slope / math.sqrt(1 + slope**2)
    normal = rho / distance[:, None]
    pca = -radius * centre / np.hypot(*centre)
    s = np.array([q * radius * math.atan2(_cross(r, pca), float(r @ pca)) for r in rho])
    along, across = cos * s + sin * z, -sin * s + cos * z
    if np.abs(np.diff(along)).min() < MIN_LENGTH or np.abs(np.diff(s)).min() < MIN_LENGTH:
        return None
    momentum = min(MAX_SCATTERING_MOMENTUM, field * radius)
    theta2 = np.array([scattering(d, momentum, slope) for d in np.diff(along)])
    kink = np.concatenate([[0], theta2[:-1] + theta2[1:], [0]])

    # line, in (S, Z)
    charge = 1.0 if upstream else q
    direction = np.stack([-charge * sin * normal[:, 1], charge * sin * normal[:, 0], np.full(n, cos)], axis=1)
    matrices = np.array([[[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]] for xx, xy, yy, xz, yz, zz in e])
    weight = 1 / np.einsum("ni,nij,nj->n", direction, matrices, direction)
    u, inverse, chi2_line = broken_line(along, across, weight, kink, curved=False)
    length = along[1] - along[0]
    inclination, offset = (u[1] - u[0]) / length, u[0]
    mixed = (inverse[0, 1] - inverse[0, 0]) / length
    line = np.array(
        [
            [(inverse[0, 0] - 2 * inverse[0, 1] + inverse[1, 1]) / length**2 + scattering(length, momentum, slope), mixed],
            [mixed, inverse[0, 0]],
        ]
    )
    offset -= inclination * along[0]
    shift = np.array([[1, 0], [-along[0], 1]])
    line = shift @ line @ shift.T
    t = cos - inclination * sin
    cot, zip_ = (sin + inclination * cos) / t, offset / t
    back = np.array([[1 / t**2, 0], [offset * sin / t**2, 1 / t]])
    line = back @ line @ back.T

    # circle, in (s, distance from the first circle)
    residual = distance - radius
    weight = 1 / np.einsum("ni,nij,nj->n", normal, matrices[:, :2, :2], normal)
    u, inverse, chi2_circle = broken_line(s, residual, weight, kink * (1 + slope**2), curved=True)
    k = q * (1 / radius + u[n])
    chosen = [0, 1, n]
    inverse = inverse[np.ix_(chosen, chosen)]
    first, second = (p[i] + (u[i] - residual[i]) * normal[i] for i in (0, 1))
    m = second - first
    chord = float(np.hypot(*m))
    if abs(k) * chord >= 2:
        return None
    extra = np.diag([(1 + slope**2) * scattering(length, momentum, slope), 0, 0])
    if upstream:
        if chord >= 2 * radius:
            return None
        sagitta = chord**2 / 4 / (radius + math.sqrt(radius**2 - chord**2 / 4))
        jacobian = np.array([[_cross(m, normal[0]), _cross(m, normal[1]), 0], [0, 0, 0], [0, 0, q]])
        jacobian[0, :2] /= chord**2
        circle = Circle(np.array([math.atan2(m[1], m[0]), -q * sagitta, k]), jacobian @ inverse @ jacobian.T)
        circle = translate(circle, m[0] / 2, m[1] / 2)
        circle = Circle(circle.parameters, circle.cov + extra)
    else:
        cos_lead = math.sqrt(1 - k * k * chord**2 / 4)
        phi = math.atan2(m[1], m[0]) + math.asin(k * chord / 2)
        tau, nu = np.array([math.cos(phi), math.sin(phi)]), np.array([math.sin(phi), -math.cos(phi)])
        bend = [k * float(m @ normal[i]) / (2 * chord * cos_lead) for i in (0, 1)]
        jacobian = np.array(
            [
                [
                    -_cross(m, normal[0]) / chord**2 - bend[0] + k * float(normal[0] @ tau),
                    _cross(m, normal[1]) / chord**2 + bend[1],
                    q * chord / (2 * cos_lead),
                ],
                [float(normal[0] @ nu), 0, 0],
                [0, 0, q],
            ]
        )
        circle = Circle(np.array([phi, 0, k]), jacobian @ inverse @ jacobian.T + extra)
    circle = translate(circle, first[0], first[1])

    (phi, tip, k), scale = circle.parameters, np.diag([1, 1, 1 / field])
    full = np.zeros((5, 5))
    full[:3, :3], full[3:, 3:] = scale @ circle.cov @ scale, line
    return Helix(
        np.array([phi, tip, k / field, cot, zip_]),
        full[np.triu_indices(5)],
        (chi2_circle + chi2_line) / (2 * n - 5),
        field / abs(k) if k != 0 else math.inf,
        math.asinh(cot),
    )
