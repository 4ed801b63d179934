"""Small models of every kind, drawn from a seed, and the arguments to save them with."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from hltfarm.workers.models import Cut, Cuts, Forest, MlpWeights

FEATURES = ("pt", "eta", "phi", "tip", "zip")
TRACK: dict[str, Any] = {
    "name": "sample",
    "version": 2,
    "target": "track",
    "features": FEATURES,
    "working_points": {"0.99": {"triplets": 0.25, "longer": 0.125}, "0.9": {"triplets": 0.5, "longer": 0.375}},
    "default_working_point": "0.99",
}
EVENT: dict[str, Any] = {**TRACK, "target": "event", "working_points": {"0.95": {"event": 0.5}}, "default_working_point": "0.95"}


def perceptron(seed: int = 1, hidden: tuple[int, ...] = (8, 4), features: int = len(FEATURES)) -> MlpWeights:
    random = np.random.default_rng(seed)
    widths = (features, *hidden, 1)
    layers = tuple(
        (random.normal(0, 0.7, (n, k)).astype(np.float32), random.normal(0, 0.3, n).astype(np.float32)) for k, n in pairwise(widths)
    )
    mean, scale = random.normal(0, 2, features).astype(np.float32), random.uniform(0.2, 3, features).astype(np.float32)
    return MlpWeights(mean, scale, layers)


def forest(seed: int = 1, trees: int = 20, depth: int = 5, features: int = len(FEATURES)) -> Forest:
    """Trees that grow at random: some are a single leaf."""
    random = np.random.default_rng(seed)
    nodes: list[list[float]] = []  # feature, threshold, left, right, value

    def grow(level: int) -> int:
        here = len(nodes)
        nodes.append([0, 0, -1, -1, random.normal(0, 0.2)])
        if level < depth and random.random() < 0.8:
            nodes[here][:2] = [random.integers(features), random.normal()]
            nodes[here][2] = grow(level + 1)
            nodes[here][3] = grow(level + 1)
        return here

    root = np.array([grow(0) for _ in range(trees)], np.int32)
    feature, threshold, left, right, value = np.array(nodes).T
    ints, floats = (a.astype(np.int32) for a in (feature, left, right)), (a.astype(np.float32) for a in (threshold, value))
    (f, le, r), (t, v) = ints, floats
    return Forest(f, t, le, r, v, root, np.array([-0.125], np.float32), depth)


def cuts() -> Cuts:
    return Cuts(
        (
            Cut(feature="pt", min=-0.5),
            Cut(feature="tip", min=-0.3, max=0.3, max_hits=3),
            Cut(feature="tip", min=-1.5, max=1.5, min_hits=4, max_hits=8),
            Cut(feature="zip", max=1.75, min_hits=5),
        )
    )
