"""Figures of the benchmark as a JSON document and as tables."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hltfarm.workers.inference.engines import EnginePoint
from hltfarm.workers.inference.harness import TOLERANCE, Results, ViewPoint

FORMAT = 1
Document = Mapping[str, Any]


def document(results: Results, device: torch.device, options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, with what it was measured on: see docs/direct-inference.md for the fields."""
    return {
        "format": FORMAT,
        "versions": _versions(),
        "device": _device(device),
        "options": dict(options),
        "tolerance": TOLERANCE,
        "views": [asdict(point) for point in results.views],
        "engines": [asdict(point) for point in results.engines],
        "skipped": [asdict(point) for point in results.skipped],
    }


def write(report: Document, path: Path) -> None:
    """Write the document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def print_tables(results: Results, console: Console) -> None:
    """One table of the paths, one of the engines, and what was left out."""
    if results.views:
        console.print(_views_table(results.views))
    if results.engines:
        console.print(_engines_table(results.engines))
    for skipped in results.skipped:
        console.print(f"left out: {skipped.what}: {skipped.reason}", highlight=False, markup=False)


def _views_table(points: list[ViewPoint]) -> Table:
    names = list(dict.fromkeys(p.path for p in points))
    table = Table(title="columns -> model -> columns: wall time of a run in ms, mean ± spread", title_justify="left")
    for heading in ("model", "elements", *names, *(f"{name} / direct" for name in names if name not in ("direct", "graph"))):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    by_path = {(p.model, p.elements, p.path): p for p in points}
    for model, elements in dict.fromkeys((p.model, p.elements) for p in points):
        row = [by_path.get((model, elements, name)) for name in names]
        direct = by_path[model, elements, "direct"].timing.wall_ms
        times = (_time(p.timing.wall_ms, p.timing.wall_spread_ms) if p else "" for p in row)
        ratios = (f"{p.timing.wall_ms / direct:.2f}" for p in row if p and p.path not in ("direct", "graph"))
        table.add_row(model, f"{elements}", *times, *ratios)
    return table


def _engines_table(points: list[EnginePoint]) -> Table:
    names = list(dict.fromkeys((p.engine, p.graph) for p in points))
    table = Table(title="engines: wall time of a run in ms, mean ± spread", title_justify="left")
    for heading in ("parameters", "batch", *(f"{engine}{', graph' if graph else ''}" for engine, graph in names)):
        table.add_column(heading, justify="right")
    by_name = {(p.parameters, p.batch, p.engine, p.graph): p.timing for p in points}
    for parameters, batch in dict.fromkeys((p.parameters, p.batch) for p in points):
        row = (by_name.get((parameters, batch, *name)) for name in names)
        table.add_row(f"{parameters}", f"{batch}", *(_time(t.wall_ms, t.wall_spread_ms) if t else "" for t in row))
    return table


def _time(mean: float, spread: float) -> str:
    digits = 3 if mean < 10 else 1
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or ""}
    for name in ("hltfarm", "numpy", "cupy-cuda13x"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _device(device: torch.device) -> dict[str, Any]:
    host = {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device.type == "cpu":
        return {"type": "cpu", "name": host["processor"], **host}
    properties = torch.cuda.get_device_properties(device)
    return {"type": "cuda", "name": properties.name, "memory_bytes": properties.total_memory, **host}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
