"""Ledger: what became of every event. Pure; time is an argument (ns, any origin).

An event is in flight from `open` to `decide`, identified by its slot; then its decision stays in a window of the last `window` decisions,
so that an event that is sent again is answered and not counted twice. For every run, at every moment,
received = accepted + rejected + error + in flight.

Memory: 130 bytes a slot; about 280 bytes a decision in the window (120 for the record, the rest for the index). A client may resend what it
has not seen decided; the window has to cover the decisions of all clients during its absence (at 30 kHz, 262144 decisions are 8.7 s).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.messages import LedgerCounts
from hltfarm.proto.results import RESULT
from hltfarm.proto.wire import DECISION, EventHeader, Outcome, Reason
from hltfarm.service.ingest.lumisections import Lumisections

KEPT_RUNS = 64  # runs whose counts are kept


@dataclass(slots=True)
class _Run:
    received: int = 0
    accepted: int = 0
    rejected: int = 0
    error: int = 0
    in_flight: int = 0
    duplicates: int = 0

    def frozen(self) -> LedgerCounts:
        return LedgerCounts(
            received=self.received,
            accepted=self.accepted,
            rejected=self.rejected,
            error=self.error,
            in_flight=self.in_flight,
            duplicates=self.duplicates,
        )


class Ledger:
    """Events in flight by slot, decided events in a window, counts by run and in total."""

    def __init__(self, slots: int, window: int = 262_144) -> None:
        self.events = np.zeros(slots, dtype=DECISION)  #: the decision record of each slot in preparation, without its result
        self._event_bytes = self.events.view(np.uint8).data  #: the same memory
        self.client = np.zeros(slots, dtype=np.int64)  #: session the decision goes to
        self.size = np.zeros(slots, dtype=np.int64)  #: payload bytes
        self._since = np.zeros(slots, dtype=np.int64)  # ns
        self._in_flight: dict[tuple[int, int], int] = {}
        self._decided: dict[tuple[int, int], int] = {}
        self._window = np.zeros(window, dtype=DECISION)
        self._window_keys: list[tuple[int, int] | None] = [None] * window
        self._next = 0
        self._runs: OrderedDict[int, _Run] = OrderedDict()
        self._totals = _Run()
        self.lumisections = Lumisections()  #: the same counts by lumisection

    # -- arrivals ----------------------------------------------------------------------------------------------------------

    def in_flight_slot(self, run: int, event: int) -> int | None:
        """Slot of an event in flight, None if it is not."""
        return self._in_flight.get((run, event))

    def decided(self, run: int, event: int, cookie: int) -> NDArray[np.void] | None:
        """Decision (one record) of an event in the window, with the cookie of its new sending, else None. Counts a duplicate."""
        place = self._decided.get((run, event))
        if place is None:
            return None
        self._count_duplicate(run)
        record = self._window[place : place + 1].copy()
        record["cookie"] = cookie
        return record

    def rebind(self, slot: int, client: int, cookie: int) -> int:
        """The event in this slot was sent again: its decision goes to `client`. Counts a duplicate; returns the former session."""
        former = int(self.client[slot])
        self.client[slot] = client
        self.events["cookie"][slot] = cookie
        self._count_duplicate(int(self.events["run"][slot]))
        return former

    def open(self, slot: int, header: EventHeader, client: int, now_ns: int) -> None:
        """Enter a new event; the caller has asked `in_flight_slot` and `decided` before."""
        self._in_flight[header.run, header.event] = slot
        _OPEN.pack_into(
            self._event_bytes, slot * DECISION.itemsize, header.run, header.lumi, header.event, header.bx, 0, 0, 0, header.cookie, 0, 0, 0
        )
        self.client[slot] = client
        self.size[slot] = header.body_bytes
        self._since[slot] = now_ns
        run = self._run(header.run)
        for counts in (run, self._totals):
            counts.received += 1
            counts.in_flight += 1
        self.lumisections.opened(header.run, header.lumi)

    # -- decisions ---------------------------------------------------------------------------------------------------------

    def decide(
        self,
        slots: NDArray[np.int64],
        results: NDArray[np.void] | None,
        attempts: NDArray[np.int64] | int,
        now_ns: int,
        reason: Reason = Reason.NONE,
        flags: int = 0,
        decided_by: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None = None,
    ) -> NDArray[np.void]:
        """Close the events in `slots` (all in flight) and return their DECISION records.

        results: RESULT rows, whose `accept` decides; None: the events go to the error stream for `reason`, with event flags `flags`.
        decided_by: menus and models of the events, as decisions name them.
        """
        records = self.events[slots]
        if results is None:
            outcome: NDArray[np.uint8] | int = Outcome.ERROR
            records["result"] = np.zeros((), dtype=RESULT)
            records["result"]["flags"] = flags
        else:
            outcome = np.where(results["accept"] != 0, np.uint8(Outcome.ACCEPT), np.uint8(Outcome.REJECT))
            records["result"] = results
            if decided_by is not None:
                records["menu"], records["models"] = decided_by
        records["outcome"] = outcome
        records["reason"] = reason
        records["attempts"] = attempts
        records["latency_ns"] = np.maximum(now_ns - self._since[slots], 0)  # admitted after the turn's clock was read
        self._count(records["run"], records["outcome"])
        self.lumisections.decided(records["run"], records["lumi"], records["outcome"])
        self._remember(records)
        return records

    def _remember(self, records: NDArray[np.void]) -> None:
        window, keys, place = len(self._window_keys), self._window_keys, self._next
        in_flight, decided = self._in_flight, self._decided
        for key in zip(records["run"].tolist(), records["event"].tolist(), strict=True):
            del in_flight[key]
            old = keys[place]
            if old is not None:
                del decided[old]
            keys[place] = key
            decided[key] = place
            place = place + 1 if place + 1 < window else 0
        places = (self._next + np.arange(len(records))) % window
        self._window[places] = records
        self._next = place

    def _count(self, runs: NDArray[np.uint32], outcomes: NDArray[np.uint8]) -> None:
        for number in np.unique(runs).tolist():
            by_outcome = np.bincount(outcomes[runs == number], minlength=4).tolist()
            run = self._run(number)
            for counts in (run, self._totals):
                counts.accepted += by_outcome[Outcome.ACCEPT]
                counts.rejected += by_outcome[Outcome.REJECT]
                counts.error += by_outcome[Outcome.ERROR]
                counts.in_flight -= sum(by_outcome)

    # -- counts ------------------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def remembered(self) -> int:
        """Decisions in the window."""
        return len(self._decided)

    def slots_in_flight(self) -> list[int]:
        return list(self._in_flight.values())

    def counts(self, run: int) -> LedgerCounts:
        """Counts of a run; zeros for one that is not known (the last `KEPT_RUNS` runs are)."""
        entry = self._runs.get(run)
        return entry.frozen() if entry is not None else LedgerCounts()

    def totals(self) -> LedgerCounts:
        """Counts of all runs since the start of the ingest."""
        return self._totals.frozen()

    def _count_duplicate(self, run: int) -> None:
        self._run(run).duplicates += 1
        self._totals.duplicates += 1

    def _run(self, number: int) -> _Run:
        entry = self._runs.get(number)
        if entry is None:
            entry = self._runs[number] = _Run()
            idle = [known for known, counts in self._runs.items() if counts.in_flight == 0 and known != number]
            for known in idle[: max(0, len(self._runs) - KEPT_RUNS)]:
                del self._runs[known]
        return entry


#: All of a DECISION record before its result; a twentieth of the time that numpy takes for one record.
_OPEN = struct.Struct("<IIQIBBHQQQQ")
assert _OPEN.size + RESULT.itemsize == DECISION.itemsize
