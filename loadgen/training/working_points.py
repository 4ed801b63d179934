"""Thresholds for an efficiency, and what a threshold keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.training.rows import Rows
from hltfarm.loadgen.validation.binned import rate
from hltfarm.loadgen.validation.definitions import Bools, Floats
from hltfarm.proto.errors import ConfigError, SampleError

Scores = NDArray[np.float32]
#: Thresholds by working point and group.
Thresholds = dict[str, dict[str, float]]
_POINT = re.compile(r"0\.[0-9]{1,6}|1")


def threshold(scores: Scores, label: Bools, efficiency: float) -> float:
    """The largest score that at least a fraction `efficiency` of the true rows reaches. Raises ValueError without true rows."""
    true = np.sort(scores[label])[::-1]
    if len(true) == 0:
        raise ValueError("no true rows to set a threshold with")
    # The product of a fraction and a count may be a rounding error above a whole number.
    kept = max(1, int(np.ceil(efficiency * len(true) - 1e-9)))
    return float(true[kept - 1])


def point_name(efficiency: float) -> str:
    """Of a working point ("0.99"). Raises ConfigError for an efficiency outside 0 .. 1, or with more than six digits."""
    name = f"{efficiency:g}"
    if not 0 < efficiency <= 1 or float(name) != efficiency or _POINT.fullmatch(name) is None:
        raise ConfigError(f"working point {efficiency!r}: an efficiency above 0 and at most 1, of up to six digits, such as 0.99")
    return name


def working_points(rows: Rows, scores: Scores, efficiencies: Sequence[float]) -> Thresholds:
    """Thresholds of every group, by efficiency ("0.99"). Raises SampleError if a group has no true row."""
    out: Thresholds = {}
    for efficiency in efficiencies:
        out[point_name(efficiency)] = point = {}
        for g, name in enumerate(rows.groups):
            mine = rows.of(g)
            if not rows.label[mine].any():
                raise SampleError(f"no true {name} among the validation events; take more events")
            point[name] = threshold(scores[mine], rows.label[mine], efficiency)
    return out


def passing(rows: Rows, scores: Scores, thresholds: dict[str, float]) -> Bools:
    """Mask of the rows that reach the threshold of their group."""
    limit = np.array([thresholds[name] for name in rows.groups], np.float32)
    kept: Bools = scores >= limit[rows.group]
    return kept


def kept(rows: Rows, passed: Bools, within: Bools) -> dict[str, Any]:
    """Of the rows `within`: fractions of the true and of the false ones that pass, and fake rates (false ones of all) after and before."""
    true = rows.label
    return {
        "efficiency": rate(int((within & true & passed).sum()), int((within & true).sum())),
        "false_kept": rate(int((within & ~true & passed).sum()), int((within & ~true).sum())),
        "fake_rate": rate(int((within & ~true & passed).sum()), int((within & passed).sum())),
        "fake_rate_before": rate(int((within & ~true).sum()), int(within.sum())),
    }


def roc(scores: Scores, label: Bools, points: int = 200) -> dict[str, Any]:
    """Fraction of true and of false rows that pass, over falling thresholds, and the area under the curve (ties count half).

    Points are dense where the true rows are nearly all kept. None for the area if there are only true or only false rows.
    """
    true, false = np.sort(scores[label]), np.sort(scores[~label])
    lost = np.geomspace(1e-4, 1.0, points)
    at = threshold_grid(true, lost)
    passed = [_fraction(true, at), _fraction(false, at)]
    area = None
    if len(true) and len(false):
        below = np.searchsorted(false, true, "left").sum() + np.searchsorted(false, true, "right").sum()
        area = float(below) / (2.0 * len(true) * len(false))
    return {"efficiency": passed[0].tolist(), "false_kept": passed[1].tolist(), "area": area}


def threshold_grid(true: Scores, lost: Floats) -> Scores:
    """Of ascending true scores: the thresholds that lose the given fractions of them; none if there are none."""
    if len(true) == 0:
        return np.empty(0, np.float32)
    grid: Scores = true[np.minimum((lost * len(true)).astype(np.int64), len(true) - 1)]
    return grid


def _fraction(ascending: Scores, at: Scores) -> Floats:
    n = len(ascending)
    out: Floats = (n - np.searchsorted(ascending, at, "left")) / max(1, n)
    return out
