"""Whether a farm stayed as it was: every quantity, its bound, and the judgement. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from hltfarm.service.soak.footprint import Footprint
from hltfarm.service.soak.latency import Interval
from hltfarm.service.soak.trend import thirds, trend

MIB = 1 << 20
FEWEST = 9  # samples after the warm-up: three for each third


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What counts as flat, from the end of the warm-up to the end of the load.

    memory_share, memory_bytes: growth of a process's own memory by the straight line through all samples; the larger of both is allowed.
    Too low calls the noise of the allocator a leak; too high lets a small leak pass: lengthen the soak rather than lower it.
    descriptors: more of them at the lowest of the last third than of the first; files of lumisections come and go.
    latency_factor, latency_ms: the median p99 of the last third against that of the first; the larger of both is allowed.
    """

    memory_share: float = 0.02
    memory_bytes: int = 4 * MIB
    descriptors: int = 4
    latency_factor: float = 1.5
    latency_ms: float = 10.0


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity. begin, end: by the line (memory), lowest of a third (descriptors, threads), median of a third (latency)."""

    subject: str
    quantity: str
    unit: str
    begin: float
    end: float
    allowed: float
    per_hour: float
    flat: bool


def judge(
    footprints: Sequence[Footprint], intervals: Sequence[Interval], warm_up_s: float, bounds: Bounds
) -> tuple[list[Judgement], list[str]]:
    """Every judgement, and what speaks against the farm in words. What came before `warm_up_s` does not count."""
    counted = [item for item in footprints if item.at_s >= warm_up_s]
    if len(counted) < FEWEST:
        return [], [f"{len(counted)} samples after the warm-up, {FEWEST} are needed: a longer --duration or a shorter --interval"]
    changed = _processes(footprints)
    if changed:
        return [], changed
    at_s = [item.at_s for item in counted]
    judgements: list[Judgement] = []
    for name in sorted(counted[0].processes):
        usages = [item.processes[name] for item in counted]
        judgements += [
            _memory(name, at_s, [usage.private_bytes for usage in usages], bounds),
            _lowest(name, "descriptors", [usage.descriptors for usage in usages], bounds.descriptors),
            _lowest(name, "threads", [usage.threads for usage in usages], 0),
        ]
    judgements.append(_memory("/dev/shm", at_s, [item.shared_bytes for item in counted], bounds))
    told, problems = _latency([item for item in intervals if item.until_s >= warm_up_s], bounds)
    judgements += told
    problems += [
        f"{item.quantity} of {item.subject}: from {item.begin:.1f} to {item.end:.1f} {item.unit} (allowed: {item.allowed:.1f} more)"
        for item in judgements
        if not item.flat
    ]
    return judgements, problems


def _processes(footprints: Sequence[Footprint]) -> list[str]:
    """Processes that came, went or were started again."""
    first = {name: usage.pid for name, usage in footprints[0].processes.items()}
    found = []
    for item in footprints:
        now = {name: usage.pid for name, usage in item.processes.items()}
        if now != first:
            names = sorted({name for name, _pid in first.items() ^ now.items()})
            found.append(f"{', '.join(names)}: not the same process after {item.at_s:.0f} s")
            break
    return found


def _memory(subject: str, at_s: Sequence[float], values: Sequence[int], bounds: Bounds) -> Judgement:
    line = trend(at_s, values)
    allowed = max(bounds.memory_share * line.begin, bounds.memory_bytes)
    return Judgement(
        subject=subject, quantity="memory", unit="MiB", begin=line.begin / MIB, end=line.end / MIB, allowed=allowed / MIB,
        per_hour=line.per_hour / MIB, flat=line.growth <= allowed,
    )  # fmt: skip


def _lowest(subject: str, quantity: str, values: Sequence[int], allowed: int) -> Judgement:
    """What comes and goes, as files and connections do, has its lowest value now and then; a leak raises that."""
    first, last = thirds(values)
    begin, end = min(first), min(last)
    flat = end - begin <= allowed
    return Judgement(subject=subject, quantity=quantity, unit="", begin=begin, end=end, allowed=allowed, per_hour=0.0, flat=flat)


def _latency(intervals: Sequence[Interval], bounds: Bounds) -> tuple[list[Judgement], list[str]]:
    values = [item.p99_ms for item in intervals if item.p99_ms is not None]
    if len(values) < FEWEST:
        return [], [f"{len(values)} intervals with decisions after the warm-up, {FEWEST} are needed"]
    first, last = thirds(values)
    begin, end = _median(first), _median(last)
    allowed = max((bounds.latency_factor - 1.0) * begin, bounds.latency_ms)
    return [
        Judgement(
            subject="clients", quantity="p99", unit="ms", begin=begin, end=end, allowed=allowed, per_hour=0.0, flat=end - begin <= allowed
        )
    ], []


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
