"""Rows to compare engines with: near what a model decides on, boundaries included. A model never sees plain noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.workers.models.contents import Cuts, Exported, Floats, Forest, MlpWeights
from hltfarm.workers.models.package import Model

#: Numbers of hits that are drawn.
HITS = (3, 12)


def rows(model: Model, n: int, seed: int) -> list[NDArray[Any]]:
    """Inputs of an engine for `n` rows: (n, k) float32 each; for cuts on tracks the numbers of hits, (n,) int32, too.

    Perceptrons: around the mean, by the inverse scale, some beyond the clamp. Forests and cuts: half of the values are thresholds
    of their feature, exactly. Exported programs: standard normal. `seed` alone decides.
    """
    random = np.random.default_rng(seed)
    content = model.content
    noise = random.normal(0, 1, (n, len(model.features))).astype(np.float32)
    match content:
        case MlpWeights():
            wide = np.where(random.random(noise.shape) < 0.02, 20, 1).astype(np.float32)
            scale = np.where(content.scale == 0, np.float32(1), content.scale)
            return [(content.mean + noise * wide / scale).astype(np.float32)]
        case Forest():
            inner = content.left >= 0
            return [_around([content.threshold[inner & (content.feature == i)] for i in range(len(model.features))], noise, random)]
        case Cuts():
            bounds = [
                [b for cut in content.cuts if cut.feature == name for b in (cut.min, cut.max) if b is not None] for name in model.features
            ]
            x = _around([np.array(b, np.float32) for b in bounds], noise, random)
            return [x, random.integers(*HITS, n).astype(np.int32)] if model.target == "track" else [x]
        case Exported():
            column = {name: i for i, name in enumerate(model.features)}
            return [noise[:, [column[name] for name in group]] for group in model.inputs]


def _around(boundaries: list[NDArray[Any]], noise: Floats, random: np.random.Generator) -> Floats:
    """Values of each column: boundaries of it, half of them moved by a fraction of how far the boundaries spread."""
    x = noise.copy()
    for i, edges in enumerate(boundaries):
        if len(edges):
            chosen = random.choice(edges, len(x)).astype(np.float32)
            spread = np.float32(np.std(edges) or np.abs(edges).max() or 1)
            x[:, i] = np.where(random.random(len(x)) < 0.5, chosen, chosen + noise[:, i] * spread)
    return x
