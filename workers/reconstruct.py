"""A whole sample through the chain, with the outputs of `hltfarm reco`.

Both outputs list the fields of the complete chain; those of stages that do not run are 0 or empty.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.results import OVERFLOW_FLAGS, RESULT
from hltfarm.proto.soa import aligned_empty
from hltfarm.workers.configuration import DEFAULT, Configuration
from hltfarm.workers.menu import Menu
from hltfarm.workers.reconstructor import BatchResult, Reconstructor

TRACK_COLUMNS = ("pt", "eta", "phi", "tip", "zip", "chi2", "charge", "n_hits", "quality", "score", "cov")
VERTEX_COLUMNS = ("z", "ndof", "chi2", "sum_pt2")
HIT_COLUMNS = ("x", "y", "z", "module", "charge")


Columns = dict[str, NDArray[Any]]

#: Takes chunks of a job, in order: places of the events in the source, and their results with all columns.
Sink: TypeAlias = Callable[[Sequence[int], BatchResult], None]


class Source(Protocol):
    """What is needed of an event source (loadgen/source.py has them)."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> RawEvent: ...

    def detector(self) -> Detector: ...


@dataclass
class Job:
    """Outcome of `reconstruct`: rows in event order, seconds by stage (summed over threads), columns if they were kept."""

    backend: str
    device: str
    menu: Menu
    config: Configuration
    selector: str
    seconds: float
    ids: list[int]
    rows: NDArray[np.void]
    stages: dict[str, float]
    hits: list[Columns] = field(default_factory=list)
    tracks: list[Columns] = field(default_factory=list)
    vertices: list[Columns] = field(default_factory=list)

    @property
    def events_per_second(self) -> float:
        return len(self.rows) / self.seconds if self.seconds > 0 else 0.0


def reconstruct(
    source: Source,
    menu: Menu,
    config: Configuration = DEFAULT,
    *,
    backend: str,
    events: int | None,
    batch: int,
    threads: int,
    profile: bool = False,
    keep: bool = False,
    sink: Sink | None = None,
) -> Job:
    """Run the chain over a source. The clock runs from raw bytes in host memory to decisions; reading the source and `sink` are outside.

    keep: hits, tracks and vertices of all events in the job. Raises SampleError for an empty or damaged source, and what Reconstructor
    and `sink` raise.
    """
    available = len(source)
    if available == 0:
        raise SampleError(f"{source.name}: no events in it")
    n = events or available
    distinct = min(n, available)
    console = Console(stderr=True)
    loaded = [source[i] for i in track(range(distinct), "reading", console=console, transient=True, disable=not console.is_terminal)]
    memory, loaded = in_one_piece(loaded)
    with Reconstructor(
        source.detector(),
        menu,
        config=config,
        backend=backend,
        max_events=batch,
        max_batch_bytes=batch_bytes(loaded, batch),
        threads=threads,
        profile=profile,
    ) as reconstructor:
        reconstructor.register(memory.data)
        reconstructor.run(loaded[:batch])  # compiles, touches memory
        rows, kept, stages, seconds = [], list[tuple[Columns, Columns, Columns]](), dict[str, float](), 0.0
        chunks = list(_chunks(n, max(batch, 256)))
        for first, last in track(chunks, "reconstructing", console=console, transient=True, disable=not console.is_terminal):
            part = [loaded[i % distinct] for i in range(first, last)]
            start = time.perf_counter()
            result = reconstructor.run(part, keep or sink is not None)
            seconds += time.perf_counter() - start
            rows.append(result.results)
            for stage, t in result.stage_seconds.items():
                stages[stage] = stages.get(stage, 0.0) + t
            if sink is not None:
                sink([i % distinct for i in range(first, last)], result)
            if keep:
                kept += [(result.hits(i), result.tracks(i), result.vertices(i)) for i in range(last - first)]
        ids = [loaded[i % distinct].id.event for i in range(n)]
        columns = ([k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept])
        return Job(
            reconstructor.backend,
            reconstructor.device,
            menu,
            reconstructor.config,
            reconstructor.selector.name,
            seconds,
            ids,
            np.concatenate(rows),
            stages,
            *columns,
        )


def in_one_piece(events: list[RawEvent]) -> tuple[NDArray[np.uint8], list[RawEvent]]:
    """The events with their payloads in one block of memory, as the slots of the farm are, so that a device can page-lock it."""
    sizes = [-(-e.payload.nbytes // 128) * 128 for e in events]
    memory = aligned_empty(max(128, sum(sizes)))
    placed, at = [], 0
    for event, size in zip(events, sizes, strict=True):
        payload = memory[at : at + event.payload.nbytes]
        payload[:] = event.payload
        placed.append(RawEvent(event.id, payload))
        at += size
    return memory, placed


def _chunks(n: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, n, size):
        yield first, min(n, first + size)


def batch_bytes(events: Sequence[RawEvent], batch: int) -> int:
    """Payload bytes of a batch: the most that any `batch` events in a row have, the source being read in a circle."""
    sizes = np.array([-(-e.payload.nbytes // 128) * 128 for e in events])
    repeated = np.resize(sizes, len(sizes) + batch)
    sums = np.concatenate([[0], np.cumsum(repeated)])
    return max(int((sums[batch:] - sums[:-batch]).max()), 128)


def per_event(job: Job) -> list[dict[str, Any]]:
    """One dictionary per event: counts, overflow, decision, paths and digest (16 hexadecimal digits)."""
    counts = [n for n in RESULT.names or () if n not in ("digest", "path_bits", "path_raw", "flags", "accept")]
    names = [p.name for p in job.menu.paths]
    out = []
    for event, row in zip(job.ids, job.rows, strict=True):
        bits = int(row["path_bits"])
        out.append(
            {
                "event": event,
                **{n: row[n].item() for n in counts},
                "flags": int(row["flags"]),
                "overflow": bool(int(row["flags"]) & OVERFLOW_FLAGS),
                "accept": bool(row["accept"]),
                "paths": [name for i, name in enumerate(names) if bits >> i & 1],
                "digest": f"{int(row['digest']):016x}",
            }
        )
    return out


def write_json(job: Job, path: Path) -> None:
    """`--json`: stages in milliseconds per event."""
    n = max(1, len(job.rows))
    document = {
        "backend": job.backend,
        "device": job.device,
        "events": len(job.rows),
        "events_per_second": job.events_per_second,
        "stages": {stage: 1e3 * t / n for stage, t in job.stages.items()},
        "configuration": job.config.name,
        "selector": job.selector,
        "menu": job.menu.hash,
        "per_event": per_event(job),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def write_npz(job: Job, path: Path) -> None:
    """`--out`: offsets have n + 1 entries; lengths in cm relative to the beam spot, momenta in GeV. Every fitted candidate is listed.

    The file appears under its name when it is complete.
    """
    hits = [t["hits"][t["hits"] >= 0].astype(np.int32) for t in job.tracks]  # row by row, as many as each track has
    arrays = {
        "hit_offsets": _offsets([len(h["x"]) for h in job.hits]),
        "track_offsets": _offsets([len(t["pt"]) for t in job.tracks]),
        "vertex_offsets": _offsets([len(v["z"]) for v in job.vertices]),
        "track_hit_offsets": _offsets([n for t in job.tracks for n in t["n_hits"]]),
        "track_hits": np.concatenate([np.zeros(0, np.int32), *hits]),
    }
    for prefix, names, events in (
        ("hit", HIT_COLUMNS, job.hits),
        ("track", TRACK_COLUMNS, job.tracks),
        ("vertex", VERTEX_COLUMNS, job.vertices),
    ):
        arrays |= {f"{prefix}_{name}": np.concatenate([event[name] for event in events]) for name in names}
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)


def print_summary(job: Job) -> None:
    """Rates and means on stdout."""
    n = len(job.rows)
    out = Console()
    plural = "" if n == 1 else "s"
    title = f"{n} event{plural} on {job.backend} ({job.device}): {job.events_per_second:.1f} events/s"
    out.print(f"{title}; configuration {job.config.name}, selector {job.selector}, menu {job.menu.hash}", soft_wrap=True)
    table = Table()
    table.add_column("per event")
    table.add_column("mean", justify="right")
    for name in ("modules", "digis", "pixels", "clusters", "hits", "doublets", "ntuplets", "tracks", "vertices"):
        table.add_row(name, f"{job.rows[name].mean():.1f}")
    table.add_row("accepted", f"{100 * job.rows['accept'].mean():.1f} %")
    flagged = int((job.rows["flags"] != 0).sum())
    table.add_row("flagged", f"{100 * flagged / n:.1f} %")
    for stage, t in job.stages.items():
        table.add_row(f"time in {stage}", f"{1e6 * t / n:.1f} us")
    out.print(table)
