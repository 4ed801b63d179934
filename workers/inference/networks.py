"""The networks of the benchmark: `network(inputs, outputs)` writes every output in place, whatever the strides of either.

Weights are random, decided by a seed. Nothing synchronises, and sizes do not depend on data, so that a run can be captured in a graph.
Call them in inference mode: the last operation of each output is an `out=`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Tensors = tuple[Tensor, ...]


class SimpleNet(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A perceptron: features (n, 8) -> score (n, 1)."""

    def __init__(self, features: int = 8, width: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, width)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Tensors, outputs: Tensors) -> None:
        """Scores into outputs[0]."""
        x = functional.relu(self.hidden(inputs[0]), inplace=True)
        torch.sigmoid(self.head(x), out=outputs[0])


class MaskedNet(nn.Module):  # type: ignore[misc]
    """A perceptron of which any feature may be missing: features (n, 8), valid (n, 8) bool -> score (n, 1), 0 where none is valid."""

    def __init__(self, features: int = 8, width: int = 32) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.randn(features))
        self.hidden = nn.Linear(features, width)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Tensors, outputs: Tensors) -> None:
        """Scores into outputs[0]."""
        features, valid = inputs
        x = torch.where(valid, features, self.missing)
        x = functional.relu(self.hidden(x), inplace=True)
        torch.mul(self.head(x).sigmoid_(), valid.any(1, keepdim=True), out=outputs[0])


class MultiHeadNet(nn.Module):  # type: ignore[misc]
    """A common trunk with two heads: features (n, 8) -> momentum (n, 3) and score (n, 1)."""

    def __init__(self, features: int = 8, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True))
        self.momentum = nn.Linear(width, 3)
        self.score = nn.Linear(width, 1)

    def forward(self, inputs: Tensors, outputs: Tensors) -> None:
        """Momenta into outputs[0], scores into outputs[1]."""
        x = self.trunk(inputs[0])
        torch.addmm(self.momentum.bias, x, self.momentum.weight.t(), out=outputs[0])
        torch.sigmoid(self.score(x), out=outputs[1])


class TinyResNet(nn.Module):  # type: ignore[misc]
    """One residual block of 3x3 convolutions: images (n, 3, 9, 9) -> score (n, 1)."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, 1)

    def forward(self, inputs: Tensors, outputs: Tensors) -> None:
        """Scores into outputs[0]."""
        x = functional.relu(self.stem(inputs[0]), inplace=True)
        y = self.second(functional.relu(self.first(x), inplace=True))
        x = y.add_(x).relu_().mean((2, 3))
        torch.sigmoid(self.head(x), out=outputs[0])


class DeepSet(nn.Module):  # type: ignore[misc]
    """Sum over the hits of a track: hits (n, 8, 4), their number (n, 1) int32 -> score (n, 1). The order of the hits does not matter."""

    def __init__(self, features: int = 4, width: int = 16) -> None:
        super().__init__()
        self.hit = nn.Linear(features, width)
        self.track = nn.Linear(width, width)
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Tensors, outputs: Tensors) -> None:
        """Scores into outputs[0]."""
        hits, n_hits = inputs
        places = hits.shape[1]
        # One product a place: takes the hits as they lie, where a product over all of them would first make them contiguous.
        weight = self.hit.weight.t().expand(places, -1, -1)
        x = torch.baddbmm(self.hit.bias, hits.transpose(0, 1), weight).relu_()
        used = torch.arange(places, device=hits.device)[:, None, None] < n_hits
        x = x.mul_(used).sum(0)
        x = functional.relu(self.track(x), inplace=True)
        torch.sigmoid(self.head(x), out=outputs[0])


class GraphNet(nn.Module):  # type: ignore[misc]
    """Message passing and a score for every edge: nodes (N, 4), source and target (E, 1) int32, edges (E, 2) -> score (E, 1).

    A message is a layer over both nodes and the edge, split into a product a node and one an edge, so that nothing is concatenated over
    edges. Messages are averaged with `index_add_`: on a GPU equal to about 1e-7 only, from run to run as well.
    """

    def __init__(self, nodes: int = 4, edges: int = 2, width: int = 16, rounds: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(nodes, width)
        self.source = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(rounds + 1))
        self.target = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(rounds + 1))
        self.edge = nn.ModuleList(nn.Linear(edges, width) for _ in range(rounds + 1))
        self.update = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(rounds))
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Tensors, outputs: Tensors) -> None:
        """Scores of the edges into outputs[0]."""
        nodes, source, target, edges = inputs
        begin, end = source[:, 0].to(torch.int64), target[:, 0].to(torch.int64)
        h = functional.relu(self.embed(nodes), inplace=True)
        degree = h.new_zeros(len(h), 1).index_add_(0, end, h.new_ones(len(end), 1)).clamp_(min=1)
        for k, update in enumerate(self.update):
            mean = torch.zeros_like(h).index_add_(0, end, self._messages(k, h, begin, end, edges)).div_(degree)
            h = functional.relu(update(torch.cat((h, mean), 1)), inplace=True)
        torch.sigmoid(self.head(self._messages(-1, h, begin, end, edges)), out=outputs[0])

    def _messages(self, k: int, h: Tensor, begin: Tensor, end: Tensor, edges: Tensor) -> Tensor:
        messages = self.edge[k](edges)
        messages += self.source[k](h)[begin]
        messages += self.target[k](h)[end]
        return messages.relu_()


def seeded(make: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    """A network for inference with weights that the seed alone decides; torch's random state stays as it is."""
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval().requires_grad_(False).to(device)
