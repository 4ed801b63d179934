"""Training of boosted trees with LightGBM, and their translation into the arrays of a `Forest`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hltfarm.loadgen.training.perceptron import Curves, Report
from hltfarm.loadgen.training.rows import Rows
from hltfarm.loadgen.validation.definitions import Floats
from hltfarm.workers.models import Forest


@dataclass(frozen=True)
class ForestConfig:
    """How trees are trained."""

    trees: int = 200  # at most; more: slower in the trigger
    leaves: int = 32  # of a tree; more: finer, slower to train, more rows needed
    depth: int = 12  # of a tree at most; bounds the steps of a kernel
    learning_rate: float = 0.1  # lower: more trees for the same result
    min_rows: int = 50  # in a leaf; lower: leaves follow single rows
    patience: int = 20  # trees without a lower validation loss before it ends


def train_forest(
    train: Rows, validation: Rows, weight: Floats, stop_weight: Floats, config: ForestConfig, seed: int, report: Report
) -> tuple[Forest, Curves]:
    """The trees up to the least validation loss, and the losses by tree. Same rows and seed, same trees (one thread).

    `weight`, `stop_weight`: of the rows of train and validation. `report(trees, train_loss, validation_loss)` after each tree.
    """
    import lightgbm

    parameters = {
        "objective": "binary",
        "num_leaves": config.leaves,
        "max_depth": config.depth,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_rows,
        "use_missing": False,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
    data = lightgbm.Dataset(train.values, train.label, weight=weight, feature_name=list(train.names), params=parameters)
    stop = lightgbm.Dataset(validation.values, validation.label, weight=stop_weight, reference=data)
    curves: Curves = {"train": [], "validation": []}

    def record(state: Any) -> None:
        losses = {name: value for name, _, value, _ in state.evaluation_result_list}
        for name, curve in curves.items():
            curve.append(float(losses[name]))
        report(state.iteration, curves["train"][-1], curves["validation"][-1])

    booster = lightgbm.train(
        parameters,
        data,
        config.trees,
        valid_sets=[data, stop],
        valid_names=["train", "validation"],
        callbacks=[record, lightgbm.early_stopping(config.patience, verbose=False)],
    )
    return exported(booster.dump_model(num_iteration=booster.best_iteration)), curves


def exported(model: dict[str, Any]) -> Forest:
    """The arrays of LightGBM's `dump_model()`.

    A threshold there is a double; the largest float32 up to it sends every float32 the same way. Leaf values are rounded to float32.
    """
    nodes: dict[str, list[float]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    deepest = 0

    def add(tree: dict[str, Any], level: int) -> int:
        nonlocal deepest
        deepest = max(deepest, level)
        here = len(nodes["left"])
        inner = "left_child" in tree
        entry = (tree["split_feature"], _float32_up_to(tree["threshold"]), -1, -1, 0.0) if inner else (0, 0.0, -1, -1, tree["leaf_value"])
        for column, value in zip(nodes.values(), entry, strict=True):
            column.append(value)
        if inner:
            if tree["decision_type"] != "<=":
                raise ValueError(f"a split by {tree['decision_type']!r}; only numerical ones have a place in a forest")
            nodes["left"][here] = add(tree["left_child"], level + 1)
            nodes["right"][here] = add(tree["right_child"], level + 1)
        return here

    roots = [add(tree["tree_structure"], 0) for tree in model["tree_info"]]
    return Forest(
        feature=np.array(nodes["feature"], np.int32),
        threshold=np.array(nodes["threshold"], np.float32),
        left=np.array(nodes["left"], np.int32),
        right=np.array(nodes["right"], np.int32),
        value=np.array(nodes["value"], np.float32),
        root=np.array(roots, np.int32),
        base=np.zeros(1, np.float32),
        depth=deepest,
    )


def _float32_up_to(value: float) -> np.float32:
    """The largest float32 that is not above the number."""
    nearest = np.float32(value)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > value else nearest
