"""One snapshot of a farm from the snapshots of its ingests: counters add, states combine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from hltfarm.proto.messages import Histogram, LedgerCounts, Snapshot, WorkerStatus, models_text
from hltfarm.service.runcontrol import combined


def add_counts(parts: Iterable[LedgerCounts]) -> LedgerCounts:
    """Sum of ledgers, field by field."""
    parts = list(parts)
    return LedgerCounts(**{name: sum(getattr(part, name) for part in parts) for name in LedgerCounts.__struct_fields__})


def without(total: LedgerCounts, part: LedgerCounts) -> LedgerCounts:
    """The difference of ledgers, field by field."""
    return LedgerCounts(**{name: getattr(total, name) - getattr(part, name) for name in LedgerCounts.__struct_fields__})


def add_histograms(parts: Sequence[Histogram]) -> Histogram:
    """Sum of histograms. Ingests of one version have the same bounds; one that differs is left out."""
    first = parts[0]
    same = [part for part in parts if part.bounds == first.bounds]
    counts = [sum(column) for column in zip(*(part.counts for part in same), strict=True)]
    return Histogram(bounds=list(first.bounds), counts=counts, sum=sum(part.sum for part in same))


def _add_int(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total


def _add_float(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + value
    return total


def _workers(snapshots: Sequence[Snapshot]) -> list[WorkerStatus]:
    """All workers; names that occur on several ingests get the ingest's index."""
    names = [worker.name for snapshot in snapshots for worker in snapshot.workers]
    merged = []
    for index, snapshot in enumerate(snapshots):
        for worker in snapshot.workers:
            unique = names.count(worker.name) == 1
            merged.append(worker if unique else msgspec.structs.replace(worker, name=f"{worker.name}@{index}"))
    return merged


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The farm's snapshot; `snapshots` has one for each reachable ingest and is not empty."""
    if len(snapshots) == 1:
        return snapshots[0]
    stages: dict[str, list[Histogram]] = {}
    for s in snapshots:
        for stage, histogram in s.stage_duration.items():
            stages.setdefault(stage, []).append(histogram)
    hashes = list(dict.fromkeys(s.menu_hash for s in snapshots))
    runs = list(dict.fromkeys(s.run for s in snapshots if s.run is not None))
    problems = [problem for s in snapshots for problem in s.problems]
    if len(hashes) > 1:
        problems.append(f"the ingests run different menus: {', '.join(h or 'none' for h in hashes)}")
    if len(runs) > 1:
        problems.append(f"the ingests are in different runs: {', '.join(str(run) for run in runs)}")
    models = list(dict.fromkeys(models_text(s.models) for s in snapshots if s.menu_hash))
    if len(models) > 1:
        problems.append(f"the ingests decide with different models: {'; '.join(models)}")
    return Snapshot(
        state=combined([s.state for s in snapshots]),
        run=max(runs, default=None),
        ledger=add_counts(s.ledger for s in snapshots),
        totals=add_counts(s.totals for s in snapshots),
        workers=_workers(snapshots),
        queue_events=sum(s.queue_events for s in snapshots),
        slots_free=sum(s.slots_free for s in snapshots),
        slots_total=sum(s.slots_total for s in snapshots),
        clients=sum(s.clients for s in snapshots),
        ingest_bytes=sum(s.ingest_bytes for s in snapshots),
        frames_refused=_add_int(s.frames_refused for s in snapshots),
        failures=_add_int(s.failures for s in snapshots),
        path_accepts=_add_int(s.path_accepts for s in snapshots),
        path_prescaled=_add_int(s.path_prescaled for s in snapshots),
        stream_events=_add_int(s.stream_events for s in snapshots),
        stream_bytes=_add_int(s.stream_bytes for s in snapshots),
        backpressure_seconds=_add_float(s.backpressure_seconds for s in snapshots),
        event_latency=add_histograms([s.event_latency for s in snapshots]),
        stage_duration={stage: add_histograms(parts) for stage, parts in stages.items()},
        batch_events=add_histograms([s.batch_events for s in snapshots]),
        menu_hash=next((h for h in hashes if h), ""),
        models=next((s.models for s in snapshots if s.menu_hash), ()),
        problems=problems,
        info=_add_int({key: value for key, value in s.info.items() if isinstance(value, int)} for s in snapshots),
    )
