"""`hltfarm simulate`: simulated events into a sample file or a data directory of pixeltrack-standalone."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hltfarm.loadgen.patatrack import PatatrackWriter
from hltfarm.loadgen.sample import SampleWriter
from hltfarm.loadgen.simulation.config import SimulationConfig
from hltfarm.loadgen.simulation.event import Simulator, Truth
from hltfarm.loadgen.simulation.generator import generator_version
from hltfarm.proto.detector import Detector, load_detector
from hltfarm.proto.errors import BackendError, ConfigError, SampleError
from hltfarm.proto.events import RawEvent

FORMATS = ("hlt", "patatrack")
#: Events in work per process beyond the one being written.
AHEAD = 3
#: Files of a data directory that describe the events of raw.bin: those of earlier events must not stay.
BESIDE_RAW = ("truth.npz", "digicluster.bin", "tracks.bin", "vertices.bin")
#: Truth columns with indices, and the table that each refers to.
REFERENCES = {"part_vtx": "vtx", "hit_part": "part", "digi_hit": "hit"}


@dataclass(frozen=True)
class SimulationReport:
    """What a run of the simulation made, and how long it took."""

    path: Path
    events: int
    bytes: int  # of payloads
    pool_seconds: float  # generating collisions, or reading them from the cache
    event_seconds: float  # simulating and writing


def run(
    events: int,
    pileup: float = 50.0,
    process: str = "ttbar",
    seed: int = 1,
    out: str | Path = "sample.hlt",
    format: str = "hlt",
    detector: str | Detector = "phase1",
    *,
    config: SimulationConfig | None = None,
    processes: int = 1,
    truth: bool = True,
    compress: bool = False,
    cache: Path | None = None,
    progress: bool = True,
) -> SimulationReport:
    """Simulate `events` events into `out`.

    `pileup` is the Poisson mean of additional interactions; `process` is "ttbar" or "minbias"; `format` "hlt" writes a file, "patatrack" a
    directory with conditions, raw.bin and truth.npz. `detector` is "phase1", a detector file or a directory with conditions.
    The result depends on these and on `config`, not on `processes`, nor on whether the collisions were in the cache (`cache`: its folder).
    Progress is shown on stderr. Raises ConfigError for an argument that makes no sense, ConditionsError for a detector that cannot be read,
    SampleError for an output that cannot be written, BackendError if a process of the simulation dies.
    """
    if events < 1:
        raise ConfigError(f"cannot simulate {events} events; ask for at least one")
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    if processes < 1:
        raise ConfigError(f"cannot work with {processes} processes; ask for at least one")
    if compress and format != "hlt":
        raise ConfigError("only the hlt format can be compressed")
    described = load_detector(detector) if isinstance(detector, str) else detector
    simulator = Simulator(described, process=process, pileup=pileup, seed=seed, config=config, cache=cache)
    path = Path(out)
    metadata = _metadata(simulator, events)
    with ExitStack() as stack:
        # The output first: who cannot write should know before the collisions are generated.
        if format == "hlt":
            writer: SampleWriter | _Directory = stack.enter_context(SampleWriter(path, metadata, detector=described, compress=compress))
        else:
            writer = stack.enter_context(_Directory(path, described))
        bar = stack.enter_context(_progress(progress))
        started = time.perf_counter()
        _fill_pool(simulator, events, bar, every=processes > 1)
        pool_seconds = time.perf_counter() - started
        task = bar.add_task("simulating events", total=events)
        started, size = time.perf_counter(), 0
        for event, tables in _events(simulator, events, processes, cache):
            writer.add(event, tables if truth else None)
            size += event.payload.nbytes
            bar.advance(task)
    return SimulationReport(path, events, size, pool_seconds, time.perf_counter() - started)


class _Directory:
    """Writes events with their truth as a data directory of pixeltrack-standalone (truth.npz is an addition that other programs ignore)."""

    def __init__(self, path: Path, detector: Detector) -> None:
        self._path = path
        self._writer = PatatrackWriter(path, detector)
        for name in BESIDE_RAW:
            (path / name).unlink(missing_ok=True)
        self._truth: list[Truth] = []

    def add(self, event: RawEvent, truth: Truth | None = None) -> None:
        """Append an event."""
        self._writer.add(event)
        if truth is not None:
            self._truth.append(truth)

    def __enter__(self) -> _Directory:
        return self

    def __exit__(self, kind: Any, error: Any, where: Any) -> None:
        self._writer.__exit__(kind, error, where)
        if kind is None and self._truth:
            columns: dict[str, list[Any]] = {}
            first = {"part": 0, "vtx": 0, "hit": 0, "digi": 0}
            leading = {"part": "part_pdg", "vtx": "vtx_hs", "hit": "hit_part", "digi": "digi_hit"}
            for number, truth in enumerate(self._truth):
                for name, values in truth.items():
                    if name in REFERENCES:
                        index = values.astype(np.int64)
                        values = np.where(index >= 0, index + first[REFERENCES[name]], -1).astype(np.int32)
                    columns.setdefault(name, []).append(values)
                for table, name in leading.items():
                    n = len(truth[name])
                    columns.setdefault(f"{table}_ev", []).append(np.full(n, number, np.int32))
                    first[table] += n
            arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
            try:
                np.savez_compressed(self._path / "truth.npz", **arrays)
            except OSError as e:
                raise SampleError(f"{self._path / 'truth.npz'}: cannot be written ({e.strerror})") from e


def _metadata(simulator: Simulator, events: int) -> dict[str, Any]:
    """What made the sample. No time and no host: the same call gives the same bytes."""
    return {
        "origin": "hltfarm simulate",
        "generator": f"Pythia {generator_version()}",
        "process": simulator.process,
        "pileup": float(simulator.pileup),
        "seed": simulator.seed,
        "events": events,
        "config": asdict(simulator.config),
    }


def _progress(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


def _fill_pool(simulator: Simulator, events: int, bar: Progress, *, every: bool) -> None:
    """Have the generator blocks ready: those of the first event, or of all events (for other processes, through the cache)."""
    step = simulator.config.generator
    starts = range(0, events, min(step.hard_block, step.group_events)) if every else range(1)
    done: set[tuple[str, int]] = set()
    for k in starts:
        for process, index, size in simulator.blocks_of(k):
            if (process, index) in done:
                continue
            done.add((process, index))
            task: list[TaskID] = []

            def show(n: int, total: int, process: str = process, task: list[TaskID] = task) -> None:
                if not task:
                    task.append(bar.add_task(f"generating {process} collisions", total=total))
                bar.update(task[0], completed=n)

            simulator.block(process, index, size, show)


def _events(simulator: Simulator, events: int, processes: int, cache: Path | None) -> Iterator[tuple[RawEvent, Truth]]:
    """Events 0 .. events - 1 in order."""
    if processes == 1:
        yield from (simulator.event(k) for k in range(events))
        return
    made = (simulator.detector, simulator.process, simulator.pileup, simulator.seed, simulator.config, cache)
    context = multiprocessing.get_context("spawn")  # no inherited locks, and the same everywhere
    with ProcessPoolExecutor(min(processes, events), mp_context=context, initializer=_start, initargs=made) as workers:
        numbers = iter(range(events))
        waiting: deque[Future[tuple[RawEvent, Truth]]] = deque(workers.submit(_make, k) for k in islice(numbers, processes * (1 + AHEAD)))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(workers.submit(_make, k) for k in islice(numbers, 1))
                yield result
        except BrokenProcessPool as error:
            raise BackendError(f"a process of the simulation died ({error}); try again with fewer processes") from error
        finally:
            for future in waiting:
                future.cancel()


_simulator: Simulator | None = None  # of a worker process


def _start(detector: Detector, process: str, pileup: float, seed: int, config: SimulationConfig, cache: Path | None) -> None:
    global _simulator
    _simulator = Simulator(detector, process=process, pileup=pileup, seed=seed, config=config, cache=cache)


def _make(k: int) -> tuple[RawEvent, Truth]:
    assert _simulator is not None
    return _simulator.event(k)
