"""Benchmark of the chain in process: raw bytes in host memory to decisions in host memory, by sample, backend, batch size and threads.

Throughput is of many batches in one call, latency of one batch after the other, each from its submission to its decisions.
Every measurement is also a check: an event must have the same digest in all of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import BackendError, LayoutError, SampleError
from hltfarm.proto.events import RawEvent
from hltfarm.workers.configuration import DEFAULT, Configuration
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstruct import Source, batch_bytes, in_one_piece
from hltfarm.workers.reconstructor import Reconstructor

Say = Callable[[str], None]

WARM_UP_S = 0.3
#: Batches whose latency is measured: at least, at most.
LATENCIES = (5, 2000)
#: Batches that are profiled.
PROFILED = 8


@dataclass
class Sample:
    """Events of a source in one block of memory, as in the slots of the farm. `hits`: mean of an event, nan until all were run."""

    name: str
    detector: Detector
    events: list[RawEvent]
    memory: NDArray[np.uint8]
    hits: float = float("nan")
    digests: dict[int, tuple[int, str]] = field(default_factory=dict)  #: place of an event -> digest, and which point saw it first

    @property
    def label(self) -> str:
        return f"{self.name} ({self.hits:.0f} hits)"


@dataclass(frozen=True)
class Latency:
    """Wall time of a batch from its submission to its decisions, in microseconds, with no other batch in flight."""

    p50: float
    p90: float
    p99: float
    batches: int


@dataclass(frozen=True)
class Point:
    """One measurement: median rate over the repetitions and their spread; stage times in microseconds per event.

    CPU stage times are wall time summed over threads; CUDA ones are device times from a separate, profiled run (no graph);
    "chain" is the device time of a batch with the graph, copies included. Both are of batches that have the device for themselves.
    `batch`: events of a batch, on the CPU of a task.
    """

    sample: str
    hits: float
    backend: str
    device: str
    batch: int
    threads: int
    events: int
    events_per_second: float
    slowest: float
    fastest: float
    latency_us: Latency
    stages_us: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Part of each stage in the time of all stages."""
        times = {stage: t for stage, t in self.stages_us.items() if stage != "chain"}
        total = sum(times.values())
        return {stage: t / total for stage, t in times.items()} if total else {}


@dataclass(frozen=True)
class LeftOut:
    """A batch size that the device has no memory for."""

    sample: str
    backend: str
    batch: int
    reason: str


@dataclass
class Results:
    """All measurements, and the events whose digest was not the same in all of them (one line each)."""

    points: list[Point] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Effort:
    """How much is measured: `repeat` runs of `events` events or for about `seconds` each; the whole sample and four batches at least."""

    events: int = 4096
    repeat: int = 3
    seconds: float = 2.0


def read(source: Source, most: int | None = None) -> Sample:
    """The first `most` events of a source, or all. Raises SampleError if there is none, or if the source is damaged."""
    if len(source) == 0:
        raise SampleError(f"{source.name}: no events in it")
    memory, events = in_one_piece([source[i] for i in range(min(len(source), most or len(source)))])
    return Sample(source.name, source.detector(), events, memory)


def run_pipeline(
    samples: Sequence[Sample],
    backend: str,
    batches: Sequence[int],
    threads: Sequence[int],
    effort: Effort,
    config: Configuration = DEFAULT,
    say: Say = lambda what: None,
) -> Results:
    """All combinations that make sense: CPU by threads (one event a task), CUDA by batch size. `say` is told what is measured next."""
    results = Results()
    for sample in samples:
        if backend in ("cpu", "both"):
            for n in threads:
                say(f"{sample.name}: cpu, threads: {n}")
                results.points.append(measure(sample, "cpu", 1, n, effort, config, results.unequal))
        if backend in ("cuda", "both"):
            for batch in sorted(set(batches)):
                say(f"{sample.name}: cuda, batches of {batch}")
                try:
                    results.points.append(measure(sample, "cuda", batch, 0, effort, config, results.unequal))
                except (BackendError, LayoutError, MemoryError) as error:
                    if not of_size(error):
                        raise
                    results.left_out.append(LeftOut(sample.name, "cuda", batch, str(error) or type(error).__name__))
    return results


def of_size(error: BaseException) -> bool:
    """Whether a batch of fewer events may do: not enough memory on the device, or more entries than an index can name."""
    return isinstance(error, (MemoryError, LayoutError)) or "memory" in str(error)


def measure(
    sample: Sample,
    backend: str,
    batch: int,
    threads: int,
    effort: Effort,
    config: Configuration = DEFAULT,
    unequal: list[str] | None = None,
) -> Point:
    """Measure one setting. Sets the sample's `hits`; events that differ from earlier points of the sample are told in `unequal`.

    Raises BackendError, LayoutError or MemoryError if the batches do not fit the device (see `of_size`).
    """
    name = f"{backend}, " + (f"batches of {batch}" if backend == "cuda" else f"threads: {threads}")
    told = unequal if unequal is not None else []
    point = _timed(sample, backend, batch, threads, effort, config, told, name)
    if point.backend != "cuda":
        return point
    return replace(point, stages_us=_profiled(sample, batch, config, told, f"{name}, without a graph") | point.stages_us)


def _timed(
    sample: Sample, backend: str, batch: int, threads: int, effort: Effort, config: Configuration, unequal: list[str], name: str
) -> Point:
    free_memory()
    with opened(sample, backend, batch, threads, config) as chain:
        rate = warm_up(chain, sample, 2 * batch * max(1, threads))
        n = max(4 * batch * max(1, threads), len(sample.events), min(effort.events, int(rate * effort.seconds)))
        n = -(-n // batch) * batch
        rates, stages = list[float](), dict[str, float]()
        for _ in range(effort.repeat):
            start = time.perf_counter()
            result = chain.run(circle(sample, 0, n))
            rates.append(n / (time.perf_counter() - start))
            stages = {stage: 1e6 * t / n for stage, t in result.stage_seconds.items()}
            unequal += compare(sample, result.results, name)
        latency, device_us = latencies(chain, sample, batch, effort.seconds)
        return Point(
            sample=sample.name,
            hits=sample.hits,
            backend=chain.backend,
            device=chain.device,
            batch=batch,
            threads=threads,
            events=n,
            events_per_second=float(np.median(rates)),
            slowest=min(rates),
            fastest=max(rates),
            latency_us=latency,
            stages_us=stages if device_us is None else {"chain": device_us},
        )


def _profiled(sample: Sample, batch: int, config: Configuration, unequal: list[str], name: str) -> dict[str, float]:
    """Device times of the stages, in microseconds per event: one batch after the other, so that none waits for another."""
    free_memory()
    with opened(sample, "cuda", batch, 0, config, profile=True) as chain:
        warm_up(chain, sample, 2 * batch)
        rows, stages = [], dict[str, float]()
        for i in range(PROFILED):
            result = chain.run(circle(sample, i * batch, batch))
            rows.append(result.results)
            for stage, t in result.stage_seconds.items():
                stages[stage] = stages.get(stage, 0.0) + 1e6 * t / (PROFILED * batch)
        unequal += compare(sample, np.concatenate(rows), name)
        return {stage: t for stage, t in stages.items() if stage != "chain"}


def opened(
    sample: Sample, backend: str, batch: int, threads: int, config: Configuration, profile: bool = False, events_per_task: int = 1
) -> Reconstructor:
    """The chain with memory for batches of the sample, which lies in page-locked memory then."""
    chain = Reconstructor(
        sample.detector,
        Menu.parse(DEFAULT_MENU),
        backend=backend,
        max_events=batch,
        max_batch_bytes=batch_bytes(sample.events, batch),
        threads=threads,
        events_per_task=events_per_task,
        config=config,
        profile=profile,
    )
    try:
        chain.register(sample.memory.data)
    except BaseException:
        chain.close()
        raise
    return chain


def circle(sample: Sample, first: int, n: int) -> list[RawEvent]:
    """`n` events from place `first` on, the sample being read in a circle."""
    return [sample.events[i % len(sample.events)] for i in range(first, first + n)]


def warm_up(chain: Reconstructor, sample: Sample, n: int) -> float:
    """Run `n` events again and again until clocks are up and memory is touched; the rate of the last time, in events/s."""
    part, begin = circle(sample, 0, n), time.perf_counter()
    while True:
        start = time.perf_counter()
        chain.run(part)
        now = time.perf_counter()
        if now - begin > WARM_UP_S:
            return n / (now - start)


def latencies(chain: Reconstructor, sample: Sample, batch: int, seconds: float) -> tuple[Latency, float | None]:
    """Batch after batch for `seconds`, each submitted when the one before is decided; and the median device time per event in us."""
    waits, device, begin, at = list[float](), list[float](), time.perf_counter(), 0
    while len(waits) < LATENCIES[0] or (len(waits) < LATENCIES[1] and time.perf_counter() - begin < seconds):
        part = circle(sample, at, batch)
        start = time.perf_counter()
        result = chain.run(part)
        waits.append(1e6 * (time.perf_counter() - start))
        at += batch
        if "chain" in result.stage_seconds:
            device.append(1e6 * result.stage_seconds["chain"] / batch)
    p50, p90, p99 = np.percentile(waits, (50, 90, 99))
    return Latency(float(p50), float(p90), float(p99), len(waits)), float(np.median(device)) if device else None


def compare(sample: Sample, rows: NDArray[Any], point: str) -> list[str]:
    """What differs between rows (events of the sample in order, in a circle) and earlier ones of the sample; sets its `hits`."""
    distinct, told = len(sample.events), []
    if len(rows) >= distinct:
        sample.hits = float(rows["hits"][:distinct].mean())
    for i, digest in enumerate(rows["digest"].tolist()):
        seen, first = sample.digests.setdefault(i % distinct, (digest, point))
        if seen != digest:
            event = sample.events[i % distinct].id.event
            told.append(f"{sample.name}, event {event}: digest {digest:016x} ({point}), {seen:016x} ({first})")
    return list(dict.fromkeys(told))


def free_memory() -> None:
    """Give the device's memory back that lanes of another size have left in the pool."""
    try:
        import cupy
    except ImportError:
        return
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
