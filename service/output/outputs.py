"""Output of an ingest: keeps accepted events in flight until every file and every lossless consumer has them. Used by one thread.

An event that is accepted is taken, written to the file of each of its streams and offered to the consumers; when all have it, it is
released, and only then decided for its client. What cannot be written stays in flight.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from hltfarm.proto.errors import ConfigError, StateError
from hltfarm.proto.messages import ConsumerStatus, LedgerCounts, OutputStatus
from hltfarm.service.output.book import OutputBook
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.jobs import Prepare, Written
from hltfarm.service.output.settings import OutputSettings
from hltfarm.service.output.stream_door import StreamDoor
from hltfarm.service.output.subscribers import Subscribers
from hltfarm.service.output.writer import FileWriter

if TYPE_CHECKING:
    from hltfarm.service.ingest.gate import Gate

log = logging.getLogger(__name__)
END_S = 5.0  # longest wait for the writer's thread at the end; only a disk that hangs takes that long


@dataclass(slots=True)
class _Held:
    slot: int
    missing: int  # files and consumers that do not have it yet


class Outputs:
    """Files and consumers of one ingest. `descriptor` is readable when `turn` has work.

    counts, touched: of the ledger's lumisections; in_flight: events of a run. socket: a ROUTER for consumers, the owner's.
    gate: whose keys may use it, None without CURVE.
    """

    def __init__(
        self,
        settings: OutputSettings,
        counts: Callable[[int, int], LedgerCounts],
        touched: Callable[[], list[tuple[int, int]]],
        in_flight: Callable[[int], int],
        socket: zmq.Socket[bytes] | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Raises ConfigError if the folder cannot be used."""
        self.settings = settings
        self.given_up: deque[int] = deque()  #: slots of events that no output has, after `reset`: the caller decides them
        self.released: deque[int] = deque()  #: slots of events that every output has: the caller decides them
        self._counts = counts
        self._touched = touched
        self._in_flight = in_flight
        self._events: dict[int, tuple[OutputEvent, Deciders]] = {}
        self._held: dict[int, _Held] = {}
        self._slots: set[int] = set()
        self._next = 1
        self._ending: set[int] = set()
        self._rung = False
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = -1
        self._book: OutputBook | None = None
        self._writer: FileWriter | None = None
        if settings.folder is not None:
            self._lock = _own(settings.folder, self.descriptor)
            self._book = OutputBook(grace_s=settings.grace_s, file_bytes=settings.file_bytes, open_files=settings.open_files)
            self._writer = FileWriter(settings, self._wake)
        self._subscribers = Subscribers(settings.consumer_timeout_s)
        self._door = StreamDoor(socket, self._subscribers, self._events, gate) if socket is not None else None

    def _wake(self) -> None:
        if not self._rung:
            self._rung = True
            os.eventfd_write(self.descriptor, 1)

    # -- events ------------------------------------------------------------------------------------------------------------

    @property
    def wants_columns(self) -> bool:
        """Workers are to send the columns of accepted events."""
        return self.settings.columns

    @property
    def held(self) -> set[int]:
        """Slots of accepted events that wait for an output."""
        return self._slots

    def number(self) -> int:
        """A number for an event that is taken next."""
        self._next += 1
        return self._next - 1

    def take(self, events: Sequence[tuple[int, OutputEvent]], deciders: Deciders) -> None:
        """Accepted events with their slots. Each slot comes back in `released` (or, after a reset, in `given_up`)."""
        for slot, event in events:
            number = event.number
            claims = 0
            self._events[number] = (event, deciders)
            if self._door is not None:
                size = len(event.payload) + len(event.columns)
                sends, claims = self._subscribers.offer(number, size, deciders.streams_of(event.bits))
                self._door.send(sends)
            files = len(deciders.streams_of(event.bits)) if self._book is not None else 0
            self._held[number] = _Held(slot, claims + files)
            self._slots.add(slot)
            if not claims + files:
                self._release(number)
        if self._book is not None and self._writer is not None:
            self._writer.put(self._book.accept([event for _, event in events], deciders, self._counts))

    def _has(self, number: int) -> None:
        """One output more has the event."""
        held = self._held.get(number)
        if held is not None:  # else it was given up
            held.missing -= 1
            if not held.missing:
                self._release(number)

    def _release(self, number: int) -> None:
        slot = self._held.pop(number).slot
        del self._events[number]
        self._slots.discard(slot)
        self.released.append(slot)

    # -- time --------------------------------------------------------------------------------------------------------------

    def turn(self, run: int | None, now: float) -> None:
        """Take in what the writer and the consumers say."""
        if self._door is not None:
            self._door.run = run or 0
            for number in self._door.receive(now):
                self._has(number)
        writer = self._writer
        if writer is None or not self._rung:
            return
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return  # the writer is between noting that it rings and ringing; the poll tells when it has
        self._rung = False  # before the reports are read: what comes later rings again
        while writer.reports:
            report = writer.reports.popleft()
            for number in report.numbers:
                if isinstance(report, Written):
                    self._has(number)
                elif number in self._held:
                    slot = self._held.pop(number).slot
                    del self._events[number]
                    self._slots.discard(slot)
                    self.given_up.append(slot)

    def tick(self, now: float) -> None:
        """Close lumisections that are over; notice consumers that are gone."""
        self._subscribers.tick(now)
        if self._book is not None and self._writer is not None:
            self._writer.put(self._book.look(self._touched(), self._counts, now))
            for run in [run for run in self._ending if not self._in_flight(run)]:
                self._ending.discard(run)
                self._writer.put(self._book.end(run, self._counts))

    def look_at_keys(self) -> None:
        """The allow-list has changed: consumers whose keys are gone are gone, too."""
        if self._door is not None:
            self._door.look_at_keys()

    # -- runs --------------------------------------------------------------------------------------------------------------

    def prepare(self, detector: str) -> None:
        """A run with this detector will begin."""
        if self._writer is not None:
            self._writer.put([Prepare(detector)])

    def end_run(self, run: int) -> None:
        """Nothing more of the run comes: its files are closed as soon as nothing of it is in flight."""
        if self._book is not None:
            self._ending.add(run)

    @property
    def closed(self) -> bool:
        """Everything that was given to the files is done, and the files of runs that ended are closed."""
        return self._writer is None or not (self._ending or self._writer.unfinished or self._writer.reports)

    def reset(self) -> None:
        """Wait for nothing any more. Events that are not in their files come back in `given_up`; consumers miss what they do not have."""
        waiting = len(self._held)
        for number in self._subscribers.give_up():
            self._has(number)
        if self._writer is not None:
            self._writer.abandon()
        if waiting:
            log.error("reset: %d accepted events waited for the output", waiting)

    def detach(self, name: str) -> None:
        """End the subscription of a consumer and wait for it no longer. Raises StateError if there is none of that name."""
        found = self._subscribers.detach(name)
        if found is None:
            raise StateError(
                f"no consumer {name!r} of the output; there are {', '.join(s.name for s in self._subscribers.status(0)) or 'none'}"
            )
        identity, numbers = found
        log.warning("consumer %s is detached; %d events waited for it", name, len(numbers))
        if self._door is not None:
            self._door.expel(identity, f"an operator has detached the consumer {name!r}")
        for number in numbers:
            self._has(number)

    # -- state -------------------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What accepted events wait for, in words, if it does not come by itself."""
        trouble = self._writer.trouble if self._writer is not None else None
        return [*([trouble] if trouble is not None else []), *self._subscribers.problems()]

    def holds_back(self, slots: int) -> bool:
        """The farm could do more if events did not wait here: something is wrong, or half of the slots wait."""
        return bool(self._held) and (bool(self.problems()) or 2 * len(self._held) >= slots)

    def status(self, now: float) -> OutputStatus:
        """For a snapshot."""
        counts = self._writer.counts() if self._writer is not None else None
        door = self._door
        return OutputStatus(
            folder=str(self.settings.folder or ""),
            url=self.settings.url or "",
            fsync=str(self.settings.fsync),
            waiting_events=len(self._held),
            open_files=self._book.files if self._book is not None else 0,
            closed_files=counts.files if counts else 0,
            closed_bytes=counts.bytes if counts else 0,
            fsyncs=counts.fsyncs if counts else 0,
            removed_files=counts.removed_files if counts else 0,
            removed_bytes=counts.removed_bytes if counts else 0,
            recovered_files=counts.recovered_files if counts else 0,
            recovered_events=counts.recovered_events if counts else 0,
            free_bytes=counts.free_bytes if counts else -1,
            sent_events=door.sent_events if door else 0,
            sent_bytes=door.sent_bytes if door else 0,
            consumers=tuple(ConsumerStatus(**item._asdict()) for item in self._subscribers.status(now)),
        )

    def close(self) -> None:
        """End the writer's thread. Files that are open are completed by the next ingest that owns the folder."""
        self._events.clear()
        if self._writer is not None and not self._writer.close(END_S):
            log.error("the output hangs in the disk; its folder stays locked until this process ends")
            return
        os.close(self.descriptor)
        if self._lock >= 0:
            os.close(self._lock)


def _own(folder: Path, descriptor: int) -> int:
    """Lock a folder for this ingest; the lock ends with the process. Closes `descriptor` and raises ConfigError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"the folder of the output, {folder}, cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        os.close(descriptor)
        raise ConfigError(f"the folder of the output, {folder}, belongs to an ingest that is running; give each its own") from None
    return lock
