"""Role `worker`: takes events from an ingest on the same machine, reconstructs them in batches, answers. One process, one device."""

from __future__ import annotations

import logging
import os
import signal
import socket as sockets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import zmq

from hltfarm.proto import worker_link as link
from hltfarm.proto.detector import load_detector
from hltfarm.proto.errors import BackendError
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.slots import SlotView
from hltfarm.workers.batching import Batcher
from hltfarm.workers.engine import Build, Built, Descriptor, Engine, Finished

log = logging.getLogger(__name__)
QUIET_S = 0.5  # time between hellos until an ingest answers


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """One worker.

    max_events, max_batch_bytes: largest batch; larger ones fill the device better, smaller ones answer sooner.
    max_wait_s: an idle worker starts a batch when its oldest event has waited so long.
    capacity: events here at a time, 0 for three batches: one runs, one is ready, one is on its way.
    threads: of the CPU backend, 0 for all cores.
    hang_s: a process whose batch runs longer after the ingest gave the worker up ends, so that it can be started again.
    """

    name: str
    ingest_url: str = "ipc:///tmp/hltfarm-workers"
    backend: str = "auto"
    max_events: int = 64
    max_batch_bytes: int = 32 << 20
    max_wait_s: float = 0.002
    capacity: int = 0
    threads: int = 0
    hang_s: float = 60.0

    def build(self, config: RunConfig) -> Built:
        """The reconstruction for a run. Raises ConfigError, ConditionsError, BackendError."""
        from hltfarm.workers.menu import DEFAULT_MENU, Menu  # compiled kernels: only a process that computes loads them
        from hltfarm.workers.reconstructor import Reconstructor
        from hltfarm.workers.run_models import configuration_of, loaded

        menu = Menu.parse(config.menu or DEFAULT_MENU)
        reconstructor = Reconstructor(
            load_detector(config.detector),
            menu,
            backend=self.backend,
            max_events=self.max_events,
            max_batch_bytes=self.max_batch_bytes,
            threads=self.threads,
            config=configuration_of(config),
        )
        paths = tuple(link.PathInfo(path.name, path.stream) for path in menu.paths)
        return Built(reconstructor, menu.hash, paths, loaded(reconstructor.selector))


def run_worker(settings: WorkerSettings, build: Build | None = None) -> None:
    """Work until SIGTERM or SIGINT: then finish what is in hand, say goodbye and return. A second signal ends at once.

    Call it from the main thread. build: makes the reconstruction, `settings.build` by default.
    Raises ConfigError if the ingest's slot ring cannot be mapped here, BackendError after the device failed (a restart may help).
    """
    signals = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    worker = Worker(settings, build or settings.build)
    try:
        while worker.turn(leave=signals > 0) and signals < 2:
            pass
    finally:
        worker.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


class Worker:
    """The talking half of a worker: one DEALER socket, a batcher, and the engine that computes."""

    def __init__(self, settings: WorkerSettings, build: Build, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._capacity = settings.capacity or 3 * settings.max_events
        self._batcher: Batcher[Descriptor] = Batcher(settings.max_events, settings.max_batch_bytes, settings.max_wait_s)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._connect()
        self._bell = self._context.socket(zmq.PAIR)
        self._bell.bind("inproc://engine")
        ringer = self._context.socket(zmq.PAIR)
        ringer.connect("inproc://engine")
        self._ringer = ringer
        self._engine = Engine(build, lambda: ringer.send(b""))
        self._poller = zmq.Poller()
        self._poller.register(self._bell, zmq.POLLIN)
        self._poller.register(self._socket, zmq.POLLIN)
        self._welcome: link.Welcome | None = None
        self._generation = -1
        self._heard = self._said = -float("inf")
        self._leaving = self._dismissed = False
        self._left_at = 0.0

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 1000)
        socket.setsockopt(zmq.SNDHWM, 1024)
        socket.setsockopt(zmq.RCVHWM, 4096)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.connect(self._settings.ingest_url)
        return socket

    # -- loop --------------------------------------------------------------------------------------------------------------

    def turn(self, *, leave: bool = False) -> bool:
        """Wait for something to do and do it. `leave`: finish and go. False: gone."""
        self._poller.poll(int(self._wait_s(self._clock()) * 1000 + 0.999))
        now = self._clock()
        while self._bell.poll(0):
            self._bell.recv()
        while (outcome := self._engine.next_outcome()) is not None:
            self._report(outcome)
        self._receive(now)
        self._feed(now)
        self._keep_alive(now)
        return not self._gone(leave, now)

    def _wait_s(self, now: float) -> float:
        heartbeat = self._welcome.heartbeat_s if self._welcome is not None else QUIET_S
        wait = max(0.0, self._said + heartbeat - now)
        due = self._batcher.due_in(now) if self._engine.pending == 0 else None
        return min(wait, heartbeat) if due is None else min(wait, due)

    def _receive(self, now: float) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard = now
            message = link.decode_to_worker(frames[0])
            if isinstance(message, link.Work):
                if message.generation == self._generation:
                    for item in np.frombuffer(frames[1], dtype=link.DESCRIPTOR).tolist():
                        self._batcher.add(item, item[3], now, alone=message.alone)
            elif isinstance(message, link.Welcome):
                self._welcome = message
                self._engine.attach(SlotView(Path(message.ring), message.slots, message.slot_bytes))
            elif isinstance(message, link.Configure):
                self._batcher.clear()
                self._generation = message.generation
                self._engine.configure(message.generation, message.config)
            elif isinstance(message, link.Unknown):
                self._forget()
            elif isinstance(message, link.Dismissed):
                self._dismissed = True

    def _feed(self, now: float) -> None:
        """Keep one batch running and, if a full one is there, one ready behind it."""
        while self._engine.pending < 2:
            batch = self._batcher.take(now, only_full=self._engine.pending > 0)
            if not batch:
                return
            self._engine.run(batch)

    def _report(self, outcome: link.Configured | Finished) -> None:
        if isinstance(outcome, link.Configured):
            self._send(outcome)
            return
        self._send(outcome.message, outcome.records.tobytes(), *outcome.parts)
        if outcome.broken:
            self._send(link.Goodbye())
            raise BackendError(f"worker {self._settings.name}: the device failed; a new process is needed")

    def _keep_alive(self, now: float) -> None:
        if now - self._said < (self._welcome.heartbeat_s if self._welcome is not None else QUIET_S):
            return
        self._said = now
        if self._welcome is not None and now - self._heard > self._welcome.timeout_s:
            log.error("worker %s: the ingest is silent; connecting again", self._settings.name)
            self._poller.unregister(self._socket)
            self._socket.close(linger=0)
            self._socket = self._connect()
            self._poller.register(self._socket, zmq.POLLIN)
            self._forget()
        if self._welcome is not None:
            self._send(link.Alive(busy_s=self._engine.busy_s(now)))
        elif self._engine.pending == 0 and not self._leaving:  # a batch of the time before would delay the new work
            settings = self._settings
            self._send(
                link.Hello(
                    name=settings.name,
                    backend=settings.backend,
                    device="",
                    pid=os.getpid(),
                    host=sockets.gethostname(),
                    capacity=self._capacity,
                )
            )

        elif self._engine.busy_s(now) > self._settings.hang_s:
            raise BackendError(
                f"worker {self._settings.name}: a batch hangs since {self._engine.busy_s(now):.0f} s; a new process is needed"
            )

    def _forget(self) -> None:
        """The ingest does not know this worker: whatever is here was given to others."""
        self._batcher.clear()
        self._welcome = None
        self._generation = -1
        self._said = -float("inf")

    def _gone(self, leave: bool, now: float) -> bool:
        if not leave:
            return False
        if not self._leaving:
            self._leaving, self._left_at = True, now
            self._send(link.Leaving())
        if self._welcome is None:
            return True
        if self._dismissed and not len(self._batcher) and not self._engine.pending:
            self._send(link.Goodbye())
            return True
        return not self._dismissed and now - self._left_at > self._welcome.timeout_s

    def _send(self, message: link.FromWorker, *parts: bytes) -> None:
        try:
            self._socket.send_multipart([link.encode(message), *parts], zmq.NOBLOCK)
        except zmq.Again:
            # the ingest has been silent for a thousand messages; it will take this worker for lost and its events are safe
            log.error("worker %s: the ingest does not read", self._settings.name)

    def close(self) -> None:
        """End the engine and the sockets."""
        if self._engine.close(5.0):
            self._ringer.close()
            self._bell.close()
            self._socket.close()
            self._context.term()
        else:
            log.error("worker %s: a batch does not end; it ends with the process", self._settings.name)


def default_name() -> str:
    """A name that is unique on this machine."""
    return f"{sockets.gethostname()}-{os.getpid()}"
