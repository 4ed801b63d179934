"""Straight lines through samples, and where they lead. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Trend(NamedTuple):
    """A straight line by least squares. begin, end: its values at the first and last sample. per_hour: its slope. spread: RMS around it."""

    begin: float
    end: float
    per_hour: float
    spread: float

    @property
    def growth(self) -> float:
        """What the line gains from the first to the last sample."""
        return self.end - self.begin


def trend(at_s: Sequence[float], values: Sequence[float]) -> Trend:
    """The line through values at these times (seconds). Raises ValueError for fewer than three, or for times that do not differ."""
    if len(at_s) != len(values) or len(at_s) < 3 or at_s[0] == at_s[-1]:
        raise ValueError(f"{len(values)} values at {len(at_s)} times give no line")
    times, heights = np.asarray(at_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    centre = times.mean()
    slope = float(((times - centre) * heights).sum() / ((times - centre) ** 2).sum())
    line = heights.mean() + slope * (times - centre)
    return Trend(float(line[0]), float(line[-1]), slope * 3600.0, float(np.sqrt(((heights - line) ** 2).mean())))


def thirds(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The first and the last third. Raises ValueError for fewer than three values."""
    part = len(values) // 3
    if not part:
        raise ValueError(f"{len(values)} values have no thirds")
    return values[:part], values[-part:]
