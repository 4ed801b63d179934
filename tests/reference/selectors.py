"""Models with random content for tests of the chain: nothing is trained, every feature matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.models import Cut, Cuts, Forest, Manifest, MlpWeights, Model

FILES = {"mlp": ("weights.safetensors",), "forest": ("weights.safetensors",), "cuts": ()}


def manifest(kind: str, features: Sequence[str], target: str = "track", **more: Any) -> Manifest:
    thresholds = {"triplets": 0.5, "longer": 0.4} if target == "track" else {"event": 0.5}
    return Manifest(
        format=1,
        name=f"random-{kind}",
        version=1,
        kind=kind,  # type: ignore[arg-type]
        target=target,  # type: ignore[arg-type]
        description="random content",
        features=tuple(features),
        working_points={"0.99": thresholds, "0.98": dict.fromkeys(thresholds, 0.6)},
        default_working_point="0.99",
        files=dict.fromkeys(FILES[kind], "0" * 32),
        **more,
    )


def mlp(
    seed: int, features: Sequence[str] = FEATURES, hidden: Sequence[int] = (33, 20), target: str = "track", scale: float = 0.5
) -> Model:
    """A dense network; widths that are no multiple of a block."""
    rng = np.random.default_rng(seed)
    widths = (len(features), *hidden, 1)
    layers = tuple(
        ((rng.normal(size=(b, a)) * (8 if b == 1 else 1) / np.sqrt(a)).astype(np.float32), rng.normal(scale=0.1, size=b).astype(np.float32))
        for a, b in pairwise(widths)
    )
    mean = rng.normal(scale=0.2, size=len(features)).astype(np.float32)
    spread = (scale * rng.uniform(0.5, 2, len(features))).astype(np.float32)
    return Model(manifest("mlp", features, target), MlpWeights(mean, spread, layers))


def forest(seed: int, features: Sequence[str] = FEATURES, trees: int = 7, depth: int = 4) -> Model:
    """Trees of random shape: a node above the last level is a leaf with a probability of a quarter."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, list[float]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}

    def grow(level: int) -> int:
        node = len(nodes["left"])
        leaf = level == depth or (level > 0 and rng.uniform() < 0.25)
        values = (rng.integers(len(features)), rng.normal(scale=2), -1, -1, rng.normal() if leaf else 0)
        for name, value in zip(nodes, values, strict=True):
            nodes[name].append(value)
        if not leaf:
            nodes["left"][node] = grow(level + 1)
            nodes["right"][node] = grow(level + 1)
        return node

    roots = [grow(0) for _ in range(trees)]
    integers = {name: np.array(nodes[name], np.int32) for name in ("feature", "left", "right")}
    floats = {name: np.array(nodes[name], np.float32) for name in ("threshold", "value")}
    content = Forest(**integers, **floats, root=np.array(roots, np.int32), base=np.array([0.1], np.float32), depth=depth)
    return Model(manifest("forest", features), content)


def cuts() -> Model:
    """Some cuts for all tracks, one for triplets, one for longer tracks."""
    chosen = (
        Cut(feature="log_chi2", max=0.5),
        Cut(feature="log_pt", min=-0.5),
        Cut(feature="eta", min=-2.0, max=2.0, max_hits=3),
        Cut(feature="zip", min=-8.0, max=8.0, min_hits=4),
    )
    return Model(manifest("cuts", FEATURES, cuts=chosen), Cuts(chosen))


def with_working_points(model: Model, points: dict[str, dict[str, float]]) -> Model:
    return replace(model, manifest=model.manifest.model_copy(update={"working_points": points}))


def scores(model: Model, values: np.ndarray[Any, Any], n_hits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scores of rows (n, features of the model), obvious and in float64; `n_hits` (n,) for cuts by hits."""
    content, x = model.content, values.astype(np.float64)
    if isinstance(content, MlpWeights):
        x = np.clip((x - content.mean) * content.scale, -8, 8)
        for weight, bias in content.layers[:-1]:
            x = np.maximum(x @ weight.T.astype(np.float64) + bias, 0)
        weight, bias = content.layers[-1]
        return 1 / (1 + np.exp(-(x @ weight[0].astype(np.float64) + bias[0])))
    if isinstance(content, Forest):
        sums = np.full(len(x), float(content.base[0]))
        for i, row in enumerate(x):
            for node in content.root:
                while content.left[node] >= 0:
                    node = content.left[node] if row[content.feature[node]] <= content.threshold[node] else content.right[node]
                sums[i] += content.value[node]
        return 1 / (1 + np.exp(-sums))
    assert isinstance(content, Cuts)
    passed = np.ones(len(x), bool)
    for cut in content.cuts:
        column = values[:, model.features.index(cut.feature)]
        low, high = np.float32(-np.inf if cut.min is None else cut.min), np.float32(np.inf if cut.max is None else cut.max)
        passed &= ~((n_hits >= cut.min_hits) & (n_hits <= cut.max_hits)) | ((column >= low) & (column <= high))
    return passed.astype(np.float64)
