"""What became of every event of a load. Pure: no sockets and no clock; times are seconds since the start of the load.

Events are known by their index, 0, 1, 2, ... in order of sending. A load is closed when every event that was offered has been sent
and answered by exactly one decision.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

#: Latencies are kept in microseconds, from 1 us to 1 h, to three significant digits.
LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}

_SENT, _ANSWERED = 1, 2


class Latency:
    """Latencies of many events, in seconds in and milliseconds out."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        self._sum = 0.0
        self._max = 0.0

    @property
    def count(self) -> int:
        """Number of latencies recorded."""
        return int(self._histogram.get_total_count())

    def record(self, seconds: float) -> None:
        """Add one latency; values outside of the range of the histogram count at its border."""
        self._sum += seconds
        self._max = max(self._max, seconds)
        self._histogram.record_value(min(max(round(seconds * 1e6), LOWEST_US), HIGHEST_US))

    def summary(self) -> dict[str, float | None]:
        """Percentiles, mean and maximum in milliseconds; None for each while nothing was recorded."""
        if not self.count:
            return dict.fromkeys([*PERCENTILES, "max", "mean"])
        values: dict[str, float | None] = {
            name: self._histogram.get_value_at_percentile(percentile) / 1e3 for name, percentile in PERCENTILES.items()
        }
        return values | {"max": self._max * 1e3, "mean": self._sum / self.count * 1e3}


@dataclass(slots=True)
class Connection:
    """Numbers of one connection."""

    name: str
    sent: int = 0
    answered: int = 0
    resends: int = 0
    latency: Latency = field(default_factory=Latency)


class Accounting:
    """Ledger of the client side.

    outcomes: decisions by outcome, first ones only. duplicates: further decisions for an event that already has one.
    unexpected: decisions for events that were never sent. refused: error frames, by code. irreproducible: events whose digest
    differs from that of an earlier event with the same payload (the farm promises that there is none).
    """

    def __init__(self, connections: int) -> None:
        self.connections = [Connection(f"load-{index}") for index in range(connections)]
        self.latency = Latency()
        self.outcomes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.duplicates = 0
        self.unexpected = 0
        self.irreproducible = 0
        self._state = bytearray()
        self._intended = array("d")
        self._payload = array("q")
        self._digest: dict[int, int] = {}

    @property
    def sent(self) -> int:
        """Number of events sent, resends not counted."""
        return len(self._state)

    @property
    def answered(self) -> int:
        """Number of events with a decision."""
        return self.outcomes.total()

    @property
    def unanswered(self) -> int:
        """Number of events sent that have no decision (yet)."""
        return self.sent - self.answered

    def add_sent(self, connection: int, intended: float, payload: int) -> int:
        """Enter the next event; `payload` tells which event of the source it repeats. Returns its index."""
        self._state.append(_SENT)
        self._intended.append(intended)
        self._payload.append(payload)
        self.connections[connection].sent += 1
        return len(self._state) - 1

    def add_decision(self, connection: int, index: int, outcome: str, now: float, digest: int | None = None) -> None:
        """Enter a decision. `digest` of the reconstructed event, None for one that was not reconstructed."""
        if not 0 <= index < len(self._state):
            self.unexpected += 1
            return
        if self._state[index] == _ANSWERED:
            self.duplicates += 1
            return
        self._state[index] = _ANSWERED
        self.outcomes[outcome] += 1
        self.connections[connection].answered += 1
        latency = max(0.0, now - self._intended[index])
        self.latency.record(latency)
        self.connections[connection].latency.record(latency)
        if digest is not None and self._digest.setdefault(self._payload[index], digest) != digest:
            self.irreproducible += 1

    def add_refusal(self, code: str) -> None:
        """Enter an error frame of the server."""
        self.refused[code] += 1

    def problems(self, offered: int) -> list[str]:
        """Why the load is not closed, in words; empty when `offered` events were sent and each was answered once."""
        found = [
            (offered - self.sent, "never sent: no credit before the time-out"),
            (self.unanswered, "sent and not answered"),
            (self.duplicates, "answered more than once"),
            (self.unexpected, "answered but never sent"),
            (self.irreproducible, "with another digest than the same payload had before"),
        ]
        problems = [f"{count} event{'s' * (count != 1)} {what}" for count, what in found if count]
        problems += [f"{count} frame{'s' * (count != 1)} refused: {code}" for code, count in sorted(self.refused.items())]
        return problems
