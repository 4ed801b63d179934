"""Benchmark of the ways to compute one selector: the kernel of the chain, and torch eager, compiled, and built ahead of time.

All score the same rows of a `Selected` in place. On a device, each is captured as a CUDA graph, as in the chain, and timed by the
device's clock; on the CPU all run in one thread, as in the chain.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.proto.soa import Collection, Schema
from hltfarm.workers import configuration, dnn
from hltfarm.workers.arena import host_allocate
from hltfarm.workers.backends.cpu_library import load_library
from hltfarm.workers.dnn.scorer import Scorer
from hltfarm.workers.dnn.selector import ENGINES, Selector
from hltfarm.workers.models import Model

COUNT = Schema("Count", "Rows that are scored", (dnn.SELECTED["track"],))


@dataclass(frozen=True)
class Point:
    """One engine: microseconds for all rows (median, least, largest of the runs), and how its scores differ from the CPU kernel's."""

    engine: str
    device: str
    rows: int
    median_us: float
    least_us: float
    largest_us: float
    max_difference: float
    bitwise: bool


def sample_rows(model: Model, rows: int, seed: int) -> Collection:
    """Random features in host memory, spread as the model's normalisation expects; other models get a standard normal."""
    random = np.random.default_rng(seed)
    selected = host_allocate(dnn.SELECTED, rows)
    mean, scale = getattr(model.content, "mean", None), getattr(model.content, "scale", None)
    for name in dnn.FEATURES:
        values = random.standard_normal(rows).astype(np.float32)
        if mean is not None and scale is not None and name in model.features:
            i = model.features.index(name)
            values = values / np.maximum(scale[i], 1e-6) + mean[i]
        selected[name][:] = values
    selected.track[:] = 0
    return selected


def _params(selector: Selector) -> dict[str, Any]:
    return configuration.params(configuration.DEFAULT, phase1(), selector)


def _kernel(selector: Selector) -> Any:
    assert selector.track is not None
    return next(k for k in dnn.STAGE.kernels if k.when == selector.track.kind)


def _structs(selector: Selector, selected: Collection, tables: dict[str, Collection], tracks: Collection) -> list[Any]:
    known = {name: table.struct for name, table in tables.items()} | _params(selector)
    known |= {"Selected": selected.struct, "Tracks": tracks.struct}
    return [known[name] for name in _kernel(selector).args]


def _tracks(allocate: Callable[[Schema, int], Collection]) -> Collection:
    """A single track of four hits: what kernels that ask for the number of hits find."""
    from hltfarm.workers.tracks import TRACKS

    tracks = allocate(TRACKS, 1)
    tracks.n_hits[:] = 4
    return tracks


def cpu_kernel(model: Model, selected: Collection) -> Callable[[], None]:
    """A call that scores all rows by the CPU's kernel."""
    selector = Selector(model)
    tables, tracks, count = selector.tables(host_allocate), _tracks(host_allocate), host_allocate(COUNT, 1)
    count.track[0] = selected.capacity
    structs = _structs(selector, selected, tables, tracks)
    pointers = (ctypes.c_void_p * len(structs))(*(s.ctypes.data for s in structs))
    library = load_library().code
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function = signature(library.hlt_find(_kernel(selector).name.encode()))
    keep = (tables, tracks, count, structs)

    def run() -> None:
        function(keep[2].address("track"), ctypes.addressof(pointers), None)

    return run


def _timed(run: Callable[[], None], runs: int) -> list[float]:
    run()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        run()
        times.append(1e6 * (time.perf_counter() - begin))
    return times


def _point(engine: str, device: str, times: Sequence[float], scores: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> Point:
    difference = float(np.abs(scores.astype(np.float64) - expected).max())
    same = scores.tobytes() == expected.tobytes()
    return Point(engine, device, len(scores), float(np.median(times)), min(times), max(times), difference, same)


def measure(model: Model, backend: str, rows: int, runs: int, engines: Sequence[str]) -> list[Point]:
    """Time the engines of a model on `rows` random rows. Raises ConfigError, BackendError."""
    for engine in engines:
        if engine not in ENGINES:
            raise ConfigError(f"engine {engine!r} is unknown; use {', '.join(ENGINES)}")
    host = sample_rows(model, rows, 1)
    kernel = cpu_kernel(model, host)
    times = _timed(kernel, min(runs, 10))
    expected = host.score.copy()
    points = [_point("fused", "cpu, 1 thread", times, expected, expected)]
    if backend == "cpu":
        import torch

        torch.set_num_threads(1)
        for engine in engines:
            if engine != "fused":
                host.score[:] = 0
                scorer = Scorer(host, Selector(model, engine=engine))
                times = _timed(lambda s=scorer: s.score(0, rows), min(runs, 10))  # type: ignore[misc]
                points.append(_point(engine, "cpu, 1 thread", times, host.score, expected))
        return points
    return points + [_on_device(model, engine, host, runs, expected) for engine in engines]


def _on_device(model: Model, engine: str, host: Collection, runs: int, expected: np.ndarray[Any, Any]) -> Point:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"the cuda backend needs CuPy ({error}); use --backend cpu") from None
    from hltfarm.workers.backends.cuda import OPTIONS, device_allocate
    from hltfarm.workers.backends.cuda_torch import GraphScorer

    selected = device_allocate(dnn.SELECTED, host.capacity)
    selected.buffer[:] = cupy.asarray(host.buffer[: selected.buffer.nbytes])
    selected.score[:] = 0
    count = device_allocate(COUNT, 1)
    count.track[0] = rows = host.capacity
    selector = Selector(model, engine=engine)
    stream = cupy.cuda.Stream(non_blocking=True)
    keep: Any = None
    if engine == "fused":
        from hltfarm.workers.backends import codegen

        tables = {name: _copied(table) for name, table in selector.tables(host_allocate).items()}
        tracks = _tracks(device_allocate)
        kernel = _kernel(selector)
        function = cupy.RawModule(code=codegen.cuda_source(dnn.STAGE), options=OPTIONS).get_function(kernel.name)
        structs = _structs(selector, selected, tables, tracks)
        threads = codegen.block_threads(kernel)
        keep = (tables, tracks, structs)

        def enqueue() -> None:
            args = (np.uint64(count.address("track")), np.uint32(0), *structs)
            function((min(-(-rows // threads), 132 * (2048 // threads)),), (threads,), args)
    else:
        scorer = GraphScorer(Scorer(selected, selector), rows, count.address("track"))

        def enqueue() -> None:
            scorer.capture(stream)

    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        enqueue()
        graph = stream.end_capture()
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        times = []
        for i in range(runs + 3):
            begin.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            if i >= 3:
                times.append(1e3 * cupy.cuda.get_elapsed_time(begin, end))
    scores = selected.score.get()
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    del keep
    return _point(engine, name, times, scores, expected)


def _copied(table: Collection) -> Collection:
    import cupy

    return Collection(table.layout, cupy.asarray(table.buffer[: table.layout.nbytes]))


def write_report(points: Sequence[Point], model: Model, path: Path) -> None:
    """JSON with the model and the points."""
    document = {"model": f"{model.name}-{model.version}", "hash": model.hash, "points": [asdict(p) for p in points]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def print_report(points: Sequence[Point], model: Model) -> None:
    """A table on stdout."""
    title = f"{model.name} version {model.version} ({model.kind}), {points[0].rows} tracks"
    table = Table(title=title, title_justify="left")
    for heading in ("engine", "device", "us", "min .. max", "ns / track", "largest difference to the CPU kernel", "same bits"):
        table.add_column(heading, justify="right")
    for p in points:
        spread = f"{p.least_us:.1f} .. {p.largest_us:.1f}"
        difference = f"{p.max_difference:.2g}"
        table.add_row(
            p.engine, p.device, f"{p.median_us:.1f}", spread, f"{1e3 * p.median_us / p.rows:.2f}", difference, "yes" if p.bitwise else "no"
        )
    Console(width=140).print(table)
