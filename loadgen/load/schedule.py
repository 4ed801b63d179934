"""When each event is meant to be sent. Pure: no clock, no sockets; times are seconds since the start of the load.

Open loop: the schedule does not know how the server does. An event that cannot be sent at its time, because there is no credit,
is sent as soon as it can be and its latency still counts from the intended time; a slow server cannot slow down the offered load
and so hide its own delays ("coordinated omission", Gil Tene, "How NOT to measure latency", 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from hltfarm.proto.errors import ConfigError

#: Gaps of a Poisson schedule are drawn in blocks of this many.
BLOCK = 1024


class Arrival(StrEnum):
    """Spacing of the events of a fixed rate."""

    UNIFORM = "uniform"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Schedule:
    """An offered load.

    rate_hz: events per second over all connections; None for `max`: every event is due at once and credit alone limits the rate,
        so that the latency of an event counts from the moment it is sent.
    duration_s: no event is due at or after this time; None: no limit in time.
    events: at most this many events; None: no limit in number. One of the two limits must be given.
    arrival: equal gaps, or exponential ones (a Poisson process) drawn with `seed`.
    offset_s: time of the first event.
    """

    rate_hz: float | None
    duration_s: float | None = None
    events: int | None = None
    arrival: Arrival = Arrival.UNIFORM
    seed: int = 1
    offset_s: float = 0.0

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not (self.rate_hz > 0 and math.isfinite(self.rate_hz)):
            raise ConfigError(f"rate {self.rate_hz:g} Hz: a rate is a positive number, or 'max'")
        if self.duration_s is None and self.events is None:
            raise ConfigError("a load needs an end: give a duration, a number of events, or both")
        if self.duration_s is not None and not (self.duration_s > 0 and math.isfinite(self.duration_s)):
            raise ConfigError(f"duration {self.duration_s:g} s: a duration is a positive number of seconds")
        if self.events is not None and self.events < 1:
            raise ConfigError(f"{self.events} events: a load has at least one event")

    @property
    def is_max(self) -> bool:
        """Whether credit alone limits the rate."""
        return self.rate_hz is None

    def split(self, parts: int) -> list[Schedule]:
        """The same load spread over `parts` sources: uniform ones interleave, Poisson ones are independent; none with zero events."""
        counts = [None] * parts if self.events is None else [self.events // parts + (part < self.events % parts) for part in range(parts)]
        return [
            replace(
                self,
                rate_hz=None if self.rate_hz is None else self.rate_hz / parts,
                events=count,
                seed=self.seed + part,
                offset_s=0.0 if self.rate_hz is None or self.arrival is Arrival.POISSON else part / self.rate_hz,
            )
            for part, count in enumerate(counts)
            if count != 0
        ]

    def times(self) -> Iterator[float]:
        """Intended send times, ascending, in seconds since the start; all 0 for `max` (which ends by number, or by the caller's clock)."""
        for index, time in enumerate(self._unlimited()):
            if (self.events is not None and index >= self.events) or (self.duration_s is not None and time >= self.duration_s):
                return
            yield time

    def _unlimited(self) -> Iterator[float]:
        if self.rate_hz is None:
            while True:
                yield 0.0
        elif self.arrival is Arrival.UNIFORM:
            index = 0
            while True:
                yield self.offset_s + index / self.rate_hz
                index += 1
        else:
            generator = np.random.default_rng(self.seed)
            time = self.offset_s
            while True:
                for gap in generator.exponential(1.0 / self.rate_hz, BLOCK).tolist():
                    yield time
                    time += gap


class Backlog:
    """The events that are due and not yet sent, as a cursor over a schedule.

    `due(now)` tells how many events should have left by `now` and have not; `take()` hands over the intended time of the next one.
    The times of events that are not due yet are not drawn: a load without an end in number stays small in memory.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._times = schedule.times()
        self._queue: list[float] = []
        self._head = 0
        self._next: float | None = next(self._times, None)
        self.offered = 0
        self.peak = 0

    def due(self, now: float) -> int:
        """Number of events that are due at `now` and not yet taken; with `max`, 1 until the load has ended."""
        if self._schedule.is_max:
            if self._schedule.duration_s is not None and now >= self._schedule.duration_s:
                self._next = None
            return 0 if self._next is None else 1
        while self._next is not None and self._next <= now:
            self._queue.append(self._next)
            self.offered += 1
            self._next = next(self._times, None)
        waiting = len(self._queue) - self._head
        self.peak = max(self.peak, waiting)
        return waiting

    def take(self, now: float) -> float:
        """Intended time of the next due event, which the caller sends now; with `max` that is `now` itself."""
        if self._schedule.is_max:
            self.offered += 1
            self._next = next(self._times, None)
            return now
        intended = self._queue[self._head]
        self._head += 1
        if self._head > BLOCK and 2 * self._head > len(self._queue):
            del self._queue[: self._head]
            self._head = 0
        return intended

    def wait(self, now: float) -> float | None:
        """Seconds until the next event falls due; 0 when one is, None when the schedule has no further event."""
        if len(self._queue) > self._head:
            return 0.0
        return None if self._next is None else max(0.0, self._next - now)

    @property
    def finished(self) -> bool:
        """Whether every event of the schedule has been taken."""
        return self._next is None and len(self._queue) == self._head
