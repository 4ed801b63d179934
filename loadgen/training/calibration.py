"""Scores as probabilities: Platt scaling of the logit, and how well the score is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hltfarm.loadgen.training.working_points import Scores
from hltfarm.loadgen.validation.binomial import wilson
from hltfarm.loadgen.validation.definitions import Bools, Floats
from hltfarm.workers.models import Forest, MlpWeights

#: Edges of the score in which it is compared with the fraction of true rows.
_EDGES = np.array([0, 0.02, 0.05, *np.arange(0.1, 0.91, 0.1), 0.95, 0.98, 1.0])


def platt(logit: Floats, label: Bools, rounds: int = 50) -> tuple[float, float]:
    """(a, b) for which sigmoid(a logit + b) is the most likely to have made the labels, by Newton's method with halved steps.

    J. Platt, Advances in Large Margin Classifiers (2000) 61, with his priors for the targets, so that separated rows have a finite
    solution too. (1, 0) if all rows have one label, or if the solution would turn the order of the scores around.
    """
    true = int(label.sum())
    if true in (0, len(label)):
        return 1.0, 0.0
    target = np.where(label, (true + 1) / (true + 2), 1 / (len(label) - true + 2))
    x = np.stack([logit, np.ones_like(logit)])
    at = np.array([1.0, 0.0])
    value = _loss(at @ x, target)
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-(at @ x)))
        gradient = x @ (p - target)
        step = np.linalg.solve((x * (p * (1 - p))) @ x.T + 1e-9 * np.eye(2), gradient)
        size = 1.0
        while size > 1e-6 and not _loss((at - size * step) @ x, target) <= value:
            size /= 2
        trial = at - size * step
        if not _loss(trial @ x, target) < value - 1e-12 * abs(value):
            break
        at, value = trial, _loss(trial @ x, target)
    return (float(at[0]), float(at[1])) if at[0] > 0 else (1.0, 0.0)


def _loss(logit: Floats, target: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, logit) - target * logit))


def log_loss(logit: Floats, label: Bools) -> float:
    """Mean cross entropy of sigmoid(logit), in nats."""
    return _loss(logit, label.astype(np.float64)) / max(1, len(label))


def scaled_mlp(weights: MlpWeights, a: float, b: float) -> MlpWeights:
    """The network whose logit is a times this one's plus b: another last layer."""
    weight, bias = weights.layers[-1]
    last = ((weight * np.float64(a)).astype(np.float32), (bias * np.float64(a) + b).astype(np.float32))
    return replace(weights, layers=(*weights.layers[:-1], last))


def scaled_forest(forest: Forest, a: float, b: float) -> Forest:
    """The forest whose logit is a times this one's plus b: other values and another base."""
    value, base = ((column * np.float64(a)) for column in (forest.value, forest.base))
    return replace(forest, value=value.astype(np.float32), base=(base + b).astype(np.float32))


def reliability(scores: Scores, label: Bools) -> dict[str, Any]:
    """In bins of the score: rows, their mean score, and the fraction of true ones with its 68 % interval (None in empty bins)."""
    k = np.clip(np.searchsorted(_EDGES, scores, "right") - 1, 0, len(_EDGES) - 2)
    bins = len(_EDGES) - 1
    total = np.bincount(k, minlength=bins)
    true = np.bincount(k[label], minlength=bins)
    mean = np.bincount(k, scores.astype(np.float64), bins)
    low, high = wilson(true, total)
    filled = total > 0
    n = np.maximum(total, 1)
    gap = float(np.sum(np.abs(mean - true)) / max(1, len(scores)))
    return {
        "edges": _EDGES.tolist(),
        "rows": total.tolist(),
        "score": [float(v) if some else None for v, some in zip(mean / n, filled, strict=True)],
        "true": [float(v) if some else None for v, some in zip(true / n, filled, strict=True)],
        "low": low.tolist(),
        "high": high.tolist(),
        "expected_calibration_error": gap,
    }
