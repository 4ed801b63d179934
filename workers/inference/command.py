"""The whole benchmark for one set of options: what `hltfarm bench inference` runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.inference import report
from hltfarm.workers.inference.engines import EngineSettings, engine_names, run_engines
from hltfarm.workers.inference.harness import Results, Settings, choose_device, points, run_views


@dataclass(frozen=True)
class Plan:
    """Settings of both parts."""

    views: Settings
    engines: EngineSettings


def plan(
    device: str, *, quick: bool, runs: int, models: Sequence[str] | None, sizes: Sequence[int] | None, engines: Sequence[str] | None
) -> Plan:
    """Settings for a device: None takes the default, which `quick` makes small. Raises ConfigError, BackendError."""
    chosen = choose_device(device)
    views, engine = Settings(chosen, runs=runs), EngineSettings(chosen, runs=runs)
    if chosen.type == "cuda":
        views = replace(views, sizes=(*views.sizes, 10**7))
        engine = replace(engine, batches=(*engine.batches, 16_384))
    if quick:
        views = replace(views, sizes=(10**3, 10**4), budget_s=0.1)
        engine = replace(engine, parameters=engine.parameters[:1], batches=(64, 1024), budget_s=0.1)
    if models is not None:
        views = replace(views, models=tuple(models))
    if sizes is not None:
        views = replace(views, sizes=tuple(sizes))
    if engines is not None:
        engine = replace(engine, engines=engine_names(engines))
    return Plan(views, engine)


def run(chosen: Plan, json: Path | None, plots: Path | None, console: Console) -> dict[str, Any]:
    """Measure, with progress on stderr; write the files, print the tables; the document.

    Raises ConfigError if figures are wanted without matplotlib, BackendError if two ways to the same numbers disagree.
    """
    if plots is not None:
        _check_matplotlib()
    results = Results()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        total = len(points(chosen.views)) + len(chosen.engines.engines) * len(chosen.engines.parameters)
        task = bar.add_task("inference", total=total)

        def done(what: str) -> None:
            bar.update(task, advance=1, description=what)

        run_views(chosen.views, results, done)
        run_engines(chosen.engines, results, done)
    made = report.document(results, chosen.views.device, _options(chosen))
    if json is not None:
        report.write(made, json)
    if plots is not None:
        from hltfarm.workers.inference.plots import draw

        draw(made, plots)
    report.print_tables(results, console)
    return made


def _options(chosen: Plan) -> dict[str, Any]:
    views, engines = chosen.views, chosen.engines
    return {
        "models": views.models,
        "sizes": views.sizes,
        "runs": views.runs,
        "engines": engines.engines,
        "parameters": engines.parameters,
        "batches": engines.batches,
        "threads": torch.get_num_threads(),
    }


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("--plots needs matplotlib; install hltfarm[validate]") from None
