"""What a model computes, one row and one number at a time, in float32.

Sums have one order: a perceptron starts from the bias and adds weight times input, input by input; a forest starts from its base and
adds the leaves, tree by tree. The sigmoid is taken in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.workers.models import Cuts, Exported, Forest, MlpWeights, Model

f32 = np.float32
Floats = NDArray[np.float32]


def sigmoid(logit: np.float32) -> np.float32:
    return f32(1 / (1 + np.exp(-np.float64(logit))))


def mlp_score(weights: MlpWeights, row: Floats) -> np.float32:
    x = [min(max((value - m) * s, f32(-8)), f32(8)) for value, m, s in zip(row, weights.mean, weights.scale, strict=True)]
    for number, (weight, bias) in enumerate(weights.layers):
        outputs = []
        for neuron, start in zip(weight, bias, strict=True):
            total = start
            for w, value in zip(neuron, x, strict=True):
                total = f32(total + f32(w * value))
            outputs.append(total if number == len(weights.layers) - 1 else max(total, f32(0)))
        x = outputs
    return sigmoid(x[0])


def forest_score(forest: Forest, row: Floats) -> np.float32:
    total = forest.base[0]
    for node in forest.root:
        while forest.left[node] != -1:
            goes_left = row[forest.feature[node]] <= forest.threshold[node]
            node = forest.left[node] if goes_left else forest.right[node]
        total = f32(total + forest.value[node])
    return sigmoid(total)


def cuts_score(cuts: Cuts, features: Sequence[str], row: Floats, n_hits: int | None) -> np.float32:
    for cut in cuts.cuts:
        value = row[features.index(cut.feature)]
        applies = n_hits is None or cut.min_hits <= n_hits <= cut.max_hits
        too_low = cut.min is not None and not value >= f32(cut.min)
        too_high = cut.max is not None and not value <= f32(cut.max)
        if applies and (too_low or too_high):
            return f32(0)
    return f32(1)


def scores(model: Model, inputs: Sequence[NDArray[Any]]) -> Floats:
    """Scores of rows as an engine gets them: features, and for cuts on tracks the numbers of hits."""
    rows, content = inputs[0], model.content
    hits = inputs[1] if len(inputs) > 1 else [None] * len(rows)
    match content:
        case MlpWeights():
            found = [mlp_score(content, row) for row in rows]
        case Forest():
            found = [forest_score(content, row) for row in rows]
        case Cuts():
            found = [cuts_score(content, model.features, row, None if n is None else int(n)) for row, n in zip(rows, hits, strict=True)]
        case Exported():
            raise AssertionError("an exported program has no definition but itself")
    return np.array(found, np.float32)
