"""The promise of equal bits, put to the test: the same events on the CPU and on the GPU, in batches of several sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hltfarm.proto.errors import BackendError, LayoutError
from hltfarm.workers.bench import Sample, Say, circle, free_memory, of_size, opened
from hltfarm.workers.configuration import Configuration

#: Events that a CPU thread runs together at most: each thread has memory for them.
MOST_ON_CPU = 16


@dataclass(frozen=True)
class Run:
    """One way to run the events. `differing`: the first ten events that differ from the first run, with the fields.

    `left_out`: why it did not run, "" if it did.
    """

    backend: str
    device: str
    batch: int
    events: int
    unequal: int
    differing: list[str]
    left_out: str = ""


def run_equality(
    sample: Sample, backends: Sequence[str], batches: Sequence[int], events: int, threads: int, config: Configuration, say: Say
) -> list[Run]:
    """Run each backend with each batch size (on the CPU: events of a task, up to 16) and compare all result rows with the first ones.

    On a GPU `events` events are run, the sample being read in a circle, so that an event has other neighbours in every batch; on the
    CPU every event of the sample once. Raises BackendError if a backend is not usable here.
    """
    runs, reference = list[Run](), None
    for backend in backends:
        sizes = sorted({min(b, MOST_ON_CPU) if backend == "cpu" else b for b in batches})
        n = min(events, len(sample.events)) if backend == "cpu" else events
        for batch in sizes:
            say(f"{sample.name}: {n} events on {backend}, batches of {batch}")
            try:
                rows, device = _rows(sample, backend, batch, n, threads, config)
            except (BackendError, LayoutError, MemoryError) as error:
                if not of_size(error):
                    raise
                runs.append(Run(backend, "", batch, 0, 0, [], str(error) or type(error).__name__))
                continue
            reference = rows[: len(sample.events)].copy() if reference is None else reference
            differ = different_rows(rows, reference)
            told = [describe(sample, rows, reference, i) for i in differ[:10].tolist()]
            runs.append(Run(backend, device, batch, n, len(differ), told))
    return runs


def _rows(sample: Sample, backend: str, batch: int, n: int, threads: int, config: Configuration) -> tuple[NDArray[Any], str]:
    free_memory()
    with opened(sample, backend, batch, threads, config, events_per_task=batch) as chain:
        return chain.run(circle(sample, 0, n)).results, chain.device


def different_rows(rows: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.intp]:
    """Places in `rows` whose bytes are not those of the reference, which is repeated."""
    width = reference.dtype.itemsize
    again = np.resize(np.ascontiguousarray(reference).view(np.uint8).reshape(-1, width), (len(rows), width))
    return np.flatnonzero((np.ascontiguousarray(rows).view(np.uint8).reshape(-1, width) != again).any(axis=1))


def describe(sample: Sample, rows: NDArray[Any], reference: NDArray[Any], i: int) -> str:
    """Row `i` against the reference: the event's number and the fields that differ."""
    row, other = rows[i], reference[i % len(reference)]
    fields = [name for name in rows.dtype.names or () if row[name].tobytes() != other[name].tobytes()]
    event = sample.events[i % len(sample.events)].id.event
    return f"event {event}: " + "; ".join(f"{name} {row[name]} / {other[name]}" for name in fields)


def write_report(runs: Sequence[Run], sample: Sample, path: Path) -> None:
    """JSON with the sample and the runs."""
    path.write_text(json.dumps({"source": sample.name, "events": len(sample.events), "runs": [asdict(r) for r in runs]}, indent=1) + "\n")


def print_report(runs: Sequence[Run], sample: Sample) -> None:
    """A table on stdout, and what differs."""
    out = Console(width=120)
    table = Table(title=f"{sample.name}: results against those of the first row", title_justify="left")
    for heading in ("backend", "device", "batch", "events", "equal"):
        table.add_column(heading, justify="right" if heading in ("batch", "events") else "left")
    for r in runs:
        verdict = "left out" if r.left_out else ("yes" if not r.unequal else f"NO: {r.unequal} differ")
        table.add_row(r.backend, r.device, str(r.batch), str(r.events), verdict)
    out.print(table)
    for r in runs:
        for line in (*r.differing, *([r.left_out] if r.left_out else [])):
            out.print(f"{r.backend}, batches of {r.batch}: {line}", soft_wrap=True)
