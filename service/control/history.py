"""The last minutes of the farm, one sample a second, for a page that was just opened. Pure: from successive looks; time is an argument.

A sample says what happened since the one before. The looks are those that the monitor of the farm takes anyway; the first one of every
second counts, and rates are over the time that really passed between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hltfarm.proto.messages import Histogram, Snapshot
from hltfarm.service.control.link import FarmView

INTERVAL_S = 1.0
KEPT_S = 900.0
AHEAD_S = 5.0  # what a page may be ahead of the newest sample before its clock is not believed; the page uses the same


def since(present: Histogram, before: Histogram) -> Histogram:
    """What a histogram got since `before`; all of it where that is of another process (counts went back) or has other bounds."""
    if present.bounds != before.bounds or any(new < old for new, old in zip(present.counts, before.counts, strict=True)):
        return present
    counts = [new - old for new, old in zip(present.counts, before.counts, strict=True)]
    return Histogram(bounds=present.bounds, counts=counts, sum=present.sum - before.sum)


def quantile(histogram: Histogram, share: float) -> float | None:
    """The value below which so large a share lies, linear within its bin, as Prometheus does; None without entries.

    Beyond the last bound it is that bound.
    """
    total = sum(histogram.counts)
    if not total:
        return None
    wanted, below = share * total, 0
    for i, count in enumerate(histogram.counts[:-1]):
        if count and below + count >= wanted:
            low = histogram.bounds[i - 1] if i else 0.0
            return low + (histogram.bounds[i] - low) * (wanted - below) / count
        below += count
    return histogram.bounds[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One second. `time`: seconds since 1970. None: no ingest answered, or there is no second before to compare with."""

    time: float
    state: str
    received_hz: float | None = None
    accepted_hz: float | None = None
    rejected_hz: float | None = None
    error_hz: float | None = None
    in_flight: int | None = None
    mb_per_s: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    workers_ready: int | None = None
    workers: int | None = None
    paths: Mapping[str, float] = field(default_factory=dict)
    stages_ms: Mapping[str, float] = field(default_factory=dict)


#: Columns of a history besides `time`, `state`, `paths` and `stages_ms`.
NUMBERS = (
    "received_hz",
    "accepted_hz",
    "rejected_hz",
    "error_hz",
    "in_flight",
    "mb_per_s",
    "latency_p50_ms",
    "latency_p99_ms",
    "workers_ready",
    "workers",
)


class History:
    """A bounded ring of samples. wall: seconds since 1970, for people."""

    def __init__(self, wall: Callable[[], float], interval_s: float = INTERVAL_S, kept_s: float = KEPT_S) -> None:
        self.interval_s = interval_s
        self._wall = wall
        self._samples: deque[Sample] = deque(maxlen=max(1, round(kept_s / interval_s)))
        self._due = float("-inf")
        self._last: tuple[float, Snapshot] | None = None

    def observe(self, view: FarmView, now: float) -> None:
        """Take note of a look at the farm. now: monotonic seconds."""
        if now < self._due:
            return
        # on the grid of the last one, so that looks that come a little late do not make seconds longer and longer
        self._due = self._due + self.interval_s if now < self._due + self.interval_s else now + self.interval_s
        before, snapshot, wall = self._last, view.snapshot, self._wall()
        self._last = None if snapshot is None else (now, snapshot)
        if snapshot is None:
            self._samples.append(Sample(time=wall, state=str(view.state)))
        else:
            self._samples.append(_sample(view, snapshot, before, now, wall))

    def after(self, time: float | None = None) -> list[Sample]:
        """Samples newer than a time (seconds since 1970), oldest first; None: all. All, too, for a time that is yet to come here: who
        asks has it from a clock that was set back since, and would hear nothing until it has gone there again."""
        if time is None or (self._samples and time > self._samples[-1].time + AHEAD_S):
            return list(self._samples)
        found: list[Sample] = []
        for sample in reversed(self._samples):
            if sample.time <= time:
                break
            found.append(sample)
        return found[::-1]

    def path_rates(self, over: int = 10) -> dict[str, float]:
        """Accepted events per second of each path, the mean of the last samples that know of it."""
        found: dict[str, list[float]] = {}
        for sample in list(self._samples)[-over:]:
            for name, rate in sample.paths.items():
                found.setdefault(name, []).append(rate)
        return {name: sum(rates) / len(rates) for name, rates in found.items()}


def _sample(view: FarmView, snapshot: Snapshot, before: tuple[float, Snapshot] | None, now: float, wall: float) -> Sample:
    ready, workers = sum(worker.up and worker.ready for worker in snapshot.workers), len(snapshot.workers)
    plain = Sample(
        time=wall, state=str(view.state), in_flight=snapshot.totals.in_flight, workers_ready=ready, workers=workers
    )  # fmt: skip
    if before is None or now <= before[0] or not _goes_on(snapshot, before[1]):
        return plain
    dt, old = now - before[0], before[1]
    latency = since(snapshot.event_latency, old.event_latency)
    p50, p99 = quantile(latency, 0.5), quantile(latency, 0.99)
    return Sample(
        time=wall,
        state=str(view.state),
        received_hz=(snapshot.totals.received - old.totals.received) / dt,
        accepted_hz=(snapshot.totals.accepted - old.totals.accepted) / dt,
        rejected_hz=(snapshot.totals.rejected - old.totals.rejected) / dt,
        error_hz=(snapshot.totals.error - old.totals.error) / dt,
        in_flight=plain.in_flight,
        mb_per_s=(snapshot.ingest_bytes - old.ingest_bytes) / dt / 1e6,
        latency_p50_ms=None if p50 is None else 1e3 * p50,
        latency_p99_ms=None if p99 is None else 1e3 * p99,
        workers_ready=ready,
        workers=workers,
        paths={name: (value - old.path_accepts.get(name, 0)) / dt for name, value in snapshot.path_accepts.items()},
        stages_ms=_stages(snapshot.stage_duration, old.stage_duration),
    )


def _goes_on(snapshot: Snapshot, old: Snapshot) -> bool:
    """Whether no counter went back, as those of an ingest that was restarted, or does not answer any more, do."""
    present = (snapshot.totals.received, snapshot.totals.accepted, snapshot.totals.rejected, snapshot.totals.error, snapshot.ingest_bytes)
    former = (old.totals.received, old.totals.accepted, old.totals.rejected, old.totals.error, old.ingest_bytes)
    accepts = all(snapshot.path_accepts.get(name, value) >= value for name, value in old.path_accepts.items())
    return accepts and all(new >= earlier for new, earlier in zip(present, former, strict=True))


def _stages(present: Mapping[str, Histogram], before: Mapping[str, Histogram]) -> dict[str, float]:
    """Mean time of each stage of a batch in ms, of those that ran."""
    means = {}
    for stage, histogram in present.items():
        new = since(histogram, before[stage]) if stage in before else histogram
        if count := sum(new.counts):
            means[stage] = 1e3 * new.sum / count
    return means


def columns(samples: Sequence[Sample]) -> dict[str, list[float | int | str | None] | dict[str, list[float | None]]]:
    """Samples as columns of one length; a path or a stage that a sample does not know is None there."""
    found: dict[str, list[float | int | str | None] | dict[str, list[float | None]]] = {
        name: [getattr(sample, name) for sample in samples] for name in ("time", "state", *NUMBERS)
    }
    for group in ("paths", "stages_ms"):
        parts: list[Mapping[str, float]] = [getattr(sample, group) for sample in samples]
        names = dict.fromkeys(name for part in parts for name in part)
        found[group] = {name: [part.get(name) for part in parts] for name in names}
    return found
