"""Confidence interval of a rate from counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hltfarm.loadgen.validation.definitions import Floats

#: Standard deviations of a normal distribution that hold 68.27 %.
ONE_SIGMA = 1.0


def wilson(passed: ArrayLike, total: ArrayLike, z: float = ONE_SIGMA) -> tuple[Floats, Floats]:
    """Wilson score interval of passed / total: lower and upper ends, element by element; [0, 1] where total is 0.

    All p for which the observed rate is within z standard deviations sqrt(p (1 - p) / total) of p. It stays within [0, 1] and has a
    width at 0 and at 1 too. E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    k, n = np.asarray(passed, np.float64), np.asarray(total, np.float64)
    if np.any(k < 0) or np.any(k > n):
        raise ValueError("a count outside of 0 .. total")
    some = n > 0
    m = np.where(some, n, 1.0)
    centre = (k + z * z / 2) / (m + z * z)
    half = z / (m + z * z) * np.sqrt(k * (m - k) / m + z * z / 4)
    # Exactly 0 and 1 at the ends, whatever the rounding.
    low = np.where(some & (k > 0), centre - half, 0.0)
    high = np.where(some & (k < n), centre + half, 1.0)
    return low, high
