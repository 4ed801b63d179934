"""How much a model needs each of its features."""

from __future__ import annotations

from typing import Any

import numpy as np

from hltfarm.loadgen.training.calibration import log_loss
from hltfarm.loadgen.training.rows import Rows
from hltfarm.loadgen.training.scoring import logits
from hltfarm.workers.models import Forest, MlpWeights

#: Rows that are enough to order features by; more take longer.
MAX_ROWS = 40_000


def permutation_importance(content: MlpWeights | Forest, rows: Rows, seed: int) -> list[dict[str, Any]]:
    """Of every feature, the most important first: how much the log loss grows if its values are dealt out to other rows, by group.

    In units of the log loss of the group as it is; features that say the same as others share their importance (L. Breiman, Machine
    Learning 45 (2001) 5).
    """
    random = np.random.default_rng(seed)
    if len(rows) > MAX_ROWS:
        rows = rows[np.sort(random.choice(len(rows), MAX_ROWS, replace=False))]
    groups = [(name, rows.of(g)) for g, name in enumerate(rows.groups) if rows.of(g).any()]
    plain = logits(content, rows.values)
    base = {name: log_loss(plain[mine], rows.label[mine]) for name, mine in groups}
    out = []
    for column, feature in enumerate(rows.names):
        values = rows.values.copy()
        for _, mine in groups:
            at = np.flatnonzero(mine)
            values[at, column] = values[random.permutation(at), column]
        dealt = logits(content, values)
        growth = {name: log_loss(dealt[mine], rows.label[mine]) / max(base[name], 1e-12) - 1 for name, mine in groups}
        out.append({"feature": feature, **growth})
    return sorted(out, key=lambda entry: -sum(entry[name] for name, _ in groups))
