"""The ledger by lumisection: the same counts, for the present run. Pure.

For every lumisection, at every moment, received = accepted + rejected + error + in flight. The counts of the latest `KEPT` lumisections
that have nothing in flight are kept; one that was forgotten begins again at zero.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.messages import LedgerCounts
from hltfarm.proto.wire import Outcome

KEPT = 4096
_RECEIVED, _ACCEPTED, _REJECTED, _ERROR, _IN_FLIGHT = range(5)


class Lumisections:
    """Counts by (run, lumisection)."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._counts: OrderedDict[tuple[int, int], list[int]] = OrderedDict()
        self._touched: dict[tuple[int, int], None] = {}

    def opened(self, run: int, lumi: int) -> None:
        """An event was received."""
        counts = self._counts.get((run, lumi))
        if counts is None:
            counts = self._counts[run, lumi] = [0] * 5
            if len(self._counts) > self._kept:
                self._forget()
        if not counts[_IN_FLIGHT]:
            self._touched[run, lumi] = None
        counts[_RECEIVED] += 1
        counts[_IN_FLIGHT] += 1

    def touched(self) -> list[tuple[int, int]]:
        """The lumisections that events arrived in since the last call (those that had events in flight all the time are not repeated)."""
        keys = list(self._touched)
        self._touched.clear()
        return keys

    def decided(self, runs: NDArray[np.uint32], lumis: NDArray[np.uint32], outcomes: NDArray[np.uint8]) -> None:
        """Events were decided (arrays of the same length)."""
        keys = runs.astype(np.uint64) << np.uint64(32) | lumis
        for key in np.unique(keys).tolist():
            by_outcome = np.bincount(outcomes[keys == key], minlength=4).tolist()
            counts = self._counts[key >> 32, key & 0xFFFFFFFF]  # it is here: the events were in flight
            counts[_ACCEPTED] += by_outcome[Outcome.ACCEPT]
            counts[_REJECTED] += by_outcome[Outcome.REJECT]
            counts[_ERROR] += by_outcome[Outcome.ERROR]
            counts[_IN_FLIGHT] -= sum(by_outcome)

    def counts(self, run: int, lumi: int) -> LedgerCounts:
        """Counts of a lumisection; zeros for one that is not known."""
        received, accepted, rejected, error, in_flight = self._counts.get((run, lumi), (0, 0, 0, 0, 0))
        return LedgerCounts(received=received, accepted=accepted, rejected=rejected, error=error, in_flight=in_flight)

    def _forget(self) -> None:
        newest = next(reversed(self._counts))
        for key, counts in self._counts.items():
            if not counts[_IN_FLIGHT] and key != newest:
                del self._counts[key]
                self._touched.pop(key, None)  # nobody may ask
                return
