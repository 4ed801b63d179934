"""Whether the farm can be given events, and how fast it goes: pure, from successive looks; time is an argument (seconds).

Ready means, at this moment:
  1. every answering ingest admits events (the farm is Running or RunningDegraded);
  2. for each of them a worker is up and has its menu and detector, and one holds credit (or is busy and made progress);
  3. proof of work: while events are in flight, decisions came within `progress_s`;
  4. a canary event was reconstructed by one of the workers within `canary_s` (or four times the interval between two, if that is longer).
A process that answers but decides nothing is therefore not ready.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from hltfarm.proto.messages import Snapshot
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.merge import leaving
from hltfarm.service.runcontrol import ADMITTING


class Follower(Protocol):
    """Who makes something of successive looks."""

    def observe(self, view: FarmView, now: float) -> None:
        """Take note of a look at the farm."""
        ...


def decided(snapshot: Snapshot) -> int:
    """Events decided since the ingests started."""
    totals = snapshot.totals
    return totals.accepted + totals.rejected + totals.error


def _canary_limit(snapshot: Snapshot, at_least_s: float) -> float:
    """Longest age of a canary, 0 where none are given."""
    return max(at_least_s, 4 * snapshot.canary_s) if snapshot.canary_s else 0.0


def has_worker(snapshot: Snapshot) -> bool:
    """Whether a worker can take events of this ingest."""
    return any(worker.up and worker.ready for worker in snapshot.workers)


@dataclass(slots=True)
class Readiness:
    """Follows the farm's progress. `progress_s`: longest time that events in flight may wait for the next decision.

    `canary_s`: longest time since the last good canary; ingests that give none are not asked for one.
    """

    progress_s: float
    canary_s: float = 30.0
    _decided: int | None = None
    _since: float = 0.0  # of the last progress, or of the last moment at which nothing was in flight

    def observe(self, view: FarmView, now: float) -> None:
        """Take note of a look at the farm."""
        snapshot = view.snapshot
        if snapshot is None:
            self._decided = None
            return
        count = decided(snapshot)
        if count != self._decided or snapshot.totals.in_flight == 0:
            self._decided, self._since = count, now

    def reasons(self, view: FarmView, now: float) -> list[str]:
        """Why the farm is not ready, in words; empty when it is."""
        snapshot = view.snapshot
        if snapshot is None:
            return [ingest.error or f"ingest {ingest.endpoint} gave no snapshot" for ingest in view.ingests] or ["no ingest answers"]
        found = []
        if view.state not in ADMITTING:
            found.append(f"the farm is {view.state}; events are taken in Running and RunningDegraded")
        able = [worker for worker in snapshot.workers if worker.up and worker.ready]
        stalled = now - self._since
        parts = [(ingest, ingest.snapshot) for ingest in view.ingests if ingest.snapshot is not None]
        idle = [ingest for ingest, part in parts if not leaving(part) and not has_worker(part)]
        if not able:
            found.append(f"none of {len(snapshot.workers)} workers is ready")
        elif idle and len(view.ingests) > 1:
            found += [f"no worker is ready for the ingest {ingest.endpoint}" for ingest in idle]
        elif snapshot.totals.in_flight and stalled > self.progress_s:
            found.append(f"{snapshot.totals.in_flight} events are in flight and none was decided for {stalled:.0f} s")
        elif (limit := _canary_limit(snapshot, self.canary_s)) and not any(0 <= worker.canary_age_s <= limit for worker in able):
            found.append(f"no worker has reconstructed a canary event within {limit:g} s")
        elif not any(worker.credit_events > 0 or worker.in_flight > 0 for worker in able):
            found.append("no worker holds credit")
        return found


@dataclass(frozen=True, slots=True)
class Rates:
    """Averages over the last seconds, per second."""

    received_hz: float
    decided_hz: float
    accepted_hz: float
    bytes_per_s: float
    over_s: float


@dataclass(slots=True)
class RateMeter:
    """Rates over a sliding window of `window_s`; a counter that went back (a restarted ingest) starts the window again."""

    window_s: float
    _points: deque[tuple[float, int, int, int, int]] = field(default_factory=deque)

    def observe(self, view: FarmView, now: float) -> None:
        """Take note of a look at the farm."""
        snapshot = view.snapshot
        if snapshot is None:
            self._points.clear()
            return
        point = (now, snapshot.totals.received, decided(snapshot), snapshot.totals.accepted, snapshot.ingest_bytes)
        if self._points and any(new < old for new, old in zip(point, self._points[-1], strict=True)):
            self._points.clear()
        self._points.append(point)
        while len(self._points) > 2 and self._points[1][0] <= now - self.window_s:
            self._points.popleft()

    def rates(self) -> Rates:
        """Averages over the window; zeros before two looks."""
        if len(self._points) < 2:
            return Rates(0.0, 0.0, 0.0, 0.0, 0.0)
        first, last = self._points[0], self._points[-1]
        over = last[0] - first[0]
        if over <= 0:
            return Rates(0.0, 0.0, 0.0, 0.0, 0.0)
        received, done, accepted, size = ((b - a) / over for a, b in zip(first[1:], last[1:], strict=True))
        return Rates(received, done, accepted, size, over)
