"""The detector as the propagation sees it: per layer a reference surface and a lookup of the modules near a point of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector

PHI_BINS = 360
T_BINS = 96
#: How far from its reference point a helix may cross a module, cm: along phi, and along z (barrel) or r (disk) beyond the projection.
MARGIN_PHI_CM = 0.5
MARGIN_T_CM = 0.5
#: Spread of the interactions along the beam for which the lookup is complete, cm.
BEAM_LENGTH_CM = 14.0


@dataclass(frozen=True, eq=False)
class Geometry:
    """Planes of the modules (n) and reference surfaces of the layers (m): a cylinder of the barrel, a plane z = const for a disk.

    `lookup[layer, phi bin, t bin]` lists modules, padded with -1; t is z on a cylinder and the radius on a disk.
    """

    position: NDArray[np.float64]  # (n, 3)
    rotation: NDArray[np.float64]  # (n, 3, 3)
    thickness: NDArray[np.float64]  # (n,)
    half_x: float
    half_y: float
    is_barrel: NDArray[np.bool_]  # (m,)
    where: NDArray[np.float64]  # (m,) radius of a cylinder, z of a disk
    r_low: NDArray[np.float64]  # (m,) smallest and largest radius of any module
    r_high: NDArray[np.float64]  # (m,)
    t_low: NDArray[np.float64]  # (m,) range of the lookup
    t_high: NDArray[np.float64]  # (m,)
    lookup: NDArray[np.int16]  # (m, PHI_BINS, T_BINS, k)
    field_tesla: float

    def modules_near(self, layer: NDArray[np.int64], phi: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.int16]:
        """Modules near points of reference surfaces, shape (points, k), -1 where there is none."""
        i = np.floor((phi / (2 * np.pi)) % 1.0 * PHI_BINS).astype(np.int64) % PHI_BINS
        u = (t - self.t_low[layer]) / (self.t_high[layer] - self.t_low[layer])
        j = np.clip((u * T_BINS).astype(np.int64), 0, T_BINS - 1)
        found: NDArray[np.int16] = self.lookup[layer, i, j]
        found[(u < 0) | (u >= 1)] = -1
        return found


def build(detector: Detector) -> Geometry:
    """Planes, reference surfaces and lookup of a detector (about 0.1 s for 1856 modules)."""
    top, mod = detector.topology, detector.modules
    half_x = 0.5 * float(top.edge_x[-1] - top.edge_x[0]) * top.pitch_x
    half_y = 0.5 * float(top.edge_y[-1] - top.edge_y[0]) * top.pitch_y
    position = mod.position.astype(np.float64)
    rotation = mod.rotation.astype(np.float64)
    u, v = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 9), indexing="ij")
    outline = np.stack([u.ravel() * half_x, v.ravel() * half_y, np.zeros(u.size)], axis=1)
    points = np.einsum("pj,njk->npk", outline, rotation) + position[:, None, :]
    radius, phi = np.hypot(points[..., 0], points[..., 1]), np.arctan2(points[..., 1], points[..., 0])

    m = len(detector.layers)
    is_barrel = np.array([layer.is_barrel for layer in detector.layers])
    where, r_low, r_high, t_low, t_high = (np.zeros(m) for _ in range(5))
    boxes: list[tuple[int, int, NDArray[np.float64], float, float]] = []
    for i, layer in enumerate(detector.layers):
        s = slice(layer.first, layer.first + layer.count)
        r_low[i], r_high[i] = radius[s].min(), radius[s].max()
        where[i] = np.hypot(position[s, 0], position[s, 1]).mean() if layer.is_barrel else position[s, 2].mean()
        for n in range(s.start, s.stop):
            r, z = radius[n], points[n, :, 2]
            # Projected on the reference surface along lines from both ends of the luminous region.
            ends = np.array([[-BEAM_LENGTH_CM], [BEAM_LENGTH_CM]])
            t = ends + (z - ends) * where[i] / r if layer.is_barrel else r * (where[i] - ends) / (z - ends)
            centre = np.arctan2(position[n, 1], position[n, 0])
            dphi = (phi[n] - centre + np.pi) % (2 * np.pi) - np.pi
            pad = MARGIN_PHI_CM / max(float(r.min()), 1.0)
            boxes.append((i, n, centre + np.array([dphi.min() - pad, dphi.max() + pad]), t.min() - MARGIN_T_CM, t.max() + MARGIN_T_CM))
        t_low[i] = min(b[3] for b in boxes if b[0] == i)
        t_high[i] = max(b[4] for b in boxes if b[0] == i)
    return Geometry(
        position=position,
        rotation=rotation,
        thickness=mod.thickness.astype(np.float64),
        half_x=half_x,
        half_y=half_y,
        is_barrel=is_barrel,
        where=where,
        r_low=r_low,
        r_high=r_high,
        t_low=t_low,
        t_high=t_high,
        lookup=_lookup(boxes, t_low, t_high),
        field_tesla=detector.field_tesla,
    )


def _lookup(
    boxes: list[tuple[int, int, NDArray[np.float64], float, float]], t_low: NDArray[np.float64], t_high: NDArray[np.float64]
) -> NDArray[np.int16]:
    """List every module in all bins that its box touches."""
    shape = (len(t_low), PHI_BINS, T_BINS)
    cells: list[NDArray[np.int64]] = []
    owners: list[NDArray[np.int64]] = []
    for layer, module, phi, t0, t1 in boxes:
        i = np.arange(int(np.floor(phi[0] / (2 * np.pi) * PHI_BINS)), int(np.floor(phi[1] / (2 * np.pi) * PHI_BINS)) + 1) % PHI_BINS
        scale = T_BINS / (t_high[layer] - t_low[layer])
        j = np.arange(int((t0 - t_low[layer]) * scale), min(int((t1 - t_low[layer]) * scale), T_BINS - 1) + 1)
        flat = ((layer * PHI_BINS + i[:, None]) * T_BINS + j[None, :]).ravel()
        cells.append(flat)
        owners.append(np.full(len(flat), module))
    cell, owner = np.concatenate(cells), np.concatenate(owners)
    order = np.argsort(cell, kind="stable")
    cell, owner = cell[order], owner[order]
    rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
    table = np.full((int(np.prod(shape)), int(rank.max()) + 1), -1, np.int16)
    table[cell, rank] = owner
    return table.reshape(*shape, -1)
