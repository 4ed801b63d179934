"""Eager, torch.compile and AOTInductor by number of parameters: perceptrons on the feature columns, scores written into a column."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.workers.inference import paths
from hltfarm.workers.inference.cases import CASES
from hltfarm.workers.inference.harness import TOLERANCE, Results, Skipped, difference, measuring, release
from hltfarm.workers.inference.timing import Timing, measure
from hltfarm.workers.models import Manifest, Model
from hltfarm.workers.models.engines import ENGINES, Engine, EngineName, build
from hltfarm.workers.models.networks import Mlp
from hltfarm.workers.models.package import digest
from hltfarm.workers.tensors import TensorCollection

HIDDEN_LAYERS = 5
CASE = CASES[0]  # columns of eight features and a score
FEATURES = CASE.inputs[0].columns


@dataclass(frozen=True)
class EngineSettings:
    """What to run: engines, numbers of parameters (about), batch sizes in rows; the rest as in Settings."""

    device: torch.device
    engines: tuple[EngineName, ...] = ENGINES
    parameters: tuple[int, ...] = (69_000, 600_000, 6_000_000, 60_000_000)
    batches: tuple[int, ...] = (64, 1024)
    runs: int = 100
    budget_s: float = 0.25


@dataclass(frozen=True)
class EnginePoint:
    """An engine on `batch` rows of a perceptron with hidden layers of `width`; `graph`: replayed as a CUDA graph.

    `build_s`: compilation, loading and a first check, for all batch sizes. `difference`: largest relative one to the eager scores.
    """

    parameters: int
    width: int
    batch: int
    engine: str
    graph: bool
    timing: Timing
    build_s: float
    difference: float


def engine_names(names: Iterable[str]) -> tuple[EngineName, ...]:
    """Engines by name, in the order eager, compile, aot. Raises ConfigError for one that is unknown."""
    asked = set(names)
    if unknown := asked.difference(ENGINES):
        raise ConfigError(f"engine {min(unknown)!r} is unknown; known are {', '.join(ENGINES)}")
    return tuple(name for name in ENGINES if name in asked)


def perceptron(parameters: int) -> tuple[Model, int, int]:
    """A model of about so many parameters, five equal hidden layers; its number of parameters and their width."""
    inner, outer = HIDDEN_LAYERS - 1, len(FEATURES) + HIDDEN_LAYERS + 1
    width = max(1, (isqrt(outer * outer + 4 * inner * parameters) - outer) // (2 * inner))
    count = inner * width * width + outer * width + 1
    zero, one = np.zeros(len(FEATURES), np.float32), np.ones(len(FEATURES), np.float32)
    weights = Mlp.untrained(zero, one, [width] * HIDDEN_LAYERS, paths.SEED).weights()
    described = Manifest(
        format=1,
        name=f"bench-{count}",
        version=1,
        kind="mlp",
        target="track",
        description="random weights",
        features=FEATURES,
        working_points={"0.5": {"triplets": 0.5, "longer": 0.5}},
        default_working_point="0.5",
        files={"weights.safetensors": digest(f"{weights.widths} {paths.SEED}".encode())},
    )
    return Model(described, weights), count, width


def run_engines(settings: EngineSettings, results: Results, done: Callable[[str], None]) -> None:
    """Measure every engine at every number of parameters; `done` is called with a text after each.

    An engine that cannot be built here is skipped with the reason. Raises BackendError if an engine's scores are not those of eager.
    """
    with measuring(settings.device), tempfile.TemporaryDirectory(prefix="hltfarm-inference-") as cache:
        for parameters in settings.parameters if settings.engines else ():
            model, count, width = perceptron(parameters)
            columns = paths.Columns(
                CASE, max(settings.batches), paths.device_memory if settings.device.type == "cuda" else paths.host_memory
            )
            columns.fill()
            if settings.device.type == "cuda":
                torch.cuda.synchronize(settings.device)  # the columns were filled on another stream
            bench = _Bench(settings, columns, _engine(model, "eager", columns, None))
            for name in settings.engines:
                what = f"{name}, {count} parameters"
                begin = time.perf_counter()
                try:
                    engine = _engine(model, name, columns, Path(cache))
                except BackendError as error:
                    results.skipped.append(Skipped(what, str(error)))
                else:
                    build_s = time.perf_counter() - begin
                    for batch, graph, timing, worst in bench.points(engine):
                        results.engines.append(EnginePoint(count, width, batch, name, graph, timing, build_s, worst))
                    del engine
                done(what)
            del bench, columns
            if "compile" in settings.engines:
                torch._dynamo.reset()
            release(settings.device)


def _engine(model: Model, name: EngineName, columns: paths.Columns, cache: Path | None) -> Engine:
    rows = columns.outputs[0].shape[0]
    with torch.inference_mode(False):
        return build(model, columns.device, name, max_rows=rows, like=(columns.inputs, columns.outputs[0]), cache_dir=cache)


@dataclass(frozen=True)
class _Bench:
    """The columns that all engines of a model share, and the eager one, whose scores are the measure."""

    settings: EngineSettings
    columns: paths.Columns
    eager: Engine

    def points(self, engine: Engine) -> Iterator[tuple[int, bool, Timing, float]]:
        """Batch size, with a graph or not, times, difference to eager."""
        device = self.settings.device
        for batch in self.settings.batches:
            views = TensorCollection(*self.columns.collections, size=batch)
            inputs, out = (views.input("x", *FEATURES),), views.output("y", "score")
            run: paths.Run = partial(engine.run, inputs, out)
            expected = self._scores(partial(self.eager.run, inputs, out), out)
            for graph in (False, True) if device.type == "cuda" else (False,):
                if graph:
                    run = paths.captured(run)
                worst = difference([self._scores(run, out)], [expected])
                if not worst <= TOLERANCE:
                    raise BackendError(f"{engine.name} with {batch} rows differs from eager by {worst:.2g}, more than {TOLERANCE}")
                yield batch, graph, measure(run, device, self.settings.runs, self.settings.budget_s), worst
            views.check_unwritten()

    def _scores(self, run: Callable[[], None], out: Tensor) -> Tensor:
        out.fill_(torch.nan)
        run()
        return out.to("cpu", copy=True)
