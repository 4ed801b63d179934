"""The figures of `hltfarm bench farm`, as JSON and as tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hltfarm.service.bench.farm import Curve
from hltfarm.service.bench.points import Point

ROLES = ("ingest", "worker", "clients", "control")  #: whose CPU cores in use are columns of a table
CPUINFO = Path("/proc/cpuinfo")


def machine() -> str:
    """Processor and cores that this process may use."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def to_json(curves: Sequence[Curve], source: str, chain: dict[str, Any] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    return {
        "machine": machine(),
        "source": source,
        "options": options,
        "chain": chain,
        "curves": [
            {
                "setting": asdict(curve.setting),
                "saturation_hz": curve.saturation_hz,
                "knee": None if curve.knee is None else asdict(curve.knee),
                "points": [asdict(point) for point in curve.points],
            }
            for curve in curves
        ],
        "mismatch": sum(point.mismatch for curve in curves for point in curve.points),
        "closed": all(closed(point) for curve in curves for point in curve.points),
    }


def closed(point: Point) -> bool:
    """Whether every event of a load was answered once and is in the books."""
    return not point.problems and point.mismatch == 0


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def print_curve(curve: Curve, console: Console) -> None:
    """A table of one setting (cores in use by role on its right), and where its knee is."""
    table = Table(title=str(curve.setting), title_justify="left")
    for heading in ("offered/s", "reached/s", "GB/s", "of chain", "p50 ms", "p90", "p99", "max", *ROLES):
        table.add_column(heading, justify="right")
    table.add_column("books")
    for point in curve.points:
        latency = (_ms(point.latency_ms[key]) for key in ("p50", "p90", "p99", "max"))
        cores = (f"{point.cores[role]:.2f}" for role in ROLES)
        offered = "max" if point.offered_hz is None else f"{point.offered_hz:,.0f}"
        share = "-" if point.share is None else f"{100 * point.share:.0f} %"
        books = "closed" if closed(point) else "; ".join([*point.problems, *([f"mismatch {point.mismatch}"] if point.mismatch else [])])
        table.add_row(offered, f"{point.reached_hz:,.0f}", f"{point.gb_per_s:.2f}", share, *latency, *cores, books)
    console.print(table)
    top = curve.knee
    if top is None:
        console.print("no rate was kept up with: 99 % of the events within --limit-ms, and 95 % of the rate", soft_wrap=True)
    else:
        rate = f"{top.offered_hz:,.0f} events/s ({top.gb_per_s:.2f} GB/s)"
        console.print(f"keeps up with {rate}, p99 {_ms(top.latency_ms['p99'])} ms", soft_wrap=True)
