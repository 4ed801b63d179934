"""Models as torch modules: any strided float32 inputs in, one score a row out.

`forward` is functional: it is what training differentiates, torch.compile traces and torch.export writes down. `score_into` is what
runs eagerly: its last operation writes straight into the caller's column. Neither synchronises, and what they allocate comes from
torch's caching allocator, so that both can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hltfarm.workers.models import archive
from hltfarm.workers.models.contents import CLAMP, Cuts, Exported, Forest, MlpWeights
from hltfarm.workers.models.package import Model


class Mlp(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A perceptron of `MlpWeights`: normalise and clamp, linear layers with ReLU between, sigmoid of the one output."""

    def __init__(self, weights: MlpWeights) -> None:
        super().__init__()
        self.register_buffer("mean", _tensor(weights.mean))
        self.register_buffer("scale", _tensor(weights.scale))
        self.layers = nn.ModuleList()
        for weight, bias in weights.layers:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": _tensor(weight), "bias": _tensor(bias)})
            self.layers.append(layer)

    @classmethod
    def untrained(cls, mean: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], hidden: Sequence[int], seed: int) -> Mlp:
        """Layers of the given hidden widths with random weights (He) that `seed` alone decides; mean and scale as they will be shipped."""
        random = np.random.default_rng(seed)
        widths = (len(mean), *hidden, 1)
        layers = []
        for inputs, outputs in pairwise(widths):
            weight = random.normal(0.0, np.sqrt(2.0 / inputs), (outputs, inputs)).astype(np.float32)
            layers.append((weight, np.zeros(outputs, np.float32)))
        return cls(MlpWeights(np.asarray(mean, np.float32), np.asarray(scale, np.float32), tuple(layers)))

    def weights(self) -> MlpWeights:
        """A copy of the present weights on the host; synchronises."""
        layers = tuple((_array(layer.weight), _array(layer.bias)) for layer in self.layers)
        return MlpWeights(_array(self.mean), _array(self.scale), layers)

    def logits(self, x: Tensor) -> Tensor:
        """(n, features) -> (n,): the score before the sigmoid, for losses."""
        x = torch.clamp((x - self.mean) * self.scale, -CLAMP, CLAMP)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x).squeeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) -> (n,) scores in 0 .. 1."""
        return torch.sigmoid(self.logits(x))

    def score_into(self, inputs: Sequence[Tensor], out: Tensor) -> None:
        """Scores of inputs[0] (n, features) into `out` (n,), a view with any stride; call it in inference mode.

        Everything between works in place on one tensor a layer; the sigmoid writes `out`: no copy at either end.
        """
        x = ((inputs[0] - self.mean).mul_(self.scale)).clamp_(-CLAMP, CLAMP)
        for layer in self.layers[:-1]:
            x = functional.linear(x, layer.weight, layer.bias).relu_()
        last = self.layers[-1]
        torch.sigmoid(functional.linear(x, last.weight, last.bias).squeeze(-1), out=out)


class ForestNet(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Trees of a `Forest`, all rows and trees one level at a time. The sum over trees has torch's order: equal to 1e-5 only."""

    def __init__(self, forest: Forest) -> None:
        super().__init__()
        leaf = forest.left < 0
        here = np.arange(len(forest.left))
        self.depth = forest.depth
        # A leaf leads to itself: after `depth` steps every row stands on a leaf of every tree.
        branches = np.stack([np.where(leaf, here, forest.right), np.where(leaf, here, forest.left)], axis=1)
        self.register_buffer("branches", torch.from_numpy(branches.astype(np.int64).reshape(-1)))
        self.register_buffer("feature", torch.from_numpy(np.where(leaf, 0, forest.feature).astype(np.int64)))
        self.register_buffer("threshold", _tensor(forest.threshold))
        self.register_buffer("value", _tensor(forest.value))
        self.register_buffer("root", torch.from_numpy(forest.root.astype(np.int64)))
        self.register_buffer("base", _tensor(forest.base))

    def logits(self, x: Tensor) -> Tensor:
        """(n, features) -> (n,): base plus leaf values."""
        node = self.root.unsqueeze(0).expand(x.shape[0], -1)
        for _ in range(self.depth):
            goes_left = torch.gather(x, 1, self.feature[node]) <= self.threshold[node]
            node = self.branches[2 * node + goes_left]
        return self.value[node].sum(1) + self.base

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) -> (n,) scores in 0 .. 1."""
        return torch.sigmoid(self.logits(x))

    def score_into(self, inputs: Sequence[Tensor], out: Tensor) -> None:
        """Scores of inputs[0] (n, features) into `out` (n,), a view with any stride."""
        torch.sigmoid(self.logits(inputs[0]), out=out)


class CutNet(nn.Module):  # type: ignore[misc]
    """The cuts of a `Cuts`. Tracks come with their numbers of hits as second input, (n,) or (n, 1) of any dtype; events without."""

    def __init__(self, cuts: Cuts, features: Sequence[str]) -> None:
        super().__init__()
        infinity = float("inf")
        self.register_buffer("column", torch.tensor([features.index(cut.feature) for cut in cuts.cuts]))
        self.register_buffer("low", torch.tensor([-infinity if cut.min is None else cut.min for cut in cuts.cuts], dtype=torch.float32))
        self.register_buffer("high", torch.tensor([infinity if cut.max is None else cut.max for cut in cuts.cuts], dtype=torch.float32))
        self.register_buffer("min_hits", torch.tensor([cut.min_hits for cut in cuts.cuts]))
        self.register_buffer("max_hits", torch.tensor([cut.max_hits for cut in cuts.cuts]))

    def passes(self, x: Tensor, n_hits: Tensor | None = None) -> Tensor:
        """(n, features) and, for tracks, the numbers of hits -> (n,) bool."""
        values = x[:, self.column]
        holds = (values >= self.low) & (values <= self.high)
        if n_hits is not None:
            hits = n_hits.reshape(x.shape[0], 1).to(torch.int64)
            holds = holds | (hits < self.min_hits) | (hits > self.max_hits)
        return holds.all(1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs as `passes` takes them -> (n,) scores 0 or 1."""
        return self.passes(*inputs).to(torch.float32)

    def score_into(self, inputs: Sequence[Tensor], out: Tensor) -> None:
        """Scores into `out` (n,), a view with any stride; the conversion from bool writes it."""
        out.copy_(self.passes(*inputs))


class ExportedNet(nn.Module):  # type: ignore[misc]
    """The program of a torch.export archive, checked by `archive.exported_program`, on a device. `max_rows`: most that it takes."""

    def __init__(self, exported: Exported, groups: Sequence[int], origin: str, device: torch.device) -> None:
        super().__init__()
        program = archive.exported_program(exported.archive, origin, groups)
        ranges = [int(r.upper) for r in program.range_constraints.values() if r.upper.is_Integer]
        self.max_rows = min(ranges, default=None)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        self.program = program.module()

    def forward(self, *inputs: Tensor) -> Tensor:
        """(n, k) float32 tensors -> (n,) scores."""
        return self.program(*inputs).reshape(-1)

    def score_into(self, inputs: Sequence[Tensor], out: Tensor) -> None:
        """Scores into `out` (n,), a view with any stride: one copy, the program returns a tensor of its own."""
        out.copy_(self(*inputs))

    def train(self, mode: bool = True) -> ExportedNet:
        """An exported program is what it was exported as."""
        self.training = mode
        return self


def network(model: Model, device: torch.device) -> Any:
    """The torch module of a model on a device, for inference: `forward(*inputs)` and `score_into(inputs, out)`.

    Raises ConfigError or BackendError for an exported program that is refused.
    """
    match model.content:
        case MlpWeights():
            net: Any = Mlp(model.content)
        case Forest():
            net = ForestNet(model.content)
        case Cuts():
            net = CutNet(model.content, model.features)
        case Exported():
            net = ExportedNet(model.content, [len(group) for group in model.inputs], f"model {model.name}", device)
    return net.to(device).eval().requires_grad_(False)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.array(tensor.detach().cpu().numpy(), np.float32)
    array.setflags(write=False)
    return array
