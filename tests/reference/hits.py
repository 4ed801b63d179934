"""Clusters to hits: the position of a particle from the edges of its cluster.

Every operation below is one IEEE float32 operation unless it says int or float64; products are never fused with sums; sums and products go
from left to right. With edges in units of the pitch (double-size pixels span two), for x (y is the same with columns):

    llx, urx   = int    edge_x[min_row + 1], edge_x[max_row]            inner edges of the first and last row
    q_f, q_l   = int    charge in min_row, charge in max_row
    big(r)     = int    edge_x[r + 1] - edge_x[r] > 1
    x_pos      = shift_x + pitch_x * (0.5 * float(llx + urx) + (-centre_x))
    cot        = (x_pos - origin_x) * (-1 / origin_z)
    correction = 0                                                       if min_row == max_row
                 (0.5 * (float(q_l - q_f) / float(q_l + q_f))) * w       otherwise; a sum of 0 counts as 1
                 w = |thickness * cot - charge_width_x| - pitch_x * float(urx - llx)
                        if max_row == min_row + 1 and 0 <= that <= pitch_x, otherwise
                     (pitch_x * 0.5) * float(2 + big(min_row) + big(max_row))
    x_local    = x_pos + correction
    size_x     = int    8 * (urx + 2 - llx + big(min_row) + big(max_row)) - int((8 * |float(q_f - q_l)|) / float(q_f + q_l))
                        with 8 * and / in float64, a sum of 0 counting as 1; at most 1023; negated if the cluster touches an edge
    error_x    = edge_error_x                                            if the cluster touches row 0 or the last row
                 sigma_x[(min_row == max_row) + (min_row == max_row and big(min_row))]
    x_error2   = error_x * error_x

Then, with R[i][j] = rotation (rows are the local axes), p = position, b = beam spot:

    x = ((R[0][0] * x_local + R[1][0] * y_local) + p.x) - b.x            y, z: R[.][1], R[.][2]
    r = sqrt(x * x + y * y)
    phi = int16, 32768 = pi:
        t = (|x| - |y|) / (|x| + |y|)                                    0 if the sum is 0; negated if x < 0
        u = t * t
        s = t * (-10422.177734375 + u * (3349.97412109375 + u * (-1525.589599609375 + u * 406.64190673828125)))
        phi = (x < 0 ? 24576 : 8192) + int16(s)                          int16() truncates toward zero; negated if y < 0

Charges: sums are exact, each stored charge (charge, q_f, q_l) saturates at 2^31 - 1, q_l - q_f and q_l + q_f are taken in 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector
from tests.reference.cluster import CHARGE_MAX, NO_HIT, Clusters

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Columns = dict[str, NDArray[Any]]
f32 = np.float32


@dataclass(frozen=True, eq=False)
class _Extent:
    """Range of the clusters along one local axis and the charge in its first and last line of pixels."""

    first: Ints
    last: Ints
    q_first: Ints
    q_last: Ints


@dataclass(frozen=True, eq=False)
class _Axis:
    """What the position along one local axis needs of the detector, per cluster."""

    edges: NDArray[np.int32]
    pitch: float
    centre: float
    shift: Floats
    origin: Floats
    width: Floats
    sigma: Floats  # (n, 3)
    edge_error: float


def rec_hits(clusters: Clusters, detector: Detector) -> Columns:
    """Hits in the order of the clusters, as columns.

    module, x_local, y_local, x_error2, y_error2, x, y, z, r, phi, charge, size_x, size_y
    """
    t, m = detector.topology, clusters.cluster_module
    mods = detector.modules
    slope = f32(-1) / mods.origin[m, 2]
    thickness, (origin_x, origin_y) = mods.thickness[m], (mods.origin[m, 0], mods.origin[m, 1])
    shift_x, width_x, sigma_x = mods.shift_x[m], mods.charge_width_x[m], mods.sigma_x[m]
    shift_y, width_y, sigma_y = mods.shift_y[m], mods.charge_width_y[m], mods.sigma_y[m]
    along_x = _Axis(t.edge_x, t.pitch_x, t.centre_x, shift_x, origin_x, width_x, sigma_x, detector.edge_error_x)
    along_y = _Axis(t.edge_y, t.pitch_y, t.centre_y, shift_y, origin_y, width_y, sigma_y, detector.edge_error_y)
    x, x_error2, size_x = _measure(_extent(clusters, clusters.row), along_x, slope, thickness)
    y, y_error2, size_y = _measure(_extent(clusters, clusters.col), along_y, slope, thickness)
    out: Columns = {"module": m, "x_local": x, "y_local": y, "x_error2": x_error2, "y_error2": y_error2}
    for k, name, spot in ((0, "x", detector.beam_spot.x), (1, "y", detector.beam_spot.y), (2, "z", detector.beam_spot.z)):
        out[name] = ((mods.rotation[m, 0, k] * x + mods.rotation[m, 1, k] * y) + mods.position[m, k]) - f32(spot)
    out["r"] = np.sqrt(out["x"] * out["x"] + out["y"] * out["y"])
    out["phi"] = phi16(out["x"], out["y"])
    kept = clusters.hit != NO_HIT
    out["charge"] = np.minimum(_sum(clusters, kept), CHARGE_MAX).astype(np.int32)
    out["size_x"], out["size_y"] = size_x, size_y
    return out


def _sum(clusters: Clusters, chosen: NDArray[np.bool_]) -> Ints:
    """Charge of the chosen pixels, per cluster."""
    total = np.zeros(len(clusters), np.int64)
    np.add.at(total, clusters.hit[chosen], clusters.charge[chosen])
    return total


def _extent(clusters: Clusters, line: Ints) -> _Extent:
    """Extent of the clusters along rows or columns (`line` = row or column of every pixel)."""
    kept = clusters.hit != NO_HIT
    first = np.full(len(clusters), 1 << 30, np.int64)
    last = np.full(len(clusters), -1, np.int64)
    np.minimum.at(first, clusters.hit[kept], line[kept])
    np.maximum.at(last, clusters.hit[kept], line[kept])
    in_first, in_last = kept.copy(), kept.copy()
    in_first[kept] = line[kept] == first[clusters.hit[kept]]
    in_last[kept] = line[kept] == last[clusters.hit[kept]]
    return _Extent(first, last, np.minimum(_sum(clusters, in_first), CHARGE_MAX), np.minimum(_sum(clusters, in_last), CHARGE_MAX))


def _measure(e: _Extent, a: _Axis, slope: Floats, thickness: Floats) -> tuple[Floats, Floats, NDArray[np.int16]]:
    """Local coordinate, its squared error, and the size in eighths of a pixel."""
    pitch, centre, edge_error = f32(a.pitch), f32(a.centre), f32(a.edge_error)
    lower, upper = a.edges[e.first + 1], a.edges[e.last]
    big_first = (a.edges[e.first + 1] - a.edges[e.first] > 1).astype(np.int64)
    big_last = (a.edges[e.last + 1] - a.edges[e.last] > 1).astype(np.int64)
    span = e.last - e.first
    q_sum = e.q_last + e.q_first
    q_sum = np.where(q_sum == 0, 1, q_sum)

    pos = a.shift + pitch * (f32(0.5) * (lower + upper).astype(f32) + (-centre))
    cot = (pos - a.origin) * slope
    predicted = np.abs(thickness * cot - a.width) - pitch * (upper - lower).astype(f32)
    average = (pitch * f32(0.5)) * (2 + big_first + big_last).astype(f32)
    use_predicted = (span == 1) & ~((predicted < 0) | (predicted > pitch))
    width = np.where(use_predicted, predicted, average)
    correction = (f32(0.5) * ((e.q_last - e.q_first).astype(f32) / q_sum.astype(f32))) * width
    local = pos + np.where(span == 0, f32(0), correction)

    touches_edge = (e.first == 0) | (e.last == len(a.edges) - 2)
    single = span == 0
    kind = single.astype(np.int64) + (single & (big_first == 1))
    error = np.where(touches_edge, edge_error, a.sigma[np.arange(len(kind)), kind])

    unbalance = np.trunc(8.0 * np.abs((e.q_first - e.q_last).astype(f32)).astype(np.float64) / q_sum.astype(f32).astype(np.float64))
    size = np.minimum(8 * (upper + 2 - lower + big_first + big_last) - unbalance.astype(np.int64), 1023)
    return local, error * error, np.where(touches_edge, -size, size).astype(np.int16)


def phi16(x: Floats, y: Floats) -> NDArray[np.int16]:
    """Azimuth as int16, 32768 = pi, by a polynomial of degree 7 (error below 2 units)."""
    ax, ay = np.abs(x), np.abs(y)
    total = ax + ay
    t = np.where(total == 0, f32(0), (ax - ay) / np.where(total == 0, f32(1), total))
    t = np.where(x < 0, -t, t)
    u = t * t
    s = t * (f32(-10422.177734375) + u * (f32(3349.97412109375) + u * (f32(-1525.589599609375) + u * f32(406.64190673828125))))
    angle = np.where(x < 0, 24576, 8192) + np.trunc(s).astype(np.int64)
    phi: NDArray[np.int16] = np.where(y < 0, -angle, angle).astype(np.int16)
    return phi
