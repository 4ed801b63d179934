"""Counts in bins, in constant memory: rates with their bands, and distributions of residuals with their medians and widths."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hltfarm.loadgen.validation.binomial import wilson
from hltfarm.loadgen.validation.definitions import Axis, Bools, Floats, Ints

#: A normal distribution holds half of its entries within 1 / MAD_TO_SIGMA standard deviations.
MAD_TO_SIGMA = 1.4826
WITHIN_ONE_SIGMA = 0.6827


def rate(passed: int, total: int) -> dict[str, Any]:
    """A rate with its counts and its 68 % interval; None where there is nothing to divide by."""
    low, high = wilson(passed, total)
    return {"passed": passed, "total": total, "rate": passed / total if total else None, "low": float(low), "high": float(high)}


class Ratio:
    """passed / total along an axis."""

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self.passed: Ints = np.zeros(axis.bins, np.int64)
        self.total: Ints = np.zeros(axis.bins, np.int64)

    def add(self, values: ArrayLike, passed: Bools) -> None:
        """Count entries at `values`, of which those with `passed` pass."""
        k = self.axis.index(values)
        self.total += np.bincount(k[k >= 0], minlength=self.axis.bins)
        self.passed += np.bincount(k[(k >= 0) & passed], minlength=self.axis.bins)

    def document(self) -> dict[str, Any]:
        """Counts, rates (None in empty bins) and 68 % bands."""
        low, high = wilson(self.passed, self.total)
        rates = [int(p) / int(t) if t else None for p, t in zip(self.passed, self.total, strict=True)]
        return {
            "axis": self.axis.name,
            "label": self.axis.label,
            "log": self.axis.log,
            "edges": list(self.axis.edges),
            "passed": self.passed.tolist(),
            "total": self.total.tolist(),
            "rate": rates,
            "low": low.tolist(),
            "high": high.tolist(),
        }


class Spread:
    """Distributions of a residual, one per cell: histograms with bins that grow with the distance from 0.

    Bins are equal in asinh(residual / scale): about scale / 40 wide at 0, and 2.5 % of the residual far out. Residuals beyond `limit`
    count in the last bin of their side, so that quantiles stay right as long as they lie within. Memory: cells x bins integers.
    """

    def __init__(self, cells: int, scale: float, limit: float) -> None:
        half = int(np.ceil(40 * np.arcsinh(limit / scale)))
        self.edges: Floats = scale * np.sinh(np.arange(-half, half + 1) / half * np.arcsinh(limit / scale))
        self.counts: Ints = np.zeros((cells, 2 * half), np.int64)

    def add(self, cell: Ints, residual: Floats) -> None:
        """Count residuals in their cells; cell -1 and residuals that are no numbers are left out."""
        cells, bins = self.counts.shape
        use = (cell >= 0) & ~np.isnan(residual)
        at = np.clip(np.searchsorted(self.edges, residual[use], side="right") - 1, 0, bins - 1)
        self.counts += np.bincount(cell[use] * bins + at, minlength=cells * bins).reshape(cells, bins)

    def summary(self, cell: int | None = None) -> dict[str, Any]:
        """Of one cell (None: all together): entries, median, core width (1.4826 MAD) and half width of the central 68.27 %.

        Both widths are measured around the median and equal the standard deviation of a normal distribution. None without entries.
        """
        counts = self._counts(cell)
        n = int(counts.sum())
        if n == 0:
            return {"entries": 0, "median": None, "sigma_core": None, "sigma_68": None}
        median = float(np.interp(0.5, self._cumulated(counts), self.edges))
        return {
            "entries": n,
            "median": median,
            "sigma_core": MAD_TO_SIGMA * self._half_width(counts, median, 0.5),
            "sigma_68": self._half_width(counts, median, WITHIN_ONE_SIGMA),
        }

    def histogram(self, cell: int | None, half_range: float, bins: int = 60) -> dict[str, Any]:
        """Equal bins over +-half_range: edges and entries, the latter interpolated (not whole numbers)."""
        edges = np.linspace(-half_range, half_range, bins + 1)
        counts = self._counts(cell)
        return {"edges": edges.tolist(), "entries": (counts.sum() * np.diff(self._at(counts, edges))).tolist()}

    def merged(self, cells: Bools) -> Spread:
        """A spread of one cell: the sum of those of `cells`."""
        out = copy(self)
        out.counts = self.counts[cells].sum(axis=0, keepdims=True)
        return out

    def _counts(self, cell: int | None) -> Ints:
        counts: Ints = self.counts.sum(axis=0) if cell is None else self.counts[cell]
        return counts

    @staticmethod
    def _cumulated(counts: Ints) -> Floats:
        cumulated: Floats = np.concatenate([[0.0], np.cumsum(counts) / max(1, int(counts.sum()))])
        return cumulated

    def _at(self, counts: Ints, x: Floats) -> Floats:
        """Fraction of the entries below x."""
        fraction: Floats = np.interp(x, self.edges, self._cumulated(counts))
        return fraction

    def _half_width(self, counts: Ints, centre: float, fraction: float) -> float:
        """Half of the interval around `centre` that holds `fraction` of the entries, by bisection."""
        low, high = 0.0, float(2 * self.edges[-1])
        for _ in range(60):
            middle = (low + high) / 2
            below, above = self._at(counts, np.array([centre - middle, centre + middle]))
            low, high = (middle, high) if above - below < fraction else (low, middle)
        return high
