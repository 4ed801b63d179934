"""A whole training: split, fit, calibrate, set thresholds, measure. Everything follows from the rows, the configuration and the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from hltfarm.loadgen.training import calibration
from hltfarm.loadgen.training.forest import ForestConfig, train_forest
from hltfarm.loadgen.training.importance import permutation_importance
from hltfarm.loadgen.training.measure import measured, selection, tightened
from hltfarm.loadgen.training.perceptron import Curves, MlpConfig, Report, train_mlp
from hltfarm.loadgen.training.rows import Rows
from hltfarm.loadgen.training.scoring import logits, scores_of
from hltfarm.loadgen.training.split import Fractions, parts
from hltfarm.loadgen.training.working_points import Thresholds, passing, point_name, working_points
from hltfarm.loadgen.validation.definitions import Floats
from hltfarm.proto.errors import ConfigError, SampleError
from hltfarm.workers.models import Forest, Manifest, MlpWeights, Model, save
from hltfarm.workers.models.manifest import FILES, FORMAT, THRESHOLDS, Target, first_problem

#: Upper cuts on these are what the comparison with a cut-based selection tightens.
CUT_FEATURES = ("tip_significance", "log_chi2")
#: Softer and harder tracks weigh as much as those at these ends.
HARD_PT_GEV = (1.0, 50.0)
#: |tip| from which on tracks weigh more, and how many times as much they weigh at most (with an exponent of 1).
DISPLACED_CM, DISPLACED_MOST = 0.01, 10.0


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, and how. `half`: weights of a network are rounded to float16 before thresholds are set."""

    kind: Literal["mlp", "forest"] = "mlp"
    seed: int = 1
    mlp: MlpConfig = field(default_factory=MlpConfig)
    forest: ForestConfig = field(default_factory=ForestConfig)
    fractions: Fractions = field(default_factory=Fractions)
    efficiencies: tuple[float, ...] = (0.995, 0.99, 0.98)
    default: str = "0.99"
    triplet_weight: float = 3.0  # of a triplet in the loss, others 1; higher: purer triplets, longer tracks lose purity
    displaced_exponent: float = (
        1.0  # of |tip| / 0.01 cm, likewise: 0: decays off the beam line are taken for fakes, of which there are many
    )
    hard_exponent: float = 0.5  # of pt, in the weight of true tracks; 0: hard tracks, which are few, pay for the purity of soft ones
    half: bool = False


@dataclass(frozen=True)
class Trained:
    """Outcome: weights, thresholds by working point and group, and the document of the report (JSON-able)."""

    content: MlpWeights | Forest
    points: Thresholds
    document: dict[str, Any]


def train(rows: Rows, test: Rows | None, config: TrainConfig, report: Report) -> Trained:
    """Train on rows; measure on `test`, or on the part of the rows that the split keeps for it.

    `report(step, train_loss, validation_loss)` after every epoch or tree. Raises SampleError if a part has too few events.
    """
    fitting, stopping, kept_for_test = parts(rows, config.seed, config.fractions if test is None else replace(config.fractions, test=0.0))
    unseen = test if test is not None else kept_for_test
    for name, part in (("training", fitting), ("validation", stopping), ("test", unseen)):
        if len(np.unique(part.label)) < 2:
            raise SampleError(f"the {name} events have no {'false' if part.label.any() else 'true'} rows; take more events")
    weights = row_weights(fitting, config), row_weights(stopping, config)
    content, curves = _fitted(fitting, stopping, weights, config, report)
    a, b = calibration.platt(logits(content, stopping.values), stopping.label)
    content = calibration.scaled_forest(content, a, b) if isinstance(content, Forest) else calibration.scaled_mlp(content, a, b)
    if config.half and isinstance(content, MlpWeights):
        content = halved(content)
    points = working_points(stopping, scores_of(logits(content, stopping.values)), config.efficiencies)
    logit = logits(content, unseen.values)
    scores = scores_of(logit)
    document = {
        "kind": config.kind,
        "settings": _settings(config),
        "features": list(rows.names),
        "parts": {
            name: {"events": part.events, "rows": len(part), "true": int(part.label.sum())}
            for name, part in (("training", fitting), ("validation", stopping), ("test", unseen))
        },
        "size": _size(content),
        "curves": curves,
        "calibration": {"a": a, "b": b},
        "working_points": points,
        "default_working_point": config.default,
        "test": measured(unseen, logit, scores, points, config.default),
        "importance": permutation_importance(content, unseen, config.seed),
    }
    if set(CUT_FEATURES) <= set(rows.names):
        document["selections"] = _selections(unseen, scores, points)
    return Trained(content, points, document)


def row_weights(rows: Rows, config: TrainConfig) -> Floats:
    """Weights in the loss: triplets count more than longer tracks, hard and displaced true tracks more than others; signal and background
    events count the same as a whole."""
    if rows.groups == ("event",):
        true = float(rows.label.mean())
        return np.where(rows.label, 0.5 / max(true, 1e-9), 0.5 / max(1 - true, 1e-9))
    weight = np.where(rows.group == 0, config.triplet_weight, 1.0)
    hard = np.clip(rows.about["pt"], *HARD_PT_GEV) ** config.hard_exponent
    displaced = np.clip(rows.about["tip"] / DISPLACED_CM, 1.0, DISPLACED_MOST) ** config.displaced_exponent
    return weight * np.where(rows.label, hard * displaced, 1.0)


def halved(content: MlpWeights) -> MlpWeights:
    """The network as it comes back from float16: its layers; mean and scale stay float32, since features may be beyond 65504."""

    def rounded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values.astype(np.float16).astype(np.float32)

    layers = tuple((rounded(weight), rounded(bias)) for weight, bias in content.layers)
    return MlpWeights(content.mean, content.scale, layers)


def check_package(name: str, version: int, target: Target, features: Sequence[str], config: TrainConfig) -> None:
    """Raises ConfigError if `save_package` would refuse name, version or working points, or the chain a model of this kind.

    No training is needed to know: a manifest is made with thresholds and digests that stand for those to come.
    """
    points = [point_name(efficiency) for efficiency in config.efficiencies]
    for point, times in Counter(points).items():
        if times > 1:
            raise ConfigError(f"working point {point} is asked for {times} times")
    if target == "event" and config.kind != "mlp":
        raise ConfigError(f"a classifier of events is of kind mlp, not {config.kind}: kernels compute no other")
    described: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "kind": config.kind,
        "target": target,
        "description": "",
        "features": tuple(features),
        "working_points": {point: dict.fromkeys(THRESHOLDS[target], 0.5) for point in points},
        "default_working_point": config.default,
        "files": dict.fromkeys(FILES[config.kind], "0" * 32),
    }
    try:
        Manifest(**described)
    except ValidationError as error:
        raise ConfigError(f"model {name!r:.80}: {first_problem(error)}") from None


def save_package(
    trained: Trained,
    directory: Path,
    name: str,
    version: int,
    config: TrainConfig,
    rows: Rows,
    training: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Model:
    """Write the model package, with the figures that people ask for first among its `training`."""
    test = trained.document["test"]
    figures = {
        group: {
            point: {"efficiency": _rounded(r["all"]["efficiency"]["rate"]), "fake_rate": _rounded(r["all"]["fake_rate"]["rate"])}
            for point, r in entry["working_points"].items()
        }
        for group, entry in test["groups"].items()
    }
    target: Target = "event" if rows.groups == ("event",) else "track"
    return save(
        directory,
        trained.content,
        name=name,
        version=version,
        target=target,
        features=rows.names,
        working_points=trained.points,
        default_working_point=config.default,
        description=_description(target, trained.document),
        training={**training, "settings": _settings(config), "parts": trained.document["parts"], "test": figures},
        half=config.half and config.kind == "mlp",
        overwrite=overwrite,
    )


def _fitted(
    fitting: Rows, stopping: Rows, weights: tuple[Floats, Floats], config: TrainConfig, report: Report
) -> tuple[MlpWeights | Forest, Curves]:
    if config.kind == "forest":
        return train_forest(fitting, stopping, *weights, config.forest, config.seed, report)
    return train_mlp(fitting, stopping, *weights, config.mlp, config.seed, report)


def _selections(rows: Rows, scores: np.ndarray[Any, Any], points: Thresholds) -> dict[str, Any]:
    """Selections beside each other on the same events: none but the cuts of the configuration, tighter cuts, the model."""
    every = np.ones(len(rows), np.bool_)
    out = {"loose": selection(rows, every, rows.events)}
    for point in points:
        cuts = np.any([tightened(rows, g, CUT_FEATURES, float(point)) for g in range(len(rows.groups))], axis=0)
        out[f"tighter cuts, {point}"] = selection(rows, cuts, rows.events)
    for point, limits in points.items():
        out[f"model, {point}"] = selection(rows, passing(rows, scores, limits), rows.events)
    return out


def _settings(config: TrainConfig) -> dict[str, Any]:
    other = "forest" if config.kind == "mlp" else "mlp"
    settings: dict[str, Any] = {name: value for name, value in asdict(config).items() if name != other}
    plain: dict[str, Any] = _plain(settings)
    return plain


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what comes back from JSON."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _size(content: MlpWeights | Forest) -> dict[str, Any]:
    if isinstance(content, MlpWeights):
        return {"widths": list(content.widths), "weights": sum(w.size + b.size for w, b in content.layers)}
    return {"trees": len(content.root), "nodes": len(content.left), "depth": content.depth}


def _description(target: str, document: Mapping[str, Any]) -> str:
    size = document["size"]
    shape = " - ".join(map(str, size["widths"])) if "widths" in size else f"{size['trees']} trees, {size['nodes']} nodes"
    what = (
        "Selects high-purity tracks among loose ones"
        if target == "track"
        else "Separates events of the signal from those of the background"
    )
    return f"{what}: {'perceptron' if 'widths' in size else 'boosted trees'}, {shape}."


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
