"""Training of a dense network with early stopping; the same bits for the same rows and seed on one kind of machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from hltfarm.loadgen.training.rows import Rows, Values
from hltfarm.loadgen.validation.definitions import Floats
from hltfarm.workers.models import MlpWeights
from hltfarm.workers.models.networks import Mlp

#: A feature whose spread is below this fraction of its mean (or of 1) is constant: it gets the scale 0.
_CONSTANT = 1e-6
#: Quantiles one standard deviation below the median of a normal distribution, at it, and above.
_CENTRAL = (0.15866, 0.5, 0.84134)


@dataclass(frozen=True)
class MlpConfig:
    """How a network is trained."""

    hidden: tuple[int, ...] = (64, 32)  # wider: slower in the trigger; 32, 16 costs little purity
    epochs: int = 30  # at most; the learning rate falls to 0 along half a cosine over them
    patience: int = 8  # epochs without a lower validation loss before it ends
    batch_rows: int = 1024  # smaller: noisier steps, slower
    learning_rate: float = 3e-3  # at the start (Adam); higher: unstable first epochs
    weight_decay: float = 1e-5  # higher: smoother and less pure
    robust: bool = False  # standardise with median and central 68 %: for features with long tails, which else squeeze the rest together


Curves = dict[str, list[float]]
Report = Callable[[int, float, float], None]


def train_mlp(
    train: Rows, validation: Rows, weight: Floats, stop_weight: Floats, config: MlpConfig, seed: int, report: Report
) -> tuple[MlpWeights, Curves]:
    """The weights of the epoch with the least validation loss, and the losses by epoch (mean cross entropy, weighted by row).

    `weight`, `stop_weight`: of the rows of train and validation. `report(epoch, train_loss, validation_loss)` after each epoch.
    """
    mean, scale = standardisation(train.values, config.robust)
    with _one_thread():
        net = Mlp.untrained(mean, scale, config.hidden, seed)
        x, y, w = (torch.from_numpy(a) for a in (train.values, train.label.astype(np.float32), _float32(weight)))
        vx, vy, vw = (torch.from_numpy(a) for a in (validation.values, validation.label.astype(np.float32), _float32(stop_weight)))
        adam = torch.optim.AdamW(net.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        batches = max(1, len(x) // config.batch_rows)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, batches * config.epochs)
        random = np.random.default_rng(seed)
        curves: Curves = {"train": [], "validation": []}
        best, best_loss, best_epoch = net.weights(), np.inf, 0
        for epoch in range(config.epochs):
            total = 0.0
            order = torch.from_numpy(random.permutation(len(x)))
            for rows in torch.tensor_split(order, batches):
                adam.zero_grad()
                loss = _loss(net, x[rows], y[rows], w[rows])
                loss.backward()
                adam.step()
                schedule.step()
                total += float(loss.detach()) * len(rows)
            with torch.inference_mode():
                stop = float(_loss(net, vx, vy, vw))
            curves["train"].append(total / max(1, len(x)))
            curves["validation"].append(stop)
            report(epoch, curves["train"][-1], stop)
            if stop < best_loss:
                best, best_loss, best_epoch = net.weights(), stop, epoch
            elif epoch - best_epoch >= config.patience:
                break
    return best, curves


def standardisation(values: Values, robust: bool = False) -> tuple[Values, Values]:
    """Mean and inverse spread of every feature, so that (x - mean) * scale has mean 0 and variance 1; scale 0 for constant ones.

    `robust`: median and half of the range of the central 68.27 % instead, for features that this range is not 0 for.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    spread = values.std(axis=0, dtype=np.float64)
    if robust:
        low, median, high = np.quantile(values.astype(np.float64), _CENTRAL, axis=0)
        wide = high > low
        mean, spread = np.where(wide, median, mean), np.where(wide, (high - low) / 2, spread)
    constant = spread <= _CONSTANT * np.maximum(1.0, np.abs(mean))
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, spread))
    return mean.astype(np.float32), scale.astype(np.float32)


def _loss(net: Mlp, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(net.logits(x), y, w, reduction="sum") / w.sum()


def _float32(values: Floats) -> Values:
    return np.asarray(values, np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in torch depend on the number of threads; one is quick enough for these sizes and leaves one result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
