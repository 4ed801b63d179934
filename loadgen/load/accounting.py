"""What became of every event of a load. Pure: no sockets and no clock; times are seconds since the start of the load.

Every connection keeps its own Accounting, in its own thread; `Total` adds them up. Events are known by their index, 0, 1, 2, ... in
order of sending on the connection. A load is closed when every event that was offered has been sent
and answered by exactly one decision.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from hdrh.histogram import HdrHistogram

#: Latencies are kept in microseconds, from 1 us to 1 h, to three significant digits.
LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3

#: What decided an event: the menu's hash, and the identity of the models.
Decider: TypeAlias = tuple[str, int]
NOBODY: Decider = ("", 0)

#: What is noted of an event that was answered; 0 while it was not.
ANSWERS = {"accepted": 1, "rejected": 2, "error": 3}

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


class Latency:
    """Latencies of many events, in seconds in and milliseconds out."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        self._sum = 0.0
        self._max = 0.0

    def __getstate__(self) -> tuple[bytes, float, float]:
        """For another process: the histogram in its own encoding, which keeps every count."""
        return self._histogram.encode(), self._sum, self._max

    def __setstate__(self, state: tuple[bytes, float, float]) -> None:
        encoded, self._sum, self._max = state
        self._histogram = HdrHistogram.decode(encoded)

    @property
    def count(self) -> int:
        """Number of latencies recorded."""
        return int(self._histogram.get_total_count())

    def record(self, seconds: float) -> None:
        """Add one latency; values outside of the range of the histogram count at its border."""
        self._sum += seconds
        self._max = max(self._max, seconds)
        self._histogram.record_value(min(max(round(seconds * 1e6), LOWEST_US), HIGHEST_US))

    def add(self, other: Latency) -> None:
        """Add all latencies of another histogram."""
        self._sum += other._sum
        self._max = max(self._max, other._max)
        self._histogram.add(other._histogram)

    def summary(self) -> dict[str, float | None]:
        """Percentiles, mean and maximum in milliseconds; None for each while nothing was recorded."""
        if not self.count:
            return dict.fromkeys([*PERCENTILES, "max", "mean"])
        # The histogram answers with the upper end of a bucket, which can lie above the largest value.
        values: dict[str, float | None] = {
            name: min(self._histogram.get_value_at_percentile(percentile) / 1e3, self._max * 1e3)
            for name, percentile in PERCENTILES.items()
        }
        return values | {"max": self._max * 1e3, "mean": self._sum / self.count * 1e3}


class Accounting:
    """Ledger of one connection, on the client side.

    outcomes: decisions by outcome, first ones only. duplicates: further decisions for an event that already has one.
    unexpected: decisions for events that were never sent. refused: events that the ingest will not take, by code.
    errors: error frames of the ingest by code, those included that only made the client wait and send again.
    deciders: events by lumisection and what decided them (menu's hash, models), those aside that could not be processed.
    digests: of each payload of the source, as first reported by each decider. irreproducible: events whose digest differs from that.
    forced: indices of the events that the farm could not process (outcome `error`).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.latency = Latency()
        self.outcomes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.duplicates = 0
        self.unexpected = 0
        self.irreproducible = 0
        self.resends = 0
        self.reconnects = 0
        self.offered = 0
        self.backlog_peak = 0
        self.sent_bytes = 0
        self.deciders: Counter[tuple[int, Decider]] = Counter()
        self.digests: dict[tuple[int, Decider], int] = {}
        self.forced = array("q")
        self._answered = bytearray()
        self._intended = array("d")
        self._payload = array("q")

    @property
    def sent(self) -> int:
        """Number of events sent, resends not counted."""
        return len(self._answered)

    @property
    def answered(self) -> int:
        """Number of events with a decision."""
        return self.outcomes.total()

    @property
    def waiting(self) -> int:
        """Number of events sent whose decision may still come: those refused for good get none."""
        return self.sent - self.answered - self.refused.total()

    def indices(self, outcome: str) -> list[int]:
        """Events that were answered like this (`ANSWERS`), in the order of sending."""
        answer = ANSWERS[outcome]
        return [index for index, found in enumerate(bytes(self._answered)) if found == answer]

    def add_sent(self, intended: float, payload: int, size: int) -> int:
        """Enter the next event: its intended time, which event of the source it repeats, its bytes. Returns its index."""
        self._answered.append(0)
        self._intended.append(intended)
        self._payload.append(payload)
        self.sent_bytes += size
        return len(self._answered) - 1

    def add_decision(
        self, index: int, outcome: str, now: float, digest: int | None = None, lumi: int = 0, decider: Decider = NOBODY
    ) -> None:
        """Enter a decision. `digest` of the reconstructed event, None for one that was not reconstructed."""
        if not 0 <= index < len(self._answered):
            self.unexpected += 1
            return
        if self._answered[index]:
            self.duplicates += 1
            return
        self._answered[index] = ANSWERS[outcome]
        self.outcomes[outcome] += 1
        if outcome == "error":
            self.forced.append(index)
        self.latency.record(max(0.0, now - self._intended[index]))
        if digest is not None:
            self.deciders[lumi, decider] += 1
            if self.digests.setdefault((self._payload[index], decider), digest) != digest:
                self.irreproducible += 1


class Total:
    """Sum over the connections of a load; a snapshot of the moment it is made."""

    def __init__(self, connections: Sequence[Accounting]) -> None:
        self.connections = connections
        self.offered = sum(item.offered for item in connections)
        self.sent = sum(item.sent for item in connections)
        self.answered = sum(item.answered for item in connections)
        self.duplicates = sum(item.duplicates for item in connections)
        self.unexpected = sum(item.unexpected for item in connections)
        self.resends = sum(item.resends for item in connections)
        self.reconnects = sum(item.reconnects for item in connections)
        self.backlog_peak = sum(item.backlog_peak for item in connections)
        self.sent_bytes = sum(item.sent_bytes for item in connections)
        self.outcomes = sum((item.outcomes for item in connections), Counter[str]())
        self.refused = sum((item.refused for item in connections), Counter[str]())
        self.errors = sum((item.errors for item in connections), Counter[str]())
        self.latency = Latency()
        digests: dict[tuple[int, Decider], int] = {}
        self.irreproducible = 0
        for item in connections:
            self.latency.add(item.latency)
            differ = sum(digests.setdefault(key, digest) != digest for key, digest in item.digests.items())
            self.irreproducible += item.irreproducible + differ

    @property
    def unanswered(self) -> int:
        """Number of events sent and neither answered nor refused."""
        return self.sent - self.answered - self.refused.total()

    @property
    def unsent(self) -> int:
        """Number of events that were due and never sent."""
        return self.offered - self.sent

    def problems(self) -> list[str]:
        """Why the load is not closed, in words; empty when every offered event was sent and answered exactly once."""
        found = [
            (self.unsent, "never sent: no credit before the time-out"),
            (self.unanswered, "sent and not answered"),
            (self.duplicates, "answered more than once"),
            (self.unexpected, "answered but never sent"),
            (self.irreproducible, "reconstructed differently from an earlier event with the same payload"),
            *((count, f"refused by the ingest: {code}") for code, count in sorted(self.refused.items())),
        ]
        return [f"{count} event{'s' * (count != 1)} {what}" for count, what in found if count]
