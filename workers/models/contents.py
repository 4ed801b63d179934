"""What a model consists of, as checked, read-only NumPy arrays: the source of kernel tables and of torch modules alike.

The arithmetic that every engine follows is written down in tests/reference/models.py. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.models.manifest import Cut

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Tensors = Mapping[str, NDArray[Any]]

#: Normalised inputs of an MLP are clamped to +- this: an outlier of one feature cannot drown the others.
CLAMP = 8.0
MAX_LAYERS = 16
MAX_WIDTH = 4096
MAX_NODES = 1 << 22
MAX_TREES = 1 << 16
#: Of one tree; kernels walk at most so many levels.
MAX_DEPTH = 64
_LAYER = re.compile(r"layer(0|[1-9][0-9]?)\.(weight|bias)")


@dataclass(frozen=True)
class MlpWeights:
    """A multi-layer perceptron: x' = clamp((x - mean) * scale, -8, 8), layers with ReLU between, one logit, sigmoid.

    `mean`, `scale`: (features,); `layers`: weight (out, in) and bias (out,) of each; all float32.
    """

    mean: Floats
    scale: Floats
    layers: tuple[tuple[Floats, Floats], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Features, then outputs of every layer; ends with 1."""
        return (len(self.mean), *(len(bias) for _, bias in self.layers))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """By their names in weights.safetensors."""
        named: dict[str, NDArray[Any]] = {"mean": self.mean, "scale": self.scale}
        for i, (weight, bias) in enumerate(self.layers):
            named[f"layer{i}.weight"], named[f"layer{i}.bias"] = weight, bias
        return named


@dataclass(frozen=True)
class Forest:
    """Boosted trees: score = sigmoid(base + leaf values in the order of the trees), summed in float32.

    Node n with left[n] >= 0 sends x[feature[n]] <= threshold[n] to left[n], the rest (NaN too) to right[n]; left[n] = -1: a leaf
    of value[n]. `root`: (trees,) first node of each tree; `base`: (1,). `depth`: most steps from a root to a leaf.
    """

    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats
    root: Ints
    base: Floats
    depth: int

    def tensors(self) -> dict[str, NDArray[Any]]:
        """By their names in weights.safetensors."""
        return {name: getattr(self, name) for name in _FOREST}


@dataclass(frozen=True)
class Cuts:
    """Score 1 if every cut holds whose range of hits contains the track's number of hits, else 0."""

    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Exported:
    """A torch.export archive as it was checked: what is executed is never read from disk a second time."""

    archive: bytes


Content = MlpWeights | Forest | Cuts | Exported

_FOREST: dict[str, type[np.generic]] = {
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "right": np.int32,
    "value": np.float32,
    "root": np.int32,
    "base": np.float32,
}


def mlp(tensors: Tensors, features: int, origin: object) -> MlpWeights:
    """Weights of a perceptron over `features` inputs; float16 is widened exactly. Raises ConfigError naming the tensor at fault."""
    indices = sorted({int(match[1]) for match in map(_LAYER.fullmatch, tensors) if match})
    if indices != list(range(len(indices))) or not 1 <= len(indices) <= MAX_LAYERS:
        raise ConfigError(f"{origin}: layers {indices}; expected 0, 1, ... without a gap, 1 to {MAX_LAYERS} of them")
    parts = [f"layer{i}.{part}" for i in indices for part in ("weight", "bias")]
    _names(tensors, ("mean", "scale", *parts), origin)
    floats = {name: _floats(tensors[name], f"{origin}: {name}") for name in tensors}
    for name in ("mean", "scale"):
        _shape(floats[name], (features,), f"{origin}: {name}", "one value a feature")
    width, layers = features, []
    for i in indices:
        weight, bias = floats[f"layer{i}.weight"], floats[f"layer{i}.bias"]
        outputs = 1 if i == indices[-1] else len(bias) if bias.ndim == 1 else 0
        if not 1 <= outputs <= MAX_WIDTH:
            raise ConfigError(f"{origin}: layer{i}.bias has shape {bias.shape}; expected 1 to {MAX_WIDTH} values")
        reason = "the last layer has one output" if i == indices[-1] else "(outputs, inputs)"
        _shape(weight, (outputs, width), f"{origin}: layer{i}.weight", reason)
        _shape(bias, (outputs,), f"{origin}: layer{i}.bias", "one value an output")
        layers.append((weight, bias))
        width = outputs
    return MlpWeights(floats["mean"], floats["scale"], tuple(layers))


def forest(tensors: Tensors, features: int, origin: object) -> Forest:
    """Trees over `features` inputs. Raises ConfigError naming tensor and node at fault: children out of range, cycles, orphans."""
    _names(tensors, tuple(_FOREST), origin)
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype in _FOREST.items():
        if tensors[name].dtype != dtype:
            raise ConfigError(f"{origin}: {name} has dtype {tensors[name].dtype}; expected {np.dtype(dtype)}")
        arrays[name] = _frozen(tensors[name])
    nodes = len(arrays["left"]) if arrays["left"].ndim == 1 else 0
    if not 1 <= nodes <= MAX_NODES:
        raise ConfigError(f"{origin}: left has shape {arrays['left'].shape}; expected 1 to {MAX_NODES} nodes")
    for name in ("feature", "threshold", "left", "right", "value"):
        _shape(arrays[name], (nodes,), f"{origin}: {name}", "one value a node")
    _shape(arrays["base"], (1,), f"{origin}: base", "one value")
    if arrays["root"].ndim != 1 or not 1 <= len(arrays["root"]) <= MAX_TREES:
        raise ConfigError(f"{origin}: root has shape {arrays['root'].shape}; expected 1 to {MAX_TREES} trees")
    for name in ("threshold", "value", "base"):
        _finite(arrays[name], f"{origin}: {name}")
    inner = arrays["left"] >= 0
    _range(arrays["left"], -1, nodes - 1, np.ones(nodes, bool), f"{origin}: left")
    _range(arrays["right"], 0, nodes - 1, inner, f"{origin}: right")
    _range(arrays["feature"], 0, features - 1, inner, f"{origin}: feature")
    _range(arrays["root"], 0, nodes - 1, np.ones(len(arrays["root"]), bool), f"{origin}: root")
    depth = _depth(arrays["left"], arrays["right"], arrays["root"], origin)
    return Forest(**arrays, depth=depth)


def _depth(left: Ints, right: Ints, root: Ints, origin: object) -> int:
    """Most steps from a root to a leaf. Every node must be reached exactly once; level by level, so that cycles end."""
    reached = np.zeros(len(left), np.int64)
    level: NDArray[Any] = root
    for depth in range(MAX_DEPTH + 1):
        np.add.at(reached, level, 1)
        if reached.max() > 1:
            raise ConfigError(f"{origin}: node {int(reached.argmax())} is reached twice: a cycle, or a child that two nodes share")
        parents = level[left[level] >= 0]
        if not len(parents):
            if reached.min() == 0:
                raise ConfigError(f"{origin}: node {int(reached.argmin())} belongs to no tree")
            return depth
        level = np.concatenate((left[parents], right[parents]))
    raise ConfigError(f"{origin}: a tree is deeper than {MAX_DEPTH} levels")


def _names(tensors: Tensors, wanted: Sequence[str], origin: object) -> None:
    missing, unknown = [n for n in wanted if n not in tensors], sorted(set(tensors) - set(wanted))
    if missing:
        raise ConfigError(f"{origin}: tensor {missing[0]!r} is missing; found {', '.join(sorted(tensors)) or 'none'}")
    if unknown:
        raise ConfigError(f"{origin}: tensor {unknown[0]!r} is unknown; expected {', '.join(wanted)}")


def _shape(array: NDArray[Any], wanted: tuple[int, ...], what: str, reason: str) -> None:
    if array.shape != wanted:
        raise ConfigError(f"{what} has shape {array.shape}; expected {wanted}: {reason}")


def _floats(array: NDArray[Any], what: str) -> Floats:
    if array.dtype not in (np.float32, np.float16):
        raise ConfigError(f"{what} has dtype {array.dtype}; expected float32 or float16")
    _finite(array, what)
    return _frozen(array.astype(np.float32))


def _finite(array: NDArray[Any], what: str) -> None:
    if not np.isfinite(array).all():
        at = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise ConfigError(f"{what} holds {array[at]} at {tuple(int(i) for i in at)}; every value must be finite")


def _range(array: NDArray[Any], low: int, high: int, where: NDArray[np.bool_], what: str) -> None:
    bad = where & ((array < low) | (array > high))
    if bad.any():
        at = int(bad.argmax())
        raise ConfigError(f"{what} of entry {at} is {array[at]}; possible are {low} to {high}")


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array, order="C", copy=True)
    copy.setflags(write=False)
    return copy
