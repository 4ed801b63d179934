"""The worker side of an ingest: who is there, who is ready, who is lost; work out, answers in, on a ROUTER socket."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import msgspec
import numpy as np
import zmq

from hltfarm.proto import worker_link as link
from hltfarm.proto.messages import ModelInfo, RunConfig, WorkerStatus
from hltfarm.service.ingest.dispatch import Dispatcher
from hltfarm.service.ingest.flow import EventFlow
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.service.ingest.slots import SlotRing
from hltfarm.service.ingest.stats import Stats

log = logging.getLogger(__name__)
MESSAGES_A_TURN = 64


@dataclass(slots=True)
class _Peer:
    hello: link.Hello
    identity: bytes
    heard: float
    said: float
    backend: str
    device: str
    up: bool = True
    ready: bool = False
    leaving: bool = False
    problem: str = "starting"
    busy_s: float = 0.0
    restarts: int = 0
    processed: int = 0  # before the last restart


class WorkerPool:
    """Workers by name. `flow` is set by the owner before the first turn."""

    flow: EventFlow

    def __init__(self, socket: zmq.Socket[bytes], dispatcher: Dispatcher, ring: SlotRing, stats: Stats, settings: IngestSettings) -> None:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 4096)
        socket.setsockopt(zmq.RCVHWM, 256)
        self._socket = socket
        self._dispatcher = dispatcher
        self._ring = ring
        self._stats = stats
        self._settings = settings
        self._peers: dict[str, _Peer] = {}
        self._by_identity: dict[bytes, _Peer] = {}
        self._config: RunConfig | None = None
        self._generation = 0
        self.menu_hash = ""  #: of the present configuration, empty until the first worker is ready
        self.models: tuple[ModelInfo, ...] = ()  #: that the first worker loaded
        self.fatal: str | None = None  #: why no worker can take the present configuration

    # -- configuration -----------------------------------------------------------------------------------------------------

    def configure(self, config: RunConfig) -> None:
        """Give every worker a new configuration; nothing may be in flight."""
        self._generation += 1
        self._config = config
        self.menu_hash, self.models, self.fatal = "", (), None
        for peer in self._peers.values():
            if peer.up and not peer.leaving:
                self._configure(peer)

    def _configure(self, peer: _Peer) -> None:
        self._set_ready(peer, False, "configuring")
        assert self._config is not None
        self._send(peer, link.Configure(generation=self._generation, config=self._config))

    def _set_ready(self, peer: _Peer, ready: bool, problem: str = "") -> None:
        peer.ready, peer.problem = ready, problem
        self._dispatcher.set_ready(peer.hello.name, ready)

    # -- in ----------------------------------------------------------------------------------------------------------------

    def receive(self, now: float) -> int:
        """Handle up to MESSAGES_A_TURN messages; returns how many there were."""
        for count in range(MESSAGES_A_TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return count
            now_ns = time.monotonic_ns()
            try:
                self._message(frames, now, now_ns)
            except (msgspec.MsgspecError, ValueError, IndexError) as error:
                log.error("a message from a worker cannot be read: %s", error)
                peer = self._by_identity.get(frames[0])
                if peer is not None:
                    self._lose(peer, f"sent a message that cannot be read: {error}", now_ns)
        return MESSAGES_A_TURN

    def _message(self, frames: list[bytes], now: float, now_ns: int) -> None:
        message = link.decode_from_worker(frames[1])
        if isinstance(message, link.Hello):
            self._hello(frames[0], message, now, now_ns)
            return
        peer = self._by_identity.get(frames[0])
        if peer is None:
            if not isinstance(message, link.Goodbye):
                self._reply_unknown(frames[0])
            return
        peer.heard = now
        name = peer.hello.name
        if isinstance(message, link.Results):
            peer.busy_s = 0.0
            valid = self.flow.answers(name, np.frombuffer(frames[2], dtype=link.ANSWER), now_ns, frames[3:])
            if valid and message.batch_events:
                self._stats.batch(message.batch_events, message.seconds, message.stage_seconds)
        elif isinstance(message, link.Failed):
            peer.busy_s = 0.0
            log.error("worker %s: a batch failed: %s", name, message.error)
            self.flow.failed(name, np.frombuffer(frames[2], dtype=link.ASSIGNED), message.error, now_ns)
        elif isinstance(message, link.Alive):
            peer.busy_s = message.busy_s
        elif isinstance(message, link.Configured):
            self._configured(peer, message)
        elif isinstance(message, link.Leaving):
            peer.leaving = True
            self._set_ready(peer, False, "leaving")
            self._send(peer, link.Dismissed())
        else:
            self._goodbye(peer, now_ns)

    def _hello(self, identity: bytes, hello: link.Hello, now: float, now_ns: int) -> None:
        old = self._peers.get(hello.name)
        restarts = processed = 0
        if old is not None:
            if old.up:
                self._lose(old, "a worker of the same name took its place", now_ns)
            restarts, processed = old.restarts + (old.hello.pid != hello.pid), old.processed
        peer = _Peer(hello, identity, now, now, hello.backend, hello.device, restarts=restarts, processed=processed)
        if hello.version != link.VERSION:
            log.error("worker %s speaks version %d of the link, not %d", hello.name, hello.version, link.VERSION)
            return
        log.info("worker %s: %s on %s, pid %d on %s", hello.name, hello.backend, hello.device, hello.pid, hello.host)
        self._peers[hello.name] = self._by_identity[identity] = peer
        self._dispatcher.add_worker(hello.name, hello.capacity)
        self._send(
            peer,
            link.Welcome(
                ring=str(self._ring.path),
                slots=self._ring.slots,
                slot_bytes=self._ring.slot_bytes,
                heartbeat_s=self._settings.worker_heartbeat_s,
                timeout_s=self._settings.worker_timeout_s,
            ),
        )
        if peer.up and self._config is not None:
            self._configure(peer)
        else:
            peer.problem = "waits for a configuration"

    def _configured(self, peer: _Peer, message: link.Configured) -> None:
        if message.generation != self._generation or peer.leaving:
            return
        peer.backend, peer.device = message.backend or peer.backend, message.device or peer.device
        if message.error is not None:
            log.error("worker %s cannot be configured: %s", peer.hello.name, message.error)
            self._set_ready(peer, False, message.error)
            if message.fatal and not self._dispatcher.ready_workers:
                self.fatal = message.error
            return
        if not self.menu_hash:
            self.menu_hash, self.models = message.menu_hash, message.models
            self._stats.menu(message.paths)
        elif self.menu_hash != message.menu_hash:
            self._set_ready(peer, False, f"compiled menu {message.menu_hash}, the others {self.menu_hash}")
            return
        elif self.models != message.models:
            self._set_ready(peer, False, f"loaded the models {_text(message.models)}, the others {_text(self.models)}")
            return
        self._set_ready(peer, True)

    def _goodbye(self, peer: _Peer, now_ns: int) -> None:
        name = peer.hello.name
        self.flow.lost(name, "said goodbye with work in hand", now_ns)  # nothing is in flight there if it kept the protocol
        self._by_identity.pop(peer.identity, None)
        del self._peers[name]
        log.info("worker %s left", name)

    # -- out ---------------------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Hand out work as far as the workers' credit goes."""
        for assignment in self._dispatcher.assign():
            peer = self._peers[assignment.worker]
            records = self.flow.descriptors(assignment.slots, assignment.tickets)
            self._send(peer, link.Work(generation=self._generation, alone=assignment.alone), records.tobytes())

    def _send(self, peer: _Peer, message: link.ToWorker, records: bytes | None = None) -> None:
        frames = [peer.identity, link.encode(message)]
        if records is not None:
            frames.append(records)
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            peer.heard = -float("inf")  # the next tick declares it lost, with what it holds

    def _reply_unknown(self, identity: bytes) -> None:
        try:
            self._socket.send_multipart((identity, link.encode(link.Unknown())), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.debug("a stranger cannot be reached: %s", error)

    # -- loss and time -----------------------------------------------------------------------------------------------------

    def lost(self, name: str, now_ns: int) -> bool:
        """The supervisor saw the process end. False: no such worker here, or known to be lost already."""
        peer = self._peers.get(name)
        if peer is None or not peer.up:
            return False
        self._lose(peer, "its process ended", now_ns)
        return True

    def _lose(self, peer: _Peer, why: str, now_ns: int) -> None:
        name = peer.hello.name
        log.error("worker %s is lost: %s", name, why)
        peer.processed += self._dispatcher.load(name)[2]
        peer.up = peer.ready = False
        peer.problem = f"lost: {why}"
        self._by_identity.pop(peer.identity, None)
        self.flow.lost(name, why, now_ns)

    def tick(self, now: float, now_ns: int) -> None:
        """Heartbeats, and the workers that missed theirs."""
        settings = self._settings
        for peer in list(self._peers.values()):
            if not peer.up:
                if now - peer.heard > settings.forget_worker_s and peer.heard > 0:
                    del self._peers[peer.hello.name]
                continue
            if now - peer.heard > settings.worker_timeout_s:
                unreachable = peer.heard == -float("inf")
                if unreachable:
                    peer.heard = now
                self._lose(peer, "cannot be reached" if unreachable else f"silent for {settings.worker_timeout_s:g} s", now_ns)
            elif peer.busy_s > settings.batch_timeout_s:
                self._lose(peer, f"hung: one batch took more than {settings.batch_timeout_s:g} s", now_ns)
            elif now - peer.said >= settings.worker_heartbeat_s:
                peer.said = now
                self._send(peer, link.Alive())

    # -- state -------------------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Workers that do not work, in words."""
        found = [f"worker {name}: {peer.problem}" for name, peer in self._peers.items() if not peer.ready and not peer.leaving]
        if not any(peer.ready for peer in self._peers.values()):
            found.append("no worker is ready")
        return found

    def status(self) -> list[WorkerStatus]:
        """All workers, for a snapshot."""
        out = []
        for name, peer in self._peers.items():
            credit, in_flight, processed = self._dispatcher.load(name) if peer.up else (0, 0, 0)
            out.append(
                WorkerStatus(
                    name=name,
                    backend=peer.backend,
                    device=peer.device,
                    up=peer.up,
                    ready=peer.ready,
                    credit_events=credit,
                    in_flight=in_flight,
                    processed=peer.processed + processed,
                    restarts=peer.restarts,
                    pid=peer.hello.pid,
                    host=peer.hello.host,
                )
            )
        return out


def _text(models: tuple[ModelInfo, ...]) -> str:
    """What the models of two workers can differ in."""
    return ", ".join(f"{model.label} at {model.working_point or 'no working point'} ({model.engine})" for model in models) or "none"
