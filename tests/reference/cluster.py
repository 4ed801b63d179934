"""Pixels to clusters: connected groups of pixels of a module, diagonals included.

A pixel that was read out more than once is one pixel with the summed charge. Sums are exact (64 bits); a stored charge saturates at
2^31 - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.results import EventFlag
from tests.reference.unpack import Pixels

CHARGE_MAX = 2**31 - 1
NO_HIT = -1

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Distinct pixels ordered by (module, column, row) and the clusters that pass the charge cut, by (module, first pixel in that order).

    `hit[i]` is the cluster of pixel i, NO_HIT if its cluster was cut. `modules` counts modules with at least one pixel, cut or not.
    """

    module: Ints
    row: Ints
    col: Ints
    charge: Ints
    hit: Ints
    cluster_module: Ints
    modules: int
    flags: EventFlag

    def __len__(self) -> int:
        return len(self.cluster_module)


def cluster(pixels: Pixels, detector: Detector) -> Clusters:
    """Cluster all modules of one event."""
    rows, cols = detector.topology.rows, detector.topology.cols
    key = (pixels.module * cols + pixels.col) * rows + pixels.row
    distinct, inverse = np.unique(key, return_inverse=True)
    summed = np.zeros(len(distinct), np.int64)
    np.add.at(summed, inverse, pixels.electrons)
    charge = np.minimum(summed, CHARGE_MAX)
    row, col, module = distinct % rows, distinct // rows % cols, distinct // (rows * cols)

    hit = np.full(len(distinct), NO_HIT, np.int64)
    cluster_module: list[int] = []
    for m in np.unique(module):
        mine = np.flatnonzero(module == m)
        matrix = np.zeros((cols, rows), bool)  # row-major over (column, row): labels appear in raster order
        matrix[col[mine], row[mine]] = True
        labels, _ = ndimage.label(matrix, structure=np.ones((3, 3)))
        number = _by_appearance(labels[col[mine], row[mine]])
        total = np.zeros(number.max() + 1, np.int64)
        np.add.at(total, number, charge[mine])
        kept = total > int(detector.modules.min_cluster_charge[m])
        hit[mine] = np.where(kept, len(cluster_module) + np.cumsum(kept) - 1, NO_HIT)[number]
        cluster_module += [int(m)] * int(kept.sum())

    duplicate = EventFlag.DUPLICATE_PIXEL if len(distinct) < len(key) else EventFlag(0)
    modules = len(np.unique(module))
    return Clusters(module, row, col, charge, hit, np.array(cluster_module, np.int64), modules, pixels.flags | duplicate)


def _by_appearance(labels: Ints) -> Ints:
    """Labels renamed to 0, 1, ... in the order in which they appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
