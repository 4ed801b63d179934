"""Tracks to vertices: density along the beam line, weighted means, splitting.

Neighbourhood is decided in float32, one operation at a time: |dz| <= eps and dz * dz <= max_chi2 * (e_i + e_j), e the variance of z.
Means and chi squares are float64 sums in the order of tracks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.workers.configuration import VertexConfig

Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]
f32 = np.float32
NOBODY = -1


@dataclass
class Vertex:
    """Tracks by their place among the chosen ones, and the fit to them."""

    members: list[int]
    z: float = 0.0
    weight: float = 0.0
    chi2: float = 0.0
    ndof: int = 0
    sum_pt: float = 0.0
    sum_pt2: float = 0.0


def find_vertices(tracks: Columns, config: VertexConfig, min_quality: int) -> list[Vertex]:
    """Vertices of an event, the one with the largest sum of pt^2 first (equal: in order of their numbers); members index `tracks`.

    `min_quality`: 3 (high purity) after a selector, else 2 (loose).
    """
    chosen = np.flatnonzero(
        (tracks["quality"] >= min_quality)
        & (tracks["n_hits"] >= config.min_hits)
        & (tracks["pt"] >= f32(config.min_pt_gev))
        & (tracks["cov"][:, 14] > 0)
    )
    z, error2, pt = tracks["zip"][chosen], tracks["cov"][chosen, 14], tracks["pt"][chosen]
    vertices = [Vertex(m) for m in _clusters(z, error2, config)]
    z64, w64 = z.astype(np.float64), 1 / error2.astype(np.float64)
    for vertex in vertices:
        _fit(vertex, z64, w64, config.outlier)
    halves = [half for vertex in vertices if (half := _split(vertex, z64, w64, config)) is not None]
    vertices += halves
    pt2 = (pt * pt).astype(np.float64)
    for vertex in vertices:
        _fit(vertex, z64, w64, config.final_outlier)
        for t in vertex.members:
            vertex.sum_pt2 += pt2[t]
            vertex.sum_pt += float(pt[t])
        vertex.members = chosen[vertex.members].tolist()
    return sorted(vertices, key=lambda v: -v.sum_pt2)


def _clusters(z: NDArray[np.float32], error2: NDArray[np.float32], config: VertexConfig) -> list[list[int]]:
    """Groups of tracks that lead to one root with enough neighbours, in the order of the roots."""
    n = len(z)
    near = [
        [
            j
            for j in range(n)
            if j != i and abs(z[i] - z[j]) <= f32(config.eps_cm) and (z[i] - z[j]) ** 2 <= f32(config.max_chi2) * (error2[i] + error2[j])
        ]
        for i in range(n)
    ]
    max_error2 = f32(config.max_error_cm**2)
    count = [len(near[i]) if error2[i] <= max_error2 else 0 for i in range(n)]

    def density(i: int) -> tuple[int, float, int]:
        return count[i], -float(z[i]), -i

    parent = []
    for i in range(n):
        denser = [j for j in near[i] if density(j) > density(i)]
        distance = min((abs(z[i] - z[j]) for j in denser), default=None)
        nearest = [j for j in denser if abs(z[i] - z[j]) == distance]
        parent.append(max(nearest, key=density, default=i))

    def root(i: int) -> int:
        return i if parent[i] == i else root(parent[i])

    groups: dict[int, list[int]] = {i: [] for i in range(n) if parent[i] == i and count[i] >= config.min_neighbours}
    for i in range(n):
        if root(i) in groups:
            groups[root(i)].append(i)
    return list(groups.values())


def _fit(v: Vertex, z: Floats, w: Floats, outlier: float) -> None:
    """Mean of all members; those too far from it leave."""
    weight, total = 0.0, 0.0
    for t in v.members:
        weight += w[t]
        total += w[t] * z[t]
    v.z = total / weight
    chi2 = {t: (z[t] - v.z) ** 2 * w[t] for t in v.members}
    v.members = [t for t in v.members if not chi2[t] > outlier]
    v.chi2 = sum(chi2[t] for t in v.members)
    v.ndof = len(v.members) - 1
    v.weight = weight * v.ndof / v.chi2 if v.ndof > 0 and v.chi2 > 0 else weight


def _split(v: Vertex, z: Floats, w: Floats, config: VertexConfig) -> Vertex | None:
    """The half of the vertex that becomes one of its own, if two fit better."""
    if v.ndof < config.split_min_ndof or v.chi2 < config.split_chi2 * v.ndof:
        return None
    second = {t: int(z[t] - v.z >= 0) for t in v.members}
    for _ in range(config.split_rounds):
        weights, means = [0.0, 0.0], [0.0, 0.0]
        for t in v.members:
            weights[second[t]] += w[t]
            means[second[t]] += w[t] * z[t]
        if 0 in weights:
            return None
        means = [m / s for m, s in zip(means, weights, strict=True)]
        now = {t: int(not abs(z[t] - means[0]) < abs(z[t] - means[1])) for t in v.members}
        if now == second:
            break
        second = now
    if (means[0] - means[1]) ** 2 < config.split_distance2 * (1 / weights[0] + 1 / weights[1]):
        return None
    members = v.members
    v.members = [t for t in members if not second[t]]
    return Vertex([t for t in members if second[t]]) if v.members else None
