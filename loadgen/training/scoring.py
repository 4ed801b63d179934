"""What weights make of rows, computed as the torch engines do (equal to the kernels to 1e-5)."""

from __future__ import annotations

import numpy as np
import torch

from hltfarm.loadgen.training.rows import Values
from hltfarm.loadgen.training.working_points import Scores
from hltfarm.loadgen.validation.definitions import Floats
from hltfarm.workers.models import Forest, MlpWeights
from hltfarm.workers.models.networks import ForestNet, Mlp

_ROWS = 8192


def logits(content: MlpWeights | Forest, values: Values) -> Floats:
    """(n,) scores before the sigmoid."""
    net = Mlp(content) if isinstance(content, MlpWeights) else ForestNet(content)
    parts = [np.empty(0, np.float32)]
    with torch.inference_mode():
        for first in range(0, len(values), _ROWS):
            parts.append(net.logits(torch.from_numpy(np.ascontiguousarray(values[first : first + _ROWS]))).numpy())
    return np.concatenate(parts).astype(np.float64)


def scores_of(logit: Floats) -> Scores:
    """(n,) scores in 0 .. 1."""
    with np.errstate(over="ignore"):
        score: Scores = (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    return score
