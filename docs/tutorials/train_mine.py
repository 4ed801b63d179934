"""Trains a selector of tracks in plain torch on what the kernels computed, and writes it twice: as a network that the kernels run
themselves (`mine`), and as a torch program, as any module of yours could be (`mine-torch`).

python train_mine.py mine.hlt
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from hltfarm.loadgen.training.samples import Reading, track_rows
from hltfarm.workers.configuration import DEFAULT
from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.models import MlpWeights, save
from hltfarm.workers.models.exporting import export


class Mine(torch.nn.Module):
    """Two hidden layers, with the normalisation inside."""

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(len(mean), 32), torch.nn.ReLU(), torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )

    def logit(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) from features (n, k)."""
        return self.layers(((x - self.mean) * self.scale).clamp(-8, 8)).squeeze(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, 0 to 1."""
        return torch.sigmoid(self.logit(x))


def thresholds(score: np.ndarray, true: np.ndarray, triplet: np.ndarray, efficiency: float) -> dict[str, float]:
    """Largest thresholds that so many of the true tracks of each group reach."""
    groups = {"triplets": true & triplet, "longer": true & ~triplet}
    return {name: float(np.quantile(score[group], 1 - efficiency)) for name, group in groups.items()}


def main(*sources: str) -> None:
    """Rows, training, working points, packages."""
    torch.manual_seed(1)
    rows = track_rows([Path(source) for source in sources], Reading(DEFAULT), lambda batches, name: batches)
    x = torch.from_numpy(rows.values)
    y = torch.from_numpy(rows.label.astype(np.float32))
    test = rows.event % 3 == 0  # whole events: tracks of an event know of each other
    train = torch.from_numpy(~test)
    net = Mine(x[train].mean(0), 1 / x[train].std(0).clamp(min=1e-6))
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(300):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net.logit(x[train]), y[train])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        score = net(x).numpy()
    points = {f"{e:g}": thresholds(score[test], rows.label[test], rows.group[test] == 0, e) for e in (0.99, 0.95)}
    kept = score >= np.where(rows.group == 0, points["0.99"]["triplets"], points["0.99"]["longer"])
    for name, keep in (("all", test), ("kept", test & kept)):
        print(f"{name}: {int(keep.sum())} loose tracks of the test events, {100 * (1 - rows.label[keep].mean()):.2f} % of them fakes")

    about = {"version": 1, "target": "track", "features": FEATURES, "working_points": points, "default_working_point": "0.99"}
    linear = [layer for layer in net.layers if isinstance(layer, torch.nn.Linear)]
    layers = tuple((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear)
    save("mine", MlpWeights(net.mean.numpy(), net.scale.numpy(), layers), name="mine", overwrite=True, **about)
    save("mine-torch", export(net, [len(FEATURES)]), name="mine-torch", overwrite=True, **about)


if __name__ == "__main__":
    main(*sys.argv[1:])
