"""Dispatch: which worker gets which event, and what happens to the events of a worker that fails. Pure; no clocks, no sockets.

Events are known by their slot. Every assignment has a ticket, a number that never comes again, so that an answer for an assignment
that was revoked meanwhile (a worker thought dead that answers later) is recognised and ignored.

Failure ladder, from the batch to the event, so that a poisonous event takes no innocent one along:

    a batch that raised an exception   its halves are tried again, each as a batch of its own, down to single events
    a worker that was lost             each event that it held is tried again alone (halves would cost a worker for each step)
    an event that fails alone          once more on another worker, if there is one
    and there                          on a worker with the CPU backend, unless one has failed on it already; or on the fallback worker
    and there                          given up: the caller force-accepts it into the error stream

Events on trial go to a worker that has nothing else in flight, before all others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Assignment(NamedTuple):
    """Events for a worker; `alone`: nothing else may be in the same batch."""

    worker: str
    slots: NDArray[np.int64]
    tickets: NDArray[np.uint64]
    alone: bool


class Rung(IntEnum):
    """How far an event has come on the ladder."""

    IN_COMPANY = 0
    ALONE = 1
    OTHER_WORKER = 2
    CPU = 3


@dataclass(slots=True)
class _Worker:
    capacity: int
    cpu: bool = True
    fallback: bool = False  # takes events of the queue only while no other worker is ready
    ready: bool = False
    in_flight: set[int] = field(default_factory=set)
    on_trial: bool = False  # what it has in flight is a trial
    processed: int = 0


@dataclass(frozen=True, slots=True)
class _Trial:
    """Events to be tried together. `avoid`, `cpu` (the last rung, for which fallback workers are meant) hold as long as such a worker is
    ready.
    """

    slots: list[int]
    avoid: frozenset[str] = frozenset()
    cpu: bool = False


class Dispatcher:
    """Queue of events, workers with their credit (capacity - in flight), events on trial."""

    def __init__(self, slots: int) -> None:
        self._ticket = np.zeros(slots, dtype=np.uint64)  # of the present assignment, 0: none
        self._attempts = np.zeros(slots, dtype=np.int64)  # failures so far
        self._rung = np.zeros(slots, dtype=np.int8)
        self._tried: dict[int, set[str]] = {}  # workers on which an event failed alone
        self._on_cpu: set[int] = set()  # events of which one was a CPU worker
        self._queue: deque[int] = deque()
        self._trials: deque[_Trial] = deque()
        self._workers: dict[str, _Worker] = {}
        self._reserved: str | None = None  # worker that runs dry to take a trial
        self._next_ticket = 1

    # -- workers -----------------------------------------------------------------------------------------------------------

    def add_worker(self, name: str, capacity: int, *, cpu: bool = True, fallback: bool = False) -> None:
        """A worker that is not ready yet; `capacity` events may be with it at a time. The name must be free."""
        assert name not in self._workers, name
        self._workers[name] = _Worker(capacity, cpu, fallback)

    def set_ready(self, name: str, ready: bool) -> None:
        """A worker that is not ready gets no new events; it may still finish those it has."""
        self._workers[name].ready = ready

    def remove_worker(self, name: str) -> list[int]:
        """The worker is gone, its events go on trial one by one. Returns those that came to the ladder's end: the caller decides them."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return []
        if self._reserved == name:
            self._reserved = None
        slots = sorted(worker.in_flight, key=lambda slot: int(self._ticket[slot]))
        self._take_back(slots)
        if len(slots) == 1:
            return self._failed_alone(slots[0], name, worker.cpu)
        for slot in slots:
            self._rung[slot] = max(int(self._rung[slot]), Rung.ALONE)
            self._trials.append(_Trial([slot]))
        return []

    # -- events ------------------------------------------------------------------------------------------------------------

    def submit(self, slot: int) -> None:
        """A new event."""
        self._attempts[slot] = self._rung[slot] = 0
        self._queue.append(slot)

    def assign(self) -> list[Assignment]:
        """Give out as many events as the credit allows: trials first, then the queue, to the worker with the fewest in flight first."""
        assignments = self._assign_trials() if self._trials else []
        if not self._trials:
            self._reserved = None
        while self._queue:
            name = self._least_loaded()
            if name is None:
                break
            worker = self._workers[name]
            credit = worker.capacity - len(worker.in_flight)
            # an even share of the queue, so that one worker with much credit does not take all
            share = max(1, min(credit, -(-len(self._queue) // sum(1 for _ in self._open_to_all()))))
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
        attempts: NDArray[np.int64] = self._attempts[done] + 1
        if self._tried:
            self._acquit(done.tolist())
        return valid, attempts

    def failed(self, name: str, slots: NDArray[np.int64], tickets: NDArray[np.uint64]) -> list[int]:
        """A batch with these events failed in a worker that lives. Returns the events that came to the ladder's end."""
        failed = slots[self._valid(slots, tickets)].tolist()
        worker = self._workers.get(name)
        if worker is not None:
            worker.in_flight.difference_update(failed)
        self._take_back(failed)
        if len(failed) == 1:
            return self._failed_alone(failed[0], name, worker.cpu if worker is not None else True)
        middle = (len(failed) + 1) // 2
        for half in (failed[:middle], failed[middle:]):
            if len(half) == 1:
                self._rung[half[0]] = Rung.ALONE
            if half:
                self._trials.append(_Trial(half))
        return []

    def withdraw(self, slots: list[int]) -> None:
        """Forget these events wherever they are (the caller decides them); later answers for them are stale."""
        gone = set(slots)
        self._queue = deque(slot for slot in self._queue if slot not in gone)
        left = (_Trial([slot for slot in trial.slots if slot not in gone], trial.avoid, trial.cpu) for trial in self._trials)
        self._trials = deque(trial for trial in left if trial.slots)
        for worker in self._workers.values():
            worker.in_flight -= gone
        self._ticket[slots] = 0
        self._acquit(slots)

    # -- state -------------------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Events that wait for a worker, those on trial included."""
        return len(self._queue) + self.suspects

    @property
    def unfinished(self) -> int:
        """Events that wait for a worker or are with one."""
        return self.queued + sum(len(worker.in_flight) for worker in self._workers.values())

    @property
    def suspects(self) -> int:
        """Events that wait for a trial."""
        return sum(len(trial.slots) for trial in self._trials)

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

    # -- the ladder --------------------------------------------------------------------------------------------------------

    def _take_back(self, slots: list[int]) -> None:
        self._ticket[slots] = 0
        self._attempts[slots] += 1

    def _failed_alone(self, slot: int, name: str, cpu: bool) -> list[int]:
        """An event failed with nothing beside it. Puts it on the next rung that there is; returns it if there is none."""
        rung = int(self._rung[slot])
        if rung == Rung.IN_COMPANY:  # by chance alone: that says no more of it than of a batch
            self._try_again(slot, Rung.ALONE)
            return []
        tried = self._tried.setdefault(slot, set())
        tried.add(name)
        if cpu:
            self._on_cpu.add(slot)
        if rung == Rung.ALONE and any(
            worker.ready and other not in tried and not worker.fallback for other, worker in self._workers.items()
        ):
            self._try_again(slot, Rung.OTHER_WORKER)
            return []
        if any(
            worker.ready and worker.cpu and other not in tried and (worker.fallback or slot not in self._on_cpu)
            for other, worker in self._workers.items()
        ):
            self._try_again(slot, Rung.CPU)
            return []
        self._acquit([slot])
        return [slot]

    def _try_again(self, slot: int, rung: Rung) -> None:
        self._rung[slot] = rung
        self._trials.append(_Trial([slot], frozenset(self._tried.get(slot, ())), rung is Rung.CPU))

    def _acquit(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._tried.pop(slot, None)
            self._on_cpu.discard(slot)

    def _suited(self, trial: _Trial) -> dict[str, _Worker]:
        """Ready workers for a trial: those it asks for if there are any, else whoever is there."""
        ready = {name: worker for name, worker in self._workers.items() if worker.ready}
        suited = {name: worker for name, worker in ready.items() if name not in trial.avoid and (worker.cpu or not trial.cpu)}
        meant = {name: worker for name, worker in suited.items() if worker.fallback is trial.cpu}
        return meant or suited or ready

    def _assign_trials(self) -> list[Assignment]:
        """Trials go to idle workers; for the first that finds none, the least loaded one is reserved: it gets nothing until it is idle."""
        assignments: list[Assignment] = []
        waiting: deque[_Trial] = deque()
        idle = {name for name, worker in self._workers.items() if worker.ready and not worker.in_flight}
        for trial in self._trials:
            name = next((name for name in self._suited(trial) if name in idle), None) if idle else None
            if name is None:
                waiting.append(trial)
            else:
                idle.discard(name)
                assignments.append(self._give(name, self._workers[name], trial.slots, alone=True))
        self._trials = waiting
        suited = self._suited(waiting[0]) if waiting else {}
        if self._reserved not in suited:
            self._reserved = min(suited, key=lambda name: len(suited[name].in_flight), default=None)
        return assignments

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _valid(self, slots: NDArray[np.int64], tickets: NDArray[np.uint64]) -> NDArray[np.bool_]:
        inside = (slots >= 0) & (slots < len(self._ticket)) & (tickets != 0)
        valid: NDArray[np.bool_] = inside & (self._ticket[np.where(inside, slots, 0)] == tickets)
        if len(np.unique(slots)) < len(slots):  # a confused peer: each slot counts once
            once = np.zeros(len(slots), dtype=np.bool_)
            once[np.unique(slots, return_index=True)[1]] = True
            valid &= once
        return valid

    def _open_to_all(self) -> Iterator[tuple[str, _Worker]]:
        """Ready workers for events of the queue: fallback workers only where there is no other."""
        ready = [(name, worker) for name, worker in self._workers.items() if worker.ready]
        regular = [(name, worker) for name, worker in ready if not worker.fallback]
        yield from regular or ready

    def _least_loaded(self) -> str | None:
        best, fewest = None, -1
        for name, worker in self._open_to_all():
            load = len(worker.in_flight)
            if load >= worker.capacity or name == self._reserved or (worker.on_trial and load):
                continue
            if best is None or load < fewest:
                best, fewest = name, load
        return best

    def _give(self, name: str, worker: _Worker, slots: list[int], *, alone: bool) -> Assignment:
        index = np.array(slots, dtype=np.int64)
        tickets = np.arange(self._next_ticket, self._next_ticket + len(slots), dtype=np.uint64)
        self._next_ticket += len(slots)
        self._ticket[index] = tickets
        worker.in_flight.update(slots)
        worker.on_trial = alone
        return Assignment(name, index, tickets, alone)
