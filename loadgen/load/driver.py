"""Drives clients of an ingest along a schedule: one thread for each connection, each with its own client, backlog and accounting."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import zmq

from hltfarm.loadgen.load.accounting import Accounting, Total
from hltfarm.loadgen.load.report import LoadReport, make_report
from hltfarm.loadgen.load.schedule import Backlog, Schedule
from hltfarm.proto.errors import HltfarmError, SampleError, WireCode
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.framing import checksum
from hltfarm.proto.results import EventFlag
from hltfarm.proto.wire import Outcome
from hltfarm.service.client import Client, Decision, RefusedEvent
from hltfarm.service.security.keys import ClientCurve

#: Decisions are collected at least every so many events while sending.
BURST = 16
#: ZeroMQ waits in whole milliseconds; what is left of a gap below that is slept.
TICK_S = 1e-3
#: Longest wait for an answer in one go: so soon is a stop noticed.
PATIENCE_S = 0.1

#: Called with the numbers of events sent and answered so far.
Progress: TypeAlias = Callable[[int, int], None]

OUTCOME_NAMES = {Outcome.ACCEPT: "accepted", Outcome.REJECT: "rejected", Outcome.ERROR: "error"}


class Sender(Protocol):
    """The part of the client that a connection needs."""

    resent: int
    reconnects: int
    refused: list[RefusedEvent]
    errors: dict[WireCode, int]

    def try_send(self, event: RawEvent, *, crc: int) -> bool:
        """Send if there is credit; `crc` is that of the payload."""

    def poll(self, timeout: float = 0.0) -> list[Decision]:
        """Decisions that have come, waiting up to `timeout` seconds for the first."""


@dataclass(frozen=True, slots=True)
class Numbering:
    """How replayed events are numbered: event number = first + stride * index on the connection; unique within the run.

    lumi_s: length of a lumisection in seconds, counted from the start of the load; 0: the lumisection is that of the sample's event.
    """

    run: int
    first: int
    stride: int = 1
    lumi_s: float = 0.0
    first_lumi: int = 1

    def lumi(self, original: int, now: float) -> int:
        """Lumisection of an event that is sent `now`, in seconds since the start of the load."""
        return original if self.lumi_s == 0 else self.first_lumi + int(now / self.lumi_s)

    def number(self, index: int) -> int:
        """Event number of the event with this index."""
        return self.first + self.stride * index

    def index(self, number: int) -> int:
        """Index of an event number; -1 if it is none of this connection's."""
        index, rest = divmod(number - self.first, self.stride)
        return index if rest == 0 else -1


class Connection:
    """One source of events: offers what is due, collects the answers, keeps the accounting."""

    def __init__(
        self, sender: Sender, schedule: Schedule, numbering: Numbering, payloads: Sequence[RawEvent], accounting: Accounting
    ) -> None:
        self._sender = sender
        self._backlog = Backlog(schedule)
        self._numbering = numbering
        self._payloads = payloads
        self._crcs: list[int | None] = [None] * len(payloads)  # of those that were sent; computed once, since they come again and again
        self.accounting = accounting
        self.offer_seconds = 0.0
        self.last_answer = 0.0

    @property
    def run_number(self) -> int:
        """Run of its events."""
        return self._numbering.run

    @property
    def last_event(self) -> int:
        """Number of the last event sent; below the first one if none was."""
        return self._numbering.number(self.accounting.sent - 1)

    def run(self, clock: Callable[[], float], stopped: Callable[[], bool], patience_s: float) -> None:
        """Send the whole schedule and wait for the answers; give up after `patience_s` without any progress.

        clock: seconds since the start of the load. stopped: whether to give up now.
        """
        progress_at = clock()
        while not stopped():
            before = self.accounting.sent + self.accounting.answered
            blocked = self._offer(clock)
            if self._backlog.finished and self.accounting.waiting <= 0:
                break
            self._collect(clock, self._pause(clock(), blocked))
            if self.accounting.sent + self.accounting.answered != before or not (blocked or self.accounting.waiting):
                progress_at = clock()
            elif clock() - progress_at > patience_s:
                break
        self._note()

    def _offer(self, clock: Callable[[], float]) -> bool:
        """Send what is due, BURST events at most; True if there was no credit for an event that is due."""
        for _ in range(BURST):
            if not self._backlog.due(clock()):
                return False
            index = self.accounting.sent
            which = (self._numbering.first + self._numbering.stride * index) % len(self._payloads)
            original = self._payloads[which]
            now = clock()
            lumi = self._numbering.lumi(original.id.lumi, now)
            number = EventId(self._numbering.run, lumi, self._numbering.number(index), original.id.bx)
            crc = self._crcs[which]
            if crc is None:
                crc = self._crcs[which] = checksum(original.payload)
            if not self._sender.try_send(RawEvent(number, original.payload), crc=crc):
                return True
            self.accounting.add_sent(self._backlog.take(now), which, len(original.payload))
            self.offer_seconds = clock()
        return False

    def _pause(self, now: float, blocked: bool) -> float:
        """How long to wait for answers: until the next event is due, but not for credit that an answer would bring."""
        due_in = self._backlog.wait(now)
        return PATIENCE_S if blocked or due_in is None else min(due_in, PATIENCE_S)

    def _collect(self, clock: Callable[[], float], pause_s: float) -> None:
        decisions = self._sender.poll(max(0.0, pause_s - TICK_S))
        for decision in decisions:
            unprocessed = bool(int(decision.result["flags"]) & EventFlag.UNPROCESSED) or decision.outcome is Outcome.ERROR
            index = self._numbering.index(decision.id.event)
            now = clock()
            digest = None if unprocessed else decision.digest
            decider = (decision.menu, decision.models)
            self.accounting.add_decision(index, OUTCOME_NAMES[decision.outcome], now, digest, decision.id.lumi, decider)
            self.last_answer = now
        self._note()
        if not decisions and 0.0 < pause_s <= TICK_S:
            time.sleep(pause_s)

    def _note(self) -> None:
        """Copy the counters that others keep into the accounting."""
        accounting = self.accounting
        accounting.offered = self._backlog.offered
        accounting.backlog_peak = self._backlog.peak
        accounting.resends = self._sender.resent
        accounting.reconnects = self._sender.reconnects
        accounting.errors = Counter({code.name: count for code, count in self._sender.errors.items()})
        for refused in self._sender.refused[accounting.refused.total() :]:
            accounting.refused[refused.code.name] += 1


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """Where a load goes and how.

    ingests: endpoints of all ingests of the farm; the connections are dealt out to them in turn. connections: client connections, each an
    independent source with its share of the schedule. run: run number, None: the run that the ingests announce. first_event: number of the
    first event. open_timeout_s: longest wait for the first credit. patience_s: a connection gives up after so long without sending or
    being answered. lumi_s, first_lumi: as in Numbering.
    silence_s: a client connects anew after so long without a sign of life from its ingest.
    curve: keys, for ingests that ask for them.
    """

    ingests: tuple[str, ...]
    schedule: Schedule
    source: str
    connections: int = 1
    run: int | None = None
    first_event: int = 1
    open_timeout_s: float = 15.0
    patience_s: float = 30.0
    silence_s: float = 5.0
    lumi_s: float = 0.0
    first_lumi: int = 1
    curve: ClientCurve | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What one connection did. Seconds since the start of the load: of the last event offered, of the last answer."""

    accounting: Accounting
    run: int
    last_event: int
    offer_seconds: float
    last_answer: float


def run_load(config: LoadConfig, payloads: Sequence[RawEvent], progress: Progress | None = None) -> LoadReport:
    """Replay `payloads` in a circle along the schedule and report. `progress` is called a few times a second.

    Raises HltfarmError (a ConnectionLost among them) if an ingest does not open, LimitError for a payload that it would not take.
    """
    begin = time.process_time()
    done = run_connections(config, payloads, range(config.connections), progress=progress)
    return report_of(config, done, time.process_time() - begin)


def run_connections(
    config: LoadConfig,
    payloads: Sequence[RawEvent],
    which: Iterable[int],
    *,
    start: Callable[[], object] = lambda: None,
    progress: Progress | None = None,
    watch: Callable[[Sequence[Accounting]], object] = lambda _: None,
    stop: threading.Event | None = None,
) -> list[Done]:
    """Run the connections of a load with these numbers. `start` is called when all of them have credit, and may wait for others.

    watch: is given the accountings before the first event, to be read while the load runs. stop: ends the load early, if it is set.
    """
    if not payloads:
        raise SampleError(f"{config.source} has no events")
    shares = config.schedule.split(config.connections)
    numbers = [number for number in which if number < len(shares)]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    clients = [
        Client(
            config.ingests[number % len(config.ingests)], f"load-{number}", context=context, timeout_s=config.silence_s, curve=config.curve
        )
        for number in numbers
    ]
    try:
        for client in clients:
            _wait_open(client, config.open_timeout_s)
        connections = [
            Connection(
                client,
                shares[number],
                Numbering(
                    client.run if config.run is None else config.run,
                    config.first_event + number,
                    len(shares),
                    config.lumi_s,
                    config.first_lumi,
                ),
                payloads,
                Accounting(client.name),
            )
            for number, client in zip(numbers, clients, strict=True)
        ]
        watch([connection.accounting for connection in connections])
        start()
        if connections:
            _run_threads(connections, config.patience_s, progress, stop or threading.Event())
    finally:
        for client in clients:
            client.close()
        context.term()
    return [Done(item.accounting, item.run_number, item.last_event, item.offer_seconds, item.last_answer) for item in connections]


def report_of(config: LoadConfig, done: Sequence[Done], cpu_seconds: float) -> LoadReport:
    """The report of a load, given all its connections and the CPU time of its processes."""
    fixed_end = None if config.schedule.is_max else config.schedule.duration_s
    return make_report(
        Total([item.accounting for item in done]),
        config.schedule,
        source=config.source,
        run=done[0].run,
        events=(config.first_event, max(item.last_event for item in done)),
        offer_seconds=max(item.offer_seconds for item in done) if fixed_end is None else fixed_end,
        seconds=max(item.last_answer for item in done),
        cpu_seconds=cpu_seconds,
    )


def _wait_open(client: Client, timeout_s: float) -> None:
    try:
        client.wait_open(timeout_s)
    except TimeoutError as error:
        raise HltfarmError(f"{error}; is a run started?") from error


def _run_threads(connections: Sequence[Connection], patience_s: float, progress: Progress | None, stop: threading.Event) -> None:
    """Run every connection in its thread until all are done; the first failure stops the others and is raised."""
    start = time.monotonic()

    def clock() -> float:
        return time.monotonic() - start

    with ThreadPoolExecutor(len(connections), thread_name_prefix="load") as pool:
        futures: set[Future[None]] = {pool.submit(item.run, clock, stop.is_set, patience_s) for item in connections}
        try:
            pending = futures
            while pending:
                done, pending = wait(pending, timeout=0.25, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if progress is not None:
                    progress(sum(item.accounting.sent for item in connections), sum(item.accounting.answered for item in connections))
        finally:
            stop.set()
