"""The models of a reconstruction as its kernels read them: tables, parameters, and which steps of the chain run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.soa import Collection, Schema
from hltfarm.workers import dnn
from hltfarm.workers.menu.menu import QUANTITIES
from hltfarm.workers.models import Cuts, Forest, MlpWeights, Model
from hltfarm.workers.models.package import digest

Allocate = Callable[[Schema, int], Collection]

#: How a model is computed: by kernels of the chain, or by torch in between.
ENGINES = ("fused", "eager", "compile", "aot")

NONE = 0xFFFFFFFF  # of the kernels (portable.cuh)

#: Quantities that an event classifier may see: all but its own score.
EVENT_INPUTS = QUANTITIES[: QUANTITIES.index("event_score")]


@dataclass(frozen=True)
class Selector:
    """A selector of tracks (or None), how it is computed, and a classifier of events (or None).

    Raises ConfigError for models that the chain cannot compute.
    """

    track: Model | None = None
    working_point: str | None = None
    engine: str = "fused"
    event: Model | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(f"engine {self.engine!r} is unknown; use {', '.join(ENGINES)}")
        if self.track is not None:
            self._check(self.track, "track", dnn.FEATURES)
            self.track.thresholds(self.working_point)
            _check_spacing(self.track)
            if not self.uses_torch and self.track.kind == "pt2":
                raise ConfigError(f"model {self.track.name} is a torch program; use the engine eager, compile or aot")
        if self.event is not None:
            self._check(self.event, "event", EVENT_INPUTS)
            if self.event.kind != "mlp":
                raise ConfigError(f"model {self.event.name} is of kind {self.event.kind}; a classifier of events is of kind mlp")

    def _check(self, model: Model, target: str, known: Sequence[str]) -> None:
        if model.target != target:
            raise ConfigError(f"model {model.name} scores {model.target}s, not {target}s")
        for name in model.features:
            if name not in known:
                raise ConfigError(f"model {model.name}: unknown feature {name!r}; known are {', '.join(known)}")
        if isinstance(model.content, MlpWeights) and not (model is self.track and self.uses_torch):
            widest = max(model.content.widths)
            if widest > dnn.MLP_MAX_WIDTH:
                raise ConfigError(
                    f"model {model.name}: a layer of {widest}; kernels compute up to {dnn.MLP_MAX_WIDTH}, a torch engine any width"
                )

    @property
    def uses_torch(self) -> bool:
        """Without a selector of tracks there is nothing for an engine to compute: events are classified by kernels."""
        return self.track is not None and self.engine != "fused"

    @property
    def kinds(self) -> frozenset[str]:
        """Conditions of the steps of the chain that are met (`Kernel.when`)."""
        if self.track is None:
            return frozenset()
        return frozenset((dnn.SELECTOR, dnn.TORCH if self.uses_torch else self.track.kind))

    @property
    def name(self) -> str:
        """Of the selector, for people and metrics: name, version, hash; "none" without one."""
        return "none" if self.track is None else f"{self.track.name}-{self.track.version} ({self.track.hash})"

    def params(self) -> dict[str, Any]:
        """The fields of Selection that follow from the models."""
        fields: dict[str, Any] = {
            "min_quality": 2,
            "exact_scores": not self.uses_torch,
            "triplet_threshold": 0.0,
            "longer_threshold": 0.0,
            "n_layers": 0,
            "n_trees": 0,
            "forest_base": 0.0,
            "n_cuts": 0,
            "first_input": 0,
            "first_layer": 0,
            "event_input": 0,
            "event_layer": 0,
            "event_layers": 0,
        }
        networks = self._networks()
        if self.track is not None:
            threshold = self.track.thresholds(self.working_point)
            fields |= {"min_quality": 3, "triplet_threshold": threshold["triplets"], "longer_threshold": threshold["longer"]}
            content = self.track.content
            if isinstance(content, Forest):
                fields |= {"n_trees": len(content.root), "forest_base": content.base[0]}
            elif isinstance(content, Cuts):
                fields["n_cuts"] = len(content.cuts)
            elif networks and networks[0][0] is content:
                fields["n_layers"] = len(networks[0][0].layers)
        if self.event is not None:
            before = networks[:-1]
            fields |= {
                "event_input": sum(len(weights.mean) for weights, _ in before),
                "event_layer": sum(len(weights.layers) for weights, _ in before),
                "event_layers": len(networks[-1][0].layers),
            }
        return fields

    def _networks(self) -> list[tuple[MlpWeights, list[int]]]:
        """Dense networks that kernels compute, with the columns of their inputs: of tracks, then of events."""
        networks = []
        if self.track is not None and isinstance(self.track.content, MlpWeights) and not self.uses_torch:
            networks.append((self.track.content, [dnn.FEATURES.index(f) for f in self.track.features]))
        if self.event is not None:
            assert isinstance(self.event.content, MlpWeights)
            networks.append((self.event.content, [QUANTITIES.index(f) for f in self.event.features]))
        return networks

    def tables(self, allocate: Allocate) -> dict[str, Collection]:
        """The tables of the dnn stage in memory from `allocate(schema, capacity)`, by struct name."""
        content = self.track.content if self.track is not None else None
        features = np.array([dnn.FEATURES.index(f) for f in self.track.features] if self.track is not None else [], np.uint32)
        return (
            _network_tables(self._networks(), allocate)
            | _forest_tables(content if isinstance(content, Forest) else None, features, allocate)
            | _cut_tables(content if isinstance(content, Cuts) else None, allocate)
        )


def _check_spacing(model: Model) -> None:
    """Each input tensor of a torch program is one view over columns, which must be evenly spaced. Raises ConfigError naming the feature."""
    if model.kind != "pt2":
        return
    for group in model.inputs:
        at = [dnn.FEATURES.index(name) for name in group]
        steps = np.diff(at)
        if len(steps) and (steps[0] < 1 or (steps != steps[0]).any()):
            wrong = group[1 + int(np.argmax((steps != steps[0]) | (steps < 1)))]
            raise ConfigError(
                f"model {model.name}: {wrong!r} breaks the even spacing of the input {', '.join(group)}; name features in the order of the "
                "columns, at even distances, or give the model several inputs"
            )


def over_all_features(model: Model) -> Model:
    """The same model of tracks with all features as inputs, in their order; a torch program stays as it is.

    So a torch module reads the feature columns as one tensor, wherever the model's own features lie among them. Weights of the features
    that it does not know are 0. Its hash is another one for other features of the same weights: code built ahead of time goes by it.
    """
    if model.kind == "pt2":
        return model
    files = {name: digest(f"{given} {' '.join(model.features)}".encode()) for name, given in model.manifest.files.items()}
    manifest = model.manifest.model_copy(update={"features": dnn.FEATURES, "files": files})
    if isinstance(model.content, Cuts):
        return replace(model, manifest=manifest)
    at = [dnn.FEATURES.index(f) for f in model.features]
    if isinstance(model.content, Forest):
        return replace(model, manifest=manifest, content=replace(model.content, feature=np.array(at, np.int32)[model.content.feature]))
    weights = model.content
    assert isinstance(weights, MlpWeights)
    n = len(dnn.FEATURES)
    mean, scale = np.zeros(n, np.float32), np.zeros(n, np.float32)
    mean[at], scale[at] = weights.mean, weights.scale
    first, bias = weights.layers[0]
    wide = np.zeros((len(bias), n), np.float32)
    wide[:, at] = first
    return replace(model, manifest=manifest, content=MlpWeights(mean, scale, ((wide, bias), *weights.layers[1:])))


def _network_tables(networks: list[tuple[MlpWeights, list[int]]], allocate: Allocate) -> dict[str, Collection]:
    inputs = allocate(dnn.MODEL_INPUTS, max(1, sum(len(weights.mean) for weights, _ in networks)))
    layers = allocate(dnn.MODEL_LAYERS, max(1, sum(len(weights.layers) for weights, _ in networks)))
    values: list[NDArray[np.float32]] = []
    at = layer = size = 0

    def append(block: NDArray[np.float32]) -> int:
        nonlocal size
        begin = size
        values.append(block.ravel())
        size += block.size
        return begin

    for weights, columns in networks:
        n = len(columns)
        inputs.column[at : at + n], inputs.mean[at : at + n], inputs.scale[at : at + n] = columns, weights.mean, weights.scale
        at += n
        width = n  # of the inputs as they lie in memory: rows of weights for padded outputs of the layer before are left out
        for k, (weight, bias) in enumerate(weights.layers):
            last = k == len(weights.layers) - 1
            outputs = 1 if last else -(-len(bias) // dnn.MLP_BLOCK) * dnn.MLP_BLOCK
            padded = np.zeros((width, outputs), np.float32)
            padded[:, : len(bias)] = weight.T
            padded_bias = np.zeros(outputs, np.float32)
            padded_bias[: len(bias)] = bias
            layers.inputs[layer], layers.outputs[layer] = width, outputs
            layers.weights[layer], layers.biases[layer] = append(padded), append(padded_bias)
            width = len(bias)
            layer += 1
    table = allocate(dnn.MODEL_WEIGHTS, max(1, size))
    if values:
        table.value[:] = np.concatenate(values)
    return {"ModelInputs": inputs, "ModelLayers": layers, "ModelWeights": table}


def _forest_tables(forest: Forest | None, features: NDArray[np.uint32], allocate: Allocate) -> dict[str, Collection]:
    trees = allocate(dnn.MODEL_TREES, max(1, len(forest.root) if forest else 0))
    nodes = allocate(dnn.MODEL_NODES, max(1, len(forest.value) if forest else 0))
    if forest is not None:
        trees.root[:] = forest.root
        leaf = forest.left < 0
        nodes.feature[:] = np.where(leaf, 0, features[np.where(leaf, 0, forest.feature)])
        nodes.left[:] = np.where(leaf, NONE, forest.left.astype(np.int64))
        nodes.right[:] = np.where(leaf, NONE, forest.right.astype(np.int64))
        nodes.threshold[:], nodes.value[:] = forest.threshold, forest.value
    return {"ModelTrees": trees, "ModelNodes": nodes}


def _cut_tables(cuts: Cuts | None, allocate: Allocate) -> dict[str, Collection]:
    table = allocate(dnn.MODEL_CUTS, max(1, len(cuts.cuts) if cuts else 0))
    for i, cut in enumerate(cuts.cuts if cuts else ()):
        table.feature[i] = dnn.FEATURES.index(cut.feature)
        table.low[i] = -np.inf if cut.min is None else cut.min
        table.high[i] = np.inf if cut.max is None else cut.max
        table.min_hits[i], table.max_hits[i] = cut.min_hits, cut.max_hits
    return {"ModelCuts": table}
