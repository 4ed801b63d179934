"""Tables and JSON of `hltfarm bench pipeline`."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hltfarm.workers.bench import Point, Results, Sample
from hltfarm.workers.bench_devices import Scaling
from hltfarm.workers.bench_growth import Exponent, growth


def write_report(results: Results, scalings: Sequence[Scaling], samples: Sequence[Sample], path: Path) -> None:
    """JSON with the machine, the samples, the points, what was left out, the fits and the runs on several devices."""
    document = {
        "machine": platform.processor() or platform.machine(),
        "samples": [
            {"name": s.name, "events": len(s.events), "hits": None if math.isnan(s.hits) else s.hits, "bytes": _mean_bytes(s)}
            for s in samples
        ],
        "points": [{**asdict(p), "shares": p.shares} for p in results.points],
        "left_out": [asdict(x) for x in results.left_out],
        "unequal": results.unequal,
        "growth": [
            {
                "backend": g.backend,
                "exponent": asdict(g.chain),
                "stages": {stage: asdict(e) for stage, e in g.stages.items()},
                "samples": [{"sample": p.sample, "hits": p.hits, "batch": p.batch, "us": 1e6 / p.events_per_second} for p in g.best],
            }
            for g in growth(results.points)
        ],
        "devices": [
            {**asdict(s), "phases": [{**asdict(p), "total": p.total, "scaling": s.scaling(p)} for p in s.phases]} for s in scalings
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def print_report(results: Results, scalings: Sequence[Scaling], samples: Sequence[Sample]) -> None:
    """Tables on stdout."""
    out = Console(width=170)
    cuda = [p for p in results.points if p.backend == "cuda"]
    if len({p.sample for p in cuda}) > 1:
        out.print(_by_batch(cuda, [s for s in samples if any(p.sample == s.name for p in cuda)]))
    for sample in samples:
        points = [p for p in results.points if p.sample == sample.name]
        if points:
            out.print(
                f"\n{sample.label}, {_mean_bytes(sample) / 1e3:.0f} kB per event: raw bytes in host memory -> decisions in host memory"
            )
            out.print(_rates(points))
            out.print(_stages(points))
    for left in results.left_out:
        out.print(f"left out: {left.sample}, {left.backend}, batches of {left.batch}: {left.reason}", soft_wrap=True)
    for g in growth(results.points):
        where = ", ".join(f"{1e6 / p.events_per_second:.1f} us at {p.hits:.0f} hits" for p in g.best)
        out.print(f"\n{g.backend}: cost of an event grows as hits ^ {_shown(g.chain)} ({where})", soft_wrap=True)
        out.print("stages: " + ", ".join(f"{stage} {_shown(e)}" for stage, e in g.stages.items()), soft_wrap=True)
    for scaling in scalings:
        out.print(_scaling(scaling))
    for line in results.unequal[:20]:
        out.print(f"NOT EQUAL: {line}", soft_wrap=True)


def _mean_bytes(sample: Sample) -> float:
    return sum(e.payload.nbytes for e in sample.events) / len(sample.events)


def _shown(e: Exponent) -> str:
    return f"{e.value:.2f}" + ("" if e.error is None else f" ± {e.error:.2f}")


def _table(title: str | None, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _by_batch(points: Sequence[Point], samples: Sequence[Sample]) -> Table:
    rates = {(p.batch, p.sample): f"{p.events_per_second:.0f}" for p in points}
    table = _table("events/s on CUDA by batch size and sample", "batch", *(s.label for s in samples))
    for batch in sorted({p.batch for p in points}):
        table.add_row(str(batch), *(rates.get((batch, s.name), "") for s in samples))
    return table


def _rates(points: Sequence[Point]) -> Table:
    latency = ("p50 us", "p90 us", "p99 us")
    table = _table(None, "backend", "batch", "threads", "events/s", "min .. max", "us / event", *(f"latency {x}" for x in latency))
    for p in points:
        w, threads = p.latency_us, str(p.threads) if p.backend == "cpu" else ""
        rate = (f"{p.events_per_second:.0f}", f"{p.slowest:.0f} .. {p.fastest:.0f}", f"{1e6 / p.events_per_second:.1f}")
        table.add_row(p.backend, str(p.batch), threads, *rate, *(f"{x:.0f}" for x in (w.p50, w.p90, w.p99)))
    return table


def _stages(points: Sequence[Point]) -> Table:
    stages = list(dict.fromkeys(stage for p in points for stage in p.stages_us))
    table = _table("us per event, and share in the sum of the stages", "backend", "batch", "threads", *stages)
    for p in points:
        shares = p.shares
        cells = (f"{p.stages_us[s]:.1f}" + (f" {100 * shares[s]:2.0f}%" if s in shares else "") if s in p.stages_us else "" for s in stages)
        table.add_row(p.backend, str(p.batch), str(p.threads) if p.backend == "cpu" else "", *cells)
    return table


def _scaling(scaling: Scaling) -> Table:
    title = f"{scaling.sample}, batches of {scaling.batch}, one process per GPU ({scaling.device}), {scaling.seconds:g} s each"
    table = _table(title, "GPUs", "events/s each", "events/s", "times one")
    for p in scaling.phases:
        each = ", ".join(f"{device}: {rate:.0f}" for device, rate in zip(p.devices, p.rates, strict=True))
        table.add_row(str(len(p.devices)), each, f"{p.total:.0f}", f"{scaling.scaling(p):.2f}")
    return table
