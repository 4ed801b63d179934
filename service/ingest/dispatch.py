"""Dispatch: which worker gets which event, and what happens to the events of a worker that fails. Pure; no clocks, no sockets.

Events are known by their slot. Every assignment has a ticket, a number that never comes again, so that an answer for an assignment
that was revoked meanwhile (a worker thought dead that answers later) is recognised and ignored.

Failure ladder: the events a worker held when it was lost, or in a batch that failed, are suspects. Each suspect is tried again ALONE, on a
worker that has nothing else in flight, so that a poisonous event takes no innocent one along. A suspect that fails again is given up
(the caller puts it into the error stream).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Assignment(NamedTuple):
    """Events for a worker; `alone`: nothing else may be in the same batch."""

    worker: str
    slots: NDArray[np.int64]
    tickets: NDArray[np.uint64]
    alone: bool


@dataclass(slots=True)
class _Worker:
    capacity: int
    ready: bool = False
    in_flight: set[int] = field(default_factory=set)
    processed: int = 0


class Dispatcher:
    """Queue of events, workers with their credit (capacity - in flight), suspects."""

    def __init__(self, slots: int) -> None:
        self._ticket = np.zeros(slots, dtype=np.uint64)  # of the present assignment, 0: none
        self._attempts = np.zeros(slots, dtype=np.int64)  # failures so far
        self._queue: deque[int] = deque()
        self._suspects: deque[int] = deque()
        self._workers: dict[str, _Worker] = {}
        self._reserved: str | None = None  # worker that runs dry to take a suspect
        self._next_ticket = 1

    # -- workers -----------------------------------------------------------------------------------------------------------

    def add_worker(self, name: str, capacity: int) -> None:
        """A worker that is not ready yet; `capacity` events may be with it at a time. The name must be free."""
        assert name not in self._workers, name
        self._workers[name] = _Worker(capacity)

    def set_ready(self, name: str, ready: bool) -> None:
        """A worker that is not ready gets no new events; it may still finish those it has."""
        self._workers[name].ready = ready

    def remove_worker(self, name: str) -> list[int]:
        """The worker is gone, its events are suspects. Returns the events that failed for the second time: the caller decides them."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return []
        if self._reserved == name:
            self._reserved = None
        return self._blame(sorted(worker.in_flight, key=lambda slot: int(self._ticket[slot])))

    # -- events ------------------------------------------------------------------------------------------------------------

    def submit(self, slot: int) -> None:
        """A new event."""
        self._attempts[slot] = 0
        self._queue.append(slot)

    def assign(self) -> list[Assignment]:
        """Give out as many events as the credit allows: suspects first, then the queue, to the worker with the fewest in flight first."""
        assignments = self._assign_suspects() if self._suspects else []
        if not self._suspects:
            self._reserved = None
        while self._queue:
            name = self._least_loaded()
            if name is None:
                break
            worker = self._workers[name]
            credit = worker.capacity - len(worker.in_flight)
            # an even share of the queue, so that one worker with much credit does not take all
            share = max(1, min(credit, -(-len(self._queue) // max(1, len(self._workers)))))
            slots = [self._queue.popleft() for _ in range(min(share, len(self._queue)))]
            assignments.append(self._give(name, worker, slots, alone=False))
        return assignments

    def complete(self, name: str, slots: NDArray[np.int64], tickets: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Results came from a worker. Returns which of them are valid, and the attempts of those; the others are stale."""
        valid = self._valid(slots, tickets)
        done = slots[valid]
        worker = self._workers.get(name)
        if worker is not None:
            worker.in_flight.difference_update(done.tolist())
            worker.processed += len(done)
        self._ticket[done] = 0
        return valid, self._attempts[done] + 1

    def failed(self, name: str, slots: NDArray[np.int64], tickets: NDArray[np.uint64]) -> list[int]:
        """A worker could not process these events (but lives). As `remove_worker`: suspects, or given up and returned."""
        failed = slots[self._valid(slots, tickets)].tolist()
        worker = self._workers.get(name)
        if worker is not None:
            worker.in_flight.difference_update(failed)
        return self._blame(failed)

    def withdraw(self, slots: list[int]) -> None:
        """Forget these events wherever they are (the caller decides them); later answers for them are stale."""
        gone = set(slots)
        self._queue = deque(slot for slot in self._queue if slot not in gone)
        self._suspects = deque(slot for slot in self._suspects if slot not in gone)
        for worker in self._workers.values():
            worker.in_flight -= gone
        self._ticket[slots] = 0

    # -- state -------------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Events that wait for a worker, suspects included."""
        return len(self._queue) + len(self._suspects)

    @property
    def suspects(self) -> int:
        return len(self._suspects)

    @property
    def ready_workers(self) -> int:
        return sum(worker.ready for worker in self._workers.values())

    def load(self, name: str) -> tuple[int, int, int]:
        """(credit, in flight, processed) of a worker, in events."""
        worker = self._workers[name]
        credit = worker.capacity - len(worker.in_flight) if worker.ready else 0
        return credit, len(worker.in_flight), worker.processed

    def held(self, name: str) -> list[int]:
        """Events that are with a worker."""
        worker = self._workers.get(name)
        return [] if worker is None else sorted(worker.in_flight)

    def attempts(self, slot: int) -> int:
        """Failures of the event so far."""
        return int(self._attempts[slot])

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _valid(self, slots: NDArray[np.int64], tickets: NDArray[np.uint64]) -> NDArray[np.bool_]:
        inside = (slots >= 0) & (slots < len(self._ticket)) & (tickets != 0)
        valid: NDArray[np.bool_] = inside & (self._ticket[np.where(inside, slots, 0)] == tickets)
        if len(np.unique(slots)) < len(slots):  # a confused peer: each slot counts once
            once = np.zeros(len(slots), dtype=np.bool_)
            once[np.unique(slots, return_index=True)[1]] = True
            valid &= once
        return valid

    def _blame(self, slots: list[int]) -> list[int]:
        given_up = []
        for slot in slots:
            self._ticket[slot] = 0
            self._attempts[slot] += 1
            if self._attempts[slot] >= 2:
                given_up.append(slot)
            else:
                self._suspects.append(slot)
        return given_up

    def _assign_suspects(self) -> list[Assignment]:
        """Suspects go to idle workers; if there is none, the least loaded one is reserved: it gets nothing until it is idle."""
        assignments = []
        for name, worker in self._workers.items():
            if self._suspects and worker.ready and not worker.in_flight:
                assignments.append(self._give(name, worker, [self._suspects.popleft()], alone=True))
        ready = {name: len(worker.in_flight) for name, worker in self._workers.items() if worker.ready}
        if self._suspects and ready and (self._reserved is None or self._reserved not in ready):
            self._reserved = min(ready, key=ready.__getitem__)
        return assignments

    def _least_loaded(self) -> str | None:
        best, fewest = None, -1
        for name, worker in self._workers.items():
            load = len(worker.in_flight)
            if not worker.ready or load >= worker.capacity or name == self._reserved or self._holds_suspect(worker):
                continue
            if best is None or load < fewest:
                best, fewest = name, load
        return best

    def _holds_suspect(self, worker: _Worker) -> bool:
        # a suspect is always the only event of its worker
        return len(worker.in_flight) == 1 and self._attempts[next(iter(worker.in_flight))] > 0

    def _give(self, name: str, worker: _Worker, slots: list[int], *, alone: bool) -> Assignment:
        index = np.array(slots, dtype=np.int64)
        tickets = np.arange(self._next_ticket, self._next_ticket + len(slots), dtype=np.uint64)
        self._next_ticket += len(slots)
        self._ticket[index] = tickets
        worker.in_flight.update(slots)
        return Assignment(name, index, tickets, alone)
