"""Role `worker`: takes events from the ingests of the same machine, reconstructs them in batches, answers. One process, one device."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket as sockets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import zmq

from hltfarm.proto import worker_link as link
from hltfarm.proto.detector import load_detector
from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.status_file import StatusFile
from hltfarm.proto.versions import versions
from hltfarm.workers.batch_trace import BatchTimes, TraceSettings
from hltfarm.workers.batching import MOST_LANES, Batcher
from hltfarm.workers.descriptors import INGEST, SIZE, Descriptor
from hltfarm.workers.engine import Build, Built, Engine, Outcome, Ready, Reconstruction
from hltfarm.workers.ingest_link import IngestLink
from hltfarm.workers.resources import Meter

if TYPE_CHECKING:
    from hltfarm.workers.tracing import Tracing

log = logging.getLogger(__name__)
#: Called with the times of a batch, and when its answers were sent.
Trace = Callable[[BatchTimes, float], None]
#: The threads that talk and that start batches need the interpreter for fractions of a millisecond; 5 ms is Python's default.
SWITCH_S = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """One worker.

    ingests: where the ingests of this host wait for workers; the worker serves all of them at once, each over its own slot ring.
    max_events, max_batch_bytes: largest batch; larger ones fill the device better, smaller ones answer sooner. 0 bytes: 288 KiB for each
    event, and room for the largest one; memory of the device goes by it.
    max_wait_s: a batch starts when its oldest event has waited so long, if the device can take one more.
    capacity: events here at a time, 0 for twice the batches that the device may take at a time, and one that is on its way.
    threads: of the CPU backend, 0 for all cores.
    fallback: take only events on which others failed, and all of them while there is no other worker.
    hang_s: a process whose batch runs longer after an ingest gave the worker up ends, so that it can be started again; 0 for the time that
    the ingest allows a batch.
    traces: where traces of batches go, None for nowhere.
    status: file that is rewritten every second as a sign of life, None for none.
    """

    name: str
    ingests: tuple[str, ...] = ("ipc:///tmp/hltfarm-workers",)
    backend: str = "auto"
    max_events: int = 64
    max_batch_bytes: int = 0
    max_wait_s: float = 0.002
    capacity: int = 0
    threads: int = 0
    fallback: bool = False
    hang_s: float = 0.0
    traces: TraceSettings | None = None
    status: Path | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for numbers that no worker can work with."""
        if not self.ingests or len(set(self.ingests)) < len(self.ingests):
            raise ConfigError(f"worker {self.name}: give the endpoint of every ingest once, not {', '.join(self.ingests) or 'none'}")
        if self.max_events < 1 or self.max_wait_s < 0:
            raise ConfigError(f"worker {self.name}: batches have at least one event and a wait that is not negative")

    @property
    def batch_bytes(self) -> int:
        """Payload of a batch at most."""
        return self.max_batch_bytes or max(8 << 20, self.max_events * (288 << 10))

    @property
    def at_a_time(self) -> int:
        """Batches that the device takes at a time, at most."""
        return 1 if self.backend == "cpu" else MOST_LANES  # auto may turn out to be a GPU

    @property
    def capacity_of_each(self) -> int:
        """Events to have from each ingest at a time: an equal share, but enough for one batch if the others are idle."""
        share = -(-(self.capacity or (2 * self.at_a_time + 1) * self.max_events) // len(self.ingests))
        return max(share, self.max_events)

    def build(self, config: RunConfig, present: Reconstruction | None) -> Built:
        """A programme, on a new reconstruction or beside the others of `present`. Raises ConfigError, ConditionsError, BackendError."""
        from hltfarm.workers.detector_cuts import for_detector
        from hltfarm.workers.menu import DEFAULT_MENU, Menu  # compiled kernels: only a process that computes loads them
        from hltfarm.workers.reconstructor import Reconstructor, load_selector
        from hltfarm.workers.run_models import configuration_of, loaded

        menu, configuration = Menu.parse(config.menu or DEFAULT_MENU), configuration_of(config)
        paths = tuple(link.PathInfo(path.name, path.stream) for path in menu.paths)
        if isinstance(present, Reconstructor):
            selector = load_selector(for_detector(configuration, present.detector).selection)
            number = present.prepare(menu=menu, selector=selector, config=configuration)
            return Built(present, number, menu.hash, paths, loaded(selector), present.detector.digest())
        detector = load_detector(config.detector)
        reconstructor = Reconstructor(
            detector,
            menu,
            backend=self.backend,
            max_events=self.max_events,
            max_batch_bytes=self.batch_bytes,
            threads=self.threads,
            config=configuration,
        )
        return Built(reconstructor, reconstructor.programme, menu.hash, paths, loaded(reconstructor.selector), detector.digest())


def run_worker(settings: WorkerSettings, build: Build | None = None) -> None:
    """Work until SIGTERM or SIGINT: then finish what is in hand, say goodbye and return. A second signal ends at once.

    Call it from the main thread. build: makes the reconstruction, `settings.build` by default.
    Raises ConfigError if the ingest's slot ring cannot be mapped here, BackendError after the device failed (a restart may help).
    """
    sys.setswitchinterval(SWITCH_S)
    signals = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    tracing = _tracing(settings)
    status = None if settings.status is None else StatusFile(settings.status, "worker")
    worker = Worker(settings, build or settings.build, trace=None if tracing is None else tracing.batch)
    try:
        while worker.turn(leave=signals > 0) and signals < 2:
            if status is not None:
                status.tell(worker.health)
    finally:
        if status is not None:
            status.remove()
        worker.close()
        if tracing is not None:
            tracing.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tracing(settings: WorkerSettings) -> Tracing | None:
    if settings.traces is None:
        return None
    from hltfarm.workers.tracing import Tracing  # OpenTelemetry may not be installed, and need not be loaded

    return Tracing(settings.traces, settings.name)


class Worker:
    """The talking half of a worker: a link to each ingest, one batcher for the events of all, and the engine that computes."""

    def __init__(
        self, settings: WorkerSettings, build: Build, clock: Callable[[], float] = time.monotonic, *, trace: Trace | None = None
    ) -> None:
        """trace: told of every batch when its answers were sent."""
        self._settings = settings
        self._clock = clock
        self._trace = trace
        self._batcher: Batcher[Descriptor] = Batcher(settings.max_events, settings.batch_bytes, settings.max_wait_s)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._bell = self._context.socket(zmq.PAIR)
        self._bell.bind("inproc://engine")
        ringer = self._context.socket(zmq.PAIR)
        ringer.connect("inproc://engine")
        self._ringer = ringer
        self._engine = Engine(build, lambda: ringer.send(b""), settings.at_a_time, note_times=trace is not None)
        self._poller = zmq.Poller()
        self._poller.register(self._bell, zmq.POLLIN)
        hello = link.Hello(
            name=settings.name,
            backend=settings.backend,
            device="",
            pid=os.getpid(),
            host=sockets.gethostname(),
            capacity=settings.capacity_of_each,
            process=secrets.randbits(63),
            fallback=settings.fallback,
            versions=versions(),
        )
        self._links = [IngestLink(number, url, self._context, self._poller, hello) for number, url in enumerate(settings.ingests)]
        self._jobs_of = [0] * len(self._links)  # jobs of each ingest that the engine has
        self._left_at: float | None = None
        self._told_to_leave = False
        self._meter = Meter(gpu=settings.backend != "cpu")

    # -- loop --------------------------------------------------------------------------------------------------------------

    def turn(self, *, leave: bool = False) -> bool:
        """Wait for something to do and do it. `leave`: finish and go. False: gone."""
        self._poller.poll(int(self._wait_s(self._clock()) * 1000 + 0.999))
        now = self._clock()
        while self._bell.poll(0):
            self._bell.recv()
        while (outcome := self._engine.next_outcome()) is not None:
            self._report(outcome)
        for peer in self._links:
            self._receive(peer, now)
        self._feed(now)
        for peer in self._links:
            if peer.keep_alive(now, self._engine.busy_s(now), self._jobs_of[peer.number] == 0, self._meter.latest):
                self._drop(peer)
            if peer.welcome is None and self._engine.busy_s(now) > (self._settings.hang_s or peer.batch_timeout_s):
                raise BackendError(
                    f"worker {self._settings.name}: a batch hangs since {self._engine.busy_s(now):.0f} s; a new process is needed"
                )
        return not ((leave or self._told_to_leave) and self._gone(now))

    def _wait_s(self, now: float) -> float:
        wait = max(0.0, min(min(peer.next_sign - now, peer.heartbeat_s) for peer in self._links))
        due = self._batcher.due_in(now) if self._engine.computing < self._engine.parallel else None
        return wait if due is None else min(wait, due)

    def _receive(self, peer: IngestLink, now: float) -> None:
        add = self._batcher.add
        for message, work in peer.messages(now):
            if isinstance(message, link.Work):
                if message.alone and work:
                    self._batcher.add_alone(work)
                    continue
                for item in work:
                    add(item, item[SIZE], now)
            elif isinstance(message, link.Configure):
                if not message.keep:
                    self._drop(peer)
                if peer.ring is not None:
                    self._jobs_of[peer.number] += 1
                    self._engine.configure(peer.number, peer.ring, message)
            elif isinstance(message, link.Canary):
                self._jobs_of[peer.number] += 1
                self._engine.canary(peer.number, message)
            elif isinstance(message, link.Retire):
                self._engine.retire(peer.number, message.generation)
            elif isinstance(message, link.Leave):
                log.info("worker %s: told to leave by the ingest at %s", self._settings.name, peer.url)
                self._told_to_leave = True
            elif isinstance(message, link.Unknown):
                self._drop(peer)

    def _drop(self, peer: IngestLink) -> None:
        """The ingest took back its events that wait here."""
        self._batcher.discard(lambda item: item[INGEST] == peer.number)

    def _feed(self, now: float) -> None:
        """Keep as many batches running as the device takes at a time and, if full ones are there, as many ready behind them."""
        while self._engine.computing < 2 * self._engine.parallel:
            batch = self._batcher.take(now, only_full=self._engine.computing >= self._engine.parallel)
            if not batch:
                return
            for number in {item[INGEST] for item in batch}:
                self._jobs_of[number] += 1
            self._engine.run(batch, self._batcher.oldest)

    def _report(self, outcome: Outcome) -> None:
        if isinstance(outcome, Ready):
            self._jobs_of[outcome.ingest] -= 1
            self._links[outcome.ingest].send(outcome.message)
            return
        for answer in outcome.answers:
            self._jobs_of[answer.ingest] -= 1
            self._links[answer.ingest].send(answer.message, answer.records.tobytes(), *answer.parts)
        if self._trace is not None and outcome.times is not None:
            self._trace(outcome.times, self._clock())
        if outcome.broken:
            for peer in self._links:
                peer.send(link.Goodbye())
            raise BackendError(f"worker {self._settings.name}: the device failed; a new process is needed")

    def _gone(self, now: float) -> bool:
        """Leave every ingest; True when none expects anything any more."""
        if self._left_at is None:
            self._left_at = now
            for peer in self._links:
                peer.leave()
        known = [peer for peer in self._links if peer.welcome is not None]
        waited = now - self._left_at
        if any(not peer.dismissed and (peer.asked_to_stay or waited <= peer.patience_s) for peer in known):
            return False
        dismissed = [peer for peer in known if peer.dismissed]
        if dismissed and (len(self._batcher) or self._engine.pending):
            return False
        for peer in dismissed:
            peer.send(link.Goodbye())
        return True

    def health(self) -> tuple[bool, str]:
        """Whether an ingest knows this worker, and how it is."""
        known = sum(peer.welcome is not None for peer in self._links)
        busy = self._engine.busy_s(self._clock())
        return (
            known > 0,
            f"known to {known} of {len(self._links)} ingests, {self._engine.computing} batches under way, the oldest for {busy:.1f} s",
        )

    def close(self) -> None:
        """End the engine and the sockets."""
        self._meter.close()
        if self._engine.close(5.0):
            self._ringer.close()
            self._bell.close()
            for peer in self._links:
                peer.close()
            self._context.term()
        else:
            log.error("worker %s: a batch does not end; it ends with the process", self._settings.name)
