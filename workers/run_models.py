"""The models that a run names: the configuration they make, whether they can be meant, and what became of them in a worker.

Nothing here imports torch: the control plane checks with it what it is asked for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.workers.configuration import DEFAULT, Configuration, with_models
from hltfarm.workers.dnn.selector import ENGINES, Selector
from hltfarm.workers.models import Model, manifest
from hltfarm.workers.models.manifest import Manifest, Target
from hltfarm.workers.models.registry import find, shipped

_WORKING_POINT = re.compile(r"(0\.[0-9]{1,6}|1)\Z")


def configuration_of(run: RunConfig) -> Configuration:
    """The reconstruction of a run: the default one with the models that the run names. Without a selector there is no engine to choose.

    Raises ConfigError for a working point without a selector.
    """
    config = with_models(DEFAULT, run.model or None, run.working_point or None, run.engine or None, run.event_model or None)
    if config.selection.model is None:
        config = replace(config, selection=replace(config.selection, engine=DEFAULT.selection.engine))
    return config


def check(run: RunConfig, store: Path | None = None) -> None:
    """Raises ConfigError if no worker could use the models of a run.

    Shipped models, and those below `store`, are looked up here; another folder lies on the workers' machines, and theirs is the last word.
    """
    if run.engine and run.engine not in ENGINES:
        raise ConfigError(f"engine {run.engine!r} is unknown; use {', '.join(ENGINES)}")
    selection = configuration_of(run).selection
    point = selection.working_point
    if point is not None and not _WORKING_POINT.match(point):
        raise ConfigError(f"working point {point!r} is none: give an efficiency such as 0.99")
    if selection.model is not None:
        described = _described(selection.model, "track", store)
        if described is not None and point is not None and point not in described.working_points:
            known = ", ".join(described.working_points)
            raise ConfigError(f"model {described.name}: working point {point!r} is unknown; known are {known}")
        if described is not None and described.kind == "pt2" and selection.engine == "fused":
            raise ConfigError(f"model {described.name} is a torch program; use the engine eager, compile or aot")
    if selection.event_model is not None:
        _described(selection.event_model, "event", store)


def loaded(selector: Selector) -> tuple[ModelInfo, ...]:
    """What the farm has to know of the models that a worker loaded: of the selector of tracks, then of the classifier of events."""
    found = []
    if selector.track is not None:
        point = selector.working_point or selector.track.manifest.default_working_point
        found.append(_info(selector.track, selector.engine, point))
    if selector.event is not None:
        found.append(_info(selector.event, "fused", ""))
    return tuple(found)


def _described(name: str, target: Target, store: Path | None) -> Manifest | None:
    """What a shipped or stored model says of itself, None for another absolute path. Raises ConfigError for everything else."""
    path = Path(name)
    if path.is_absolute() and store is not None and path.is_relative_to(store.absolute()):
        return _of_target(manifest.read(path), target)
    if path.is_absolute():
        return None
    if name.partition("@")[0] not in shipped():
        known = ", ".join(shipped()) or "none"
        raise ConfigError(f"model {name!r} is not shipped (shipped are {known}); a folder on the workers' machines has an absolute path")
    return _of_target(manifest.read(find(name)), target)


def _of_target(described: Manifest, target: Target) -> Manifest:
    if described.target != target:
        raise ConfigError(f"model {described.name} scores {described.target}s, not {target}s")
    return described


def _info(model: Model, engine: str, working_point: str) -> ModelInfo:
    return ModelInfo(
        target=model.target,
        name=model.name,
        version=model.version,
        hash=model.hash,
        kind=model.kind,
        engine=engine,
        working_point=working_point,
        features=model.features,
        working_points={point: dict(thresholds) for point, thresholds in model.manifest.working_points.items()},
    )
