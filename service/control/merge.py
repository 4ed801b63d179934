"""One snapshot of a farm from the snapshots of its ingests: counters add, states combine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from hltfarm.proto.messages import (
    Histogram,
    LedgerCounts,
    Pending,
    Programme,
    RunConfig,
    Shadow,
    Snapshot,
    WorkerStatus,
    models_text,
)
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
    """All workers. One that serves several ingests is listed once; different ones of the same name get the index of their ingest.

    Those of one host are one that was restarted, also while not all ingests know that yet.
    """
    found: dict[str, list[tuple[int, WorkerStatus]]] = {}
    for index, snapshot in enumerate(snapshots):
        for worker in snapshot.workers:
            found.setdefault(worker.name, []).append((index, worker))
    merged = []
    for name, parts in found.items():
        up = [worker for _, worker in parts if worker.up]
        if len(parts) == 1 or (len({worker.host for _, worker in parts}) == 1 and parts[0][1].pid) or len(up) == 1:
            merged.append(_one_worker(up or [worker for _, worker in parts]))
        else:
            merged += [msgspec.structs.replace(worker, name=f"{name}@{index}") for index, worker in parts]
    return merged


def _one_worker(parts: Sequence[WorkerStatus]) -> WorkerStatus:
    """A process as several ingests see it: it is up and ready if it is so for one of them (the problems tell of the others)."""
    best = max(parts, key=lambda part: (part.up, part.ready))
    return msgspec.structs.replace(
        best,
        credit_events=sum(part.credit_events for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        processed=sum(part.processed for part in parts),
        restarts=max(part.restarts for part in parts),
        canary_at=max(part.canary_at for part in parts),
        canary_age_s=min((part.canary_age_s for part in parts if part.canary_age_s >= 0), default=-1.0),
        canary_failures=sum(part.canary_failures for part in parts),
        distrusted=next((part.distrusted for part in parts if part.distrusted), ""),
    )


def _programmes(snapshots: Sequence[Snapshot]) -> tuple[Programme, ...]:
    """Programmes of all ingests by first lumisection; one that began in the same lumisection of several is one."""
    found: dict[tuple[int, RunConfig], Programme] = {}
    for snapshot in snapshots:
        for part in snapshot.programmes:
            key = (part.first_lumi, part.config)
            known = found.get(key)
            if known is None:
                found[key] = part
                continue
            built = known if known.menu_hash else part  # an ingest without a worker knows only what was asked for
            found[key] = msgspec.structs.replace(built, accepted=known.accepted + part.accepted, rejected=known.rejected + part.rejected)
    return tuple(sorted(found.values(), key=lambda part: part.first_lumi))


def _pending(snapshots: Sequence[Snapshot]) -> Pending | None:
    """What is being prepared: it is ready where all ingests that prepare it are."""
    parts = [s.pending for s in snapshots if s.pending is not None]
    if not parts:
        return None
    waits_for = tuple(dict.fromkeys(name for part in parts for name in part.waits_for))
    return Pending(config=parts[0].config, waits_for=waits_for, error=next((part.error for part in parts if part.error), None))


def _shadow(snapshots: Sequence[Snapshot]) -> Shadow | None:
    """Counts of the shadow, added up over the ingests that have the same one."""
    parts = [s.shadow for s in snapshots if s.shadow is not None]
    if not parts:
        return None
    same = [part for part in parts if (part.config, part.fraction) == (parts[0].config, parts[0].fraction)]
    first = next((part for part in same if part.menu_hash), same[0])
    paths: dict[str, tuple[int, int, int]] = {}
    for part in same:
        for name, (both, active, shadow) in part.paths.items():
            known = paths.get(name, (0, 0, 0))
            paths[name] = (known[0] + both, known[1] + active, known[2] + shadow)
    m = [sum(column) for column in zip(*(part.matrix for part in same), strict=True)]
    return msgspec.structs.replace(
        first,
        waits_for=tuple(dict.fromkeys(name for part in same for name in part.waits_for)),
        error=next((part.error for part in same if part.error), None),
        events=sum(part.events for part in same),
        matrix=(m[0], m[1], m[2], m[3]),
        paths=paths,
        failed=sum(part.failed for part in same),
    )


def leaving(snapshot: Snapshot) -> bool:
    """Whether an ingest takes part in no run any more and is about to end."""
    return bool(snapshot.info.get("leaving"))


def staying(snapshots: Sequence[Snapshot]) -> Sequence[Snapshot]:
    """Those that say what state the farm is in: not those that leave it, unless all do."""
    return [snapshot for snapshot in snapshots if not leaving(snapshot)] or snapshots


_COUNTERS = frozenset({"stale_answers", "lost_sessions", "columns_sent", "columns_left_out"})  # in the info


def closed_books(snapshot: Snapshot) -> Snapshot:
    """What remains of an ingest that left: its counters, and the ledger of its run."""
    return msgspec.structs.replace(
        snapshot,
        workers=[],
        queue_events=0,
        slots_free=0,
        slots_total=0,
        clients=0,
        pending=None,
        shadow=None,
        problems=[],
        clients_url="",
        canary_s=0.0,
        disks={},
        outputs=(),
        info={name: value for name, value in snapshot.info.items() if name in _COUNTERS},
    )


def merge(present: Sequence[Snapshot], books: Sequence[Snapshot] = ()) -> Snapshot:
    """The farm's snapshot; `present` has one for each reachable ingest and is not empty, `books` those of ingests that left."""
    if len(present) == 1 and not books:
        return present[0]
    runs = list(dict.fromkeys(s.run for s in present if s.run is not None))
    run = max(runs, default=None)
    snapshots = [*present, *(book if book.run == run else _of_other_run(book) for book in books)]
    stages: dict[str, list[Histogram]] = {}
    for s in snapshots:
        for stage, histogram in s.stage_duration.items():
            stages.setdefault(stage, []).append(histogram)
    hashes = list(dict.fromkeys(s.menu_hash for s in present if s.menu_hash))  # an ingest without a ready worker decides nothing
    problems = list(dict.fromkeys(problem for s in snapshots for problem in s.problems))  # a worker that is lost is so for all ingests
    if len(hashes) > 1:
        problems.append(f"the ingests run different menus: {', '.join(hashes)}")
    if len(runs) > 1:
        problems.append(f"the ingests are in different runs: {', '.join(str(run) for run in runs)}")
    models = list(dict.fromkeys(models_text(s.models) for s in present if s.menu_hash))
    if len(models) > 1:
        problems.append(f"the ingests decide with different models: {'; '.join(models)}")
    return Snapshot(
        state=combined([s.state for s in staying(present)]),
        run=run,
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
        menu_hash=next(iter(hashes), ""),
        models=next((s.models for s in present if s.menu_hash), ()),
        programmes=_programmes(snapshots),
        pending=_pending(snapshots),
        shadow=_shadow(snapshots),
        lumi=max(s.lumi for s in snapshots),
        problems=problems,
        canary_s=max(s.canary_s for s in snapshots),
        started=max(s.started for s in present),
        last_decision=max(s.last_decision for s in snapshots),
        path_events=_add_int(s.path_events for s in snapshots),
        event_flags=_add_int(s.event_flags for s in snapshots),
        objects=_add_int(s.objects for s in snapshots),
        outputs=tuple(output for s in snapshots for output in s.outputs),
        info=_add_int({key: value for key, value in s.info.items() if isinstance(value, int)} for s in snapshots),
    )


def _of_other_run(book: Snapshot) -> Snapshot:
    return msgspec.structs.replace(book, ledger=LedgerCounts(), programmes=(), lumi=0)
