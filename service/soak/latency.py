"""Latencies of a load as time goes on: each interval has its own percentiles."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec
import numpy as np

from hltfarm.loadgen.load.accounting import Accounting, Latency


class Interval(msgspec.Struct, frozen=True):
    """Events decided between two looks; `until_s` since the start of the load. Milliseconds, None without an event."""

    until_s: float
    events: int
    p50_ms: float | None
    p99_ms: float | None


class _Kept(Latency):
    """A histogram that keeps every latency too, for whoever looks meanwhile (appending to an array is one step under the GIL)."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = array("d")

    def record(self, seconds: float) -> None:
        super().record(seconds)
        self.seconds.append(seconds)


class Intervals:
    """Listens to the connections of a load (`attach` before its first event) and tells of the time since the last look."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._seen: list[int] = []

    def attach(self, accountings: Sequence[Accounting]) -> None:
        """Listen to these."""
        self._kept = [_Kept() for _ in accountings]
        self._seen = [0] * len(self._kept)
        for accounting, kept in zip(accountings, self._kept, strict=True):
            accounting.latency = kept

    def look(self, at_s: float) -> Interval:
        """Everything since the last look."""
        parts = []
        for place, kept in enumerate(self._kept):
            end = len(kept.seconds)
            parts.append(np.array(kept.seconds[self._seen[place] : end]))
            self._seen[place] = end
        milliseconds = np.concatenate(parts) * 1e3 if parts else np.zeros(0)
        if not len(milliseconds):
            return Interval(at_s, 0, None, None)
        p50, p99 = np.percentile(milliseconds, [50, 99])
        return Interval(at_s, len(milliseconds), float(p50), float(p99))
