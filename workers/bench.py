"""Benchmark of the chain in process: raw bytes in host memory to decisions in host memory, by backend, batch size and threads."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hltfarm.workers.configuration import DEFAULT, Configuration
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstruct import Job, Source, reconstruct


@dataclass(frozen=True)
class Point:
    """One measurement: median rate over the repetitions and their spread; stage times in microseconds per event.

    CPU stage times are wall time summed over threads; CUDA ones are device times from a separate, profiled run (no graph);
    "chain" is the device time of the batches with the graph, copies included.
    """

    backend: str
    device: str
    batch: int
    threads: int
    events: int
    events_per_second: float
    slowest: float
    fastest: float
    stages_us: dict[str, float]


def measure(source: Source, backend: str, batch: int, threads: int, events: int, repeat: int, config: Configuration = DEFAULT) -> Point:
    """Measure one setting `repeat` times."""
    menu = Menu.parse(DEFAULT_MENU)

    def once(profile: bool) -> Job:
        return reconstruct(source, menu, config, backend=backend, events=events, batch=batch, threads=threads, profile=profile)

    jobs = [once(False) for _ in range(repeat)]
    rates = [job.events_per_second for job in jobs]
    stages = {"chain": jobs[0].stages["chain"]} if "chain" in jobs[0].stages else {}
    profiled = once(True) if jobs[0].backend == "cuda" else jobs[0]
    stages = {**profiled.stages, **stages}
    per_event = {stage: 1e6 * t / len(profiled.rows) for stage, t in stages.items()}
    return Point(jobs[0].backend, jobs[0].device, batch, threads, events, float(np.median(rates)), min(rates), max(rates), per_event)


def run_pipeline(
    source: Source,
    backend: str,
    batches: Sequence[int],
    threads: Sequence[int],
    events: int,
    repeat: int,
    config: Configuration = DEFAULT,
) -> list[Point]:
    """All combinations that make sense: CPU by threads (one event a task), CUDA by batch size."""
    points = []
    if backend in ("cpu", "both"):
        points += [measure(source, "cpu", 64, n, max(32, events // 8), repeat, config) for n in threads]
    if backend in ("cuda", "both"):
        points += [measure(source, "cuda", b, 0, min(events, 200 * b) if b < 8 else events, repeat, config) for b in batches]
    return points


def write_report(points: Sequence[Point], source: Source, path: Path) -> None:
    """JSON with the machine, the sample and the points."""
    document = {"machine": platform.processor() or platform.machine(), "source": source.name, "points": [asdict(p) for p in points]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def print_report(points: Sequence[Point]) -> None:
    """A table on stdout."""
    stages = list(dict.fromkeys(stage for p in points for stage in p.stages_us))
    table = Table(title="raw bytes in host memory -> decisions in host memory", title_justify="left")
    for heading in ("backend", "batch", "threads", "events/s", "min .. max", *(f"{s} us" for s in stages)):
        table.add_column(heading, justify="right")
    for p in points:
        times = (f"{p.stages_us[s]:.1f}" if s in p.stages_us else "" for s in stages)
        threads = str(p.threads) if p.backend == "cpu" else ""
        batch = str(p.batch) if p.backend == "cuda" else "1"
        table.add_row(p.backend, batch, threads, f"{p.events_per_second:.0f}", f"{p.slowest:.0f} .. {p.fastest:.0f}", *times)
    Console(width=140).print(table)
