"""What is measured of a farm, and where its knee is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Setting:
    """A farm that is measured. `deadline_ms`: how long an idle worker waits for a batch to fill."""

    ingests: int
    transport: str
    deadline_ms: float

    def __str__(self) -> str:
        return f"{self.ingests} ingest{'s' * (self.ingests > 1)}, {self.transport}, deadline {self.deadline_ms:g} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One load. offered_hz: None where credit alone limited it.

    latency_ms counts from the intended send time (at `max`: from the send). cores: CPU cores in use, by role. ledger: of this load, in the
    farm; mismatch: events by which the ledgers of the ingests do not close, or differ from what the clients sent.
    share: reached rate as part of what the chain does in process. kept: latency and rate stayed within the limits.
    """

    offered_hz: float | None
    reached_hz: float
    gb_per_s: float
    latency_ms: dict[str, float | None]
    cores: dict[str, float]
    ledger: dict[str, int]
    mismatch: int
    backlog_peak: int
    seconds: float
    share: float | None
    kept: bool
    problems: list[str] = field(default_factory=list)


def keeps_up(offered_hz: float, reached_hz: float, p99_ms: float | None, limit_ms: float) -> bool:
    """Whether a farm keeps up with a rate: 99 % of the events are answered within the limit of their intended time, and 95 % of the rate
    (the time to the last answer counts, a few milliseconds more than the load lasted) is reached."""
    return reached_hz >= 0.95 * offered_hz and p99_ms is not None and p99_ms <= limit_ms


def knee(points: Sequence[Point]) -> Point | None:
    """The highest offered rate that the farm kept up with, below the first with which it did not; None if there is none."""
    best = None
    for point in sorted((p for p in points if p.offered_hz is not None), key=lambda p: p.offered_hz or 0.0):
        if not point.kept:
            break
        best = point
    return best


def rising(saturation_hz: float, fractions: Sequence[float]) -> list[float]:
    """Offered rates, ascending, as parts of the rate at which credit stopped the clients."""
    return [round(fraction * saturation_hz, 1) for fraction in sorted(fractions)]
