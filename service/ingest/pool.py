"""The worker side of an ingest: who is there, who is ready, who is lost; work out, answers in, on a ROUTER socket."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import zmq

from hltfarm.proto import worker_link as link
from hltfarm.proto.errors import StateError
from hltfarm.proto.messages import Resources, RunConfig, WorkerStatus
from hltfarm.service.ingest.canary import Canaries, payload_for
from hltfarm.service.ingest.dispatch import Dispatcher
from hltfarm.service.ingest.flow import EventFlow
from hltfarm.service.ingest.programmes import Entry, Programmes
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
    stays_since: float | None = None  # it wants to leave and is the last one that can work
    problem: str = "starting"
    busy_s: float = 0.0
    restarts: int = 0
    processed: int = 0  # before the last restart
    able: bool = False  # has built what it was told; ready, unless an operator holds it or its canaries say that its device is broken
    resources: Resources | None = None


class WorkerPool:
    """Workers by name. `flow` is set by the owner before the first turn."""

    flow: EventFlow

    def __init__(
        self, socket: zmq.Socket[bytes], dispatcher: Dispatcher, ring: SlotRing, stats: Stats, settings: IngestSettings,
        programmes: Programmes,
    ) -> None:  # fmt: skip
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
        self._quarantined: dict[str, str] = {}  # names that get no work -> why; a worker that comes back finds itself there
        self._programmes = programmes
        self._canaries = Canaries(settings.canary_s, settings.batch_timeout_s)
        self._distrusted: set[str] = set()  # what of their verdict was carried out
        self.fatal: str | None = None  #: why no worker can take the configuration of the run

    # -- programmes --------------------------------------------------------------------------------------------------------

    def configure(self, config: RunConfig) -> None:
        """Give every worker the first programme of a run; nothing may be in flight."""
        entry, self.fatal = self._programmes.configure(config), None
        self._canaries.begin()
        for peer in self._present():
            self._set_ready(peer, False, "configuring")
            self._tell(peer, entry)

    def prepare(self, config: RunConfig) -> None:
        """Have every worker build a programme that is to decide later. Raises ConfigError for one that this run cannot have."""
        entry = self._programmes.prepare(config)
        for peer in self._present():
            self._tell(peer, entry)

    def cast(self, config: RunConfig, fraction: float) -> None:
        """Have every worker build a shadow. Raises ConfigError."""
        entry = self._programmes.cast(config, fraction)
        for peer in self._present():
            self._tell(peer, entry)

    def waits_for(self, entry: Entry | None) -> list[str]:
        """Workers in service that have not built a programme yet, or the first one at all."""
        if entry is None:
            return []
        names = [peer.hello.name for peer in self._present() if peer.ready and peer.hello.name not in entry.workers]
        return names if names or entry.built else ["a worker"]

    def _present(self) -> list[_Peer]:
        return [peer for peer in self._peers.values() if peer.up and not peer.leaving]

    def _tell(self, peer: _Peer, entry: Entry) -> None:
        keep = tuple(wanted.generation for wanted in self._programmes.wanted if wanted is not entry)
        self._send(peer, link.Configure(generation=entry.generation, config=entry.config, keep=keep))

    def _set_ready(self, peer: _Peer, ready: bool, problem: str = "") -> None:
        held = peer.hello.name in self._quarantined or peer.hello.name in self._canaries.distrusted
        peer.able, peer.ready, peer.problem = ready, ready and not held, problem
        self._dispatcher.set_ready(peer.hello.name, peer.ready)

    def _missing(self, name: str) -> str | None:
        """Why a worker has not built everything that decides, None if it has."""
        missing = [entry for entry in self._programmes.deciding if name not in entry.workers]
        return next((entry.refused[name] for entry in missing if name in entry.refused), "configuring") if missing else None

    def _admit(self, peer: _Peer) -> None:
        """Ready is a worker that has built everything that decides."""
        if not peer.able and self._programmes.active and self._missing(peer.hello.name) is None:
            self._set_ready(peer, True)

    def _reconsider(self, name: str) -> None:
        """Whether the worker may have work has changed. What became active while it had none, it may not have built yet."""
        peer = self._peers.get(name)
        if peer is not None and peer.up:
            missing = self._missing(name) if peer.able else None
            self._set_ready(peer, peer.able and missing is None, peer.problem if missing is None else missing)

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
            valid = self.flow.answers(name, np.frombuffer(frames[2], dtype=link.ANSWER), now_ns, frames[3:])
            if valid and message.batch_events:
                self._stats.batch(message.batch_events, message.seconds, message.stage_seconds)
        elif isinstance(message, link.Failed):
            log.error("worker %s: a batch failed: %s", name, message.error)
            self.flow.failed(name, np.frombuffer(frames[2], dtype=link.ASSIGNED), message.error, now_ns, message.stage)
        elif isinstance(message, link.CanaryDone):
            self._canary(peer, message, now)
        elif isinstance(message, link.Alive):
            peer.busy_s = message.busy_s  # of the oldest batch; results of a younger one say nothing about it
            peer.resources = message.resources or peer.resources
        elif isinstance(message, link.Configured):
            self._configured(peer, message)
        elif isinstance(message, link.Leaving):
            self._leave(peer, now)
        else:
            self._goodbye(peer, now_ns)

    def _hello(self, identity: bytes, hello: link.Hello, now: float, now_ns: int) -> None:
        old = self._peers.get(hello.name)
        restarts = processed = 0
        if old is not None:
            if old.up:
                self._lose(old, "a worker of the same name took its place", now_ns)
            restarts, processed = old.restarts + (not _same_process(old.hello, hello)), old.processed
        peer = _Peer(hello, identity, now, now, hello.backend, hello.device, restarts=restarts, processed=processed)
        if hello.version != link.VERSION:
            log.error("worker %s speaks version %d of the link, not %d", hello.name, hello.version, link.VERSION)
            return
        log.info("worker %s: backend %s, pid %d on host %s", hello.name, hello.backend, hello.pid, hello.host)
        self._peers[hello.name] = self._by_identity[identity] = peer
        if old is None or not _same_process(old.hello, hello):
            self._canaries.forget(hello.name)
            self._distrusted.discard(hello.name)
        self._dispatcher.add_worker(hello.name, hello.capacity, cpu=hello.backend == "cpu", fallback=hello.fallback)
        self._send(
            peer,
            link.Welcome(
                ring=str(self._ring.path),
                slots=self._ring.slots,
                slot_bytes=self._ring.slot_bytes,
                heartbeat_s=self._settings.worker_heartbeat_s,
                timeout_s=self._settings.worker_timeout_s,
                batch_timeout_s=self._settings.batch_timeout_s,
            ),
        )
        wanted = self._programmes.wanted
        peer.problem = "configuring" if wanted else "waits for a configuration"
        for entry in wanted:
            entry.workers.discard(hello.name)  # what its predecessor had built is gone
            entry.refused.pop(hello.name, None)
        for entry in wanted:
            if peer.up:
                self._tell(peer, entry)

    def _configured(self, peer: _Peer, message: link.Configured) -> None:
        entry, name = self._programmes.get(message.generation), peer.hello.name
        if entry is None or peer.leaving:
            return
        peer.backend, peer.device = message.backend or peer.backend, message.device or peer.device
        problem = message.error if message.error is not None else entry.settle(message)
        if problem is None:
            entry.workers.add(name)
            self._stats.menu(entry.paths)
        else:
            log.error("worker %s cannot be configured: %s", name, problem)
            entry.refused[name] = problem
        if entry not in self._programmes.deciding:  # pending or a shadow: the run goes on as it is
            if problem is not None and (peer.ready or not self._dispatcher.ready_workers):
                entry.error = f"worker {name}: {problem}"
            return
        if problem is not None:
            self._set_ready(peer, False, problem)
            if message.error is not None and message.fatal and not self._dispatcher.ready_workers:
                self.fatal = message.error
        else:
            self._admit(peer)

    def _leave(self, peer: _Peer, now: float) -> None:
        """A worker says that it wants to go. The last one that can work stays for the events in flight; no new ones are admitted then."""
        peer.stays_since = now
        if self._needed(peer, now):
            log.info("worker %s is the last one: it stays for the %d events in flight", peer.hello.name, self._dispatcher.unfinished)
            self._send(peer, link.Stay())
        else:
            self._dismiss(peer)

    def _needed(self, peer: _Peer, now: float) -> bool:
        """Whether events in flight, or sent on a licence that its client has not given back yet, have no other worker."""
        since = now if peer.stays_since is None else peer.stays_since
        if not peer.ready or self.staffed or now - since > self._settings.stop_timeout_s:
            return False
        licensed = self.flow.licensed_events and now - since <= self._settings.confirm_timeout_s
        return bool(licensed or self._dispatcher.unfinished)

    def _dismiss(self, peer: _Peer) -> None:
        peer.leaving, peer.stays_since = True, None
        self._set_ready(peer, False, "leaving")
        self._send(peer, link.Dismissed())

    def _goodbye(self, peer: _Peer, now_ns: int) -> None:
        name = peer.hello.name
        self.flow.lost(name, "said goodbye with work in hand", now_ns)  # nothing is in flight there if it kept the protocol
        self._by_identity.pop(peer.identity, None)
        del self._peers[name]
        self._canaries.drop(name)
        self._distrusted.discard(name)
        log.info("worker %s left", name)

    # -- out ---------------------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Hand out work as far as the workers' credit goes."""
        shadow = self._programmes.shadow
        book = self._programmes.get(shadow.generation) if shadow is not None else None
        for assignment in self._dispatcher.assign():
            peer = self._peers[assignment.worker]
            asked = shadow if book is not None and not assignment.alone and assignment.worker in book.workers else None
            records = self.flow.descriptors(assignment.slots, assignment.tickets, asked)
            self._send(peer, link.Work(alone=assignment.alone), records.tobytes())

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

    def lost(self, name: str, pid: int, now_ns: int) -> bool:
        """The supervisor saw the process end (pid 0: whichever has the name). False: not here, known to be lost, or its successor is."""
        peer = self._peers.get(name)
        if peer is None or not peer.up or pid not in (0, peer.hello.pid):
            return False
        self._lose(peer, "its process ended", now_ns)
        return True

    def _lose(self, peer: _Peer, why: str, now_ns: int) -> None:
        name = peer.hello.name
        log.error("worker %s is lost: %s", name, why)
        peer.processed += self._dispatcher.load(name)[2]
        peer.up = peer.ready = peer.able = False
        peer.problem = f"lost: {why}"
        if peer.heard < 0:  # it could not be reached
            peer.heard = now_ns * 1e-9
        self._by_identity.pop(peer.identity, None)
        self._canaries.interrupted(name)
        self.flow.lost(name, why, now_ns)

    def tick(self, now: float, now_ns: int) -> None:
        """Heartbeats, the workers that missed theirs, and programmes that nobody needs any more."""
        settings = self._settings
        for generation in self._programmes.retired():
            for peer in self._present():
                self._send(peer, link.Retire(generation=generation))
                self._admit(peer)  # it may have lacked just this one
        self._ask_canaries(now)
        for peer in list(self._peers.values()):
            if not peer.up:
                if now - peer.heard > settings.forget_worker_s:
                    del self._peers[peer.hello.name]
                    self._canaries.drop(peer.hello.name)
                    self._distrusted.discard(peer.hello.name)
                continue
            if now - peer.heard > settings.worker_timeout_s:
                unreachable = peer.heard == -float("inf")
                self._lose(peer, "cannot be reached" if unreachable else f"silent for {settings.worker_timeout_s:g} s", now_ns)
            elif peer.busy_s > settings.batch_timeout_s:
                self._lose(peer, f"hung: one batch took more than {settings.batch_timeout_s:g} s", now_ns)
            elif peer.stays_since is not None and not self._needed(peer, now):
                self._dismiss(peer)
            elif now - peer.said >= settings.worker_heartbeat_s:
                peer.said = now
                self._send(peer, link.Alive())

    # -- canaries ----------------------------------------------------------------------------------------------------------

    def _ask_canaries(self, now: float) -> None:
        """A canary for every worker whose turn it is, with the programme of the present lumisection."""
        entry = self._programmes.current
        if entry is None or not entry.built:
            return
        names = [peer.hello.name for peer in self._present() if peer.hello.name in entry.workers]
        for name, serial in self._canaries.due(names, now):
            payload, fresh_s = payload_for(entry.config.detector), self._settings.canary_s / 2
            self._send(self._peers[name], link.Canary(serial=serial, generation=entry.generation, payload=payload, fresh_s=fresh_s))

    def _canary(self, peer: _Peer, message: link.CanaryDone, now: float) -> None:
        """Take an answer, and take out of service whom it shows to be broken (or back, if it shows that another was)."""
        name = peer.hello.name
        if message.error is not None:
            log.error("worker %s: a canary failed: %s", name, message.error)
        digest = message.digest if message.error is None else None
        self._canaries.answered(name, message.serial, message.generation, digest, cpu=peer.backend.startswith("cpu"), now=now)
        distrusted = self._canaries.distrusted
        for changed in self._distrusted ^ distrusted.keys():
            log.error("worker %s: %s", changed, distrusted.get(changed, "its canaries are right, another was wrong; it works again"))
            self._reconsider(changed)
        self._distrusted = set(distrusted)

    # -- operators ---------------------------------------------------------------------------------------------------------

    def drain(self, name: str) -> None:
        """Ask a worker to finish and leave. Raises StateError if it is not here."""
        peer = self._peers.get(name)
        if peer is None or not peer.up:
            raise StateError(f"worker {name!r} is not connected to this ingest")
        self._send(peer, link.Leave())

    def quarantine(self, name: str, reason: str) -> None:
        """Give the worker of this name, now or when it joins, no more work; it finishes what it has."""
        self._quarantined[name] = reason or "by an operator"
        self._reconsider(name)

    def release(self, name: str) -> None:
        """Let the worker have work again."""
        self._quarantined.pop(name, None)
        self._reconsider(name)

    # -- state -------------------------------------------------------------------------------------------------------------

    @property
    def staffed(self) -> bool:
        """Whether there is a worker for new events: one that can work and does not want to leave."""
        return any(peer.ready and peer.stays_since is None for peer in self._peers.values())

    def problems(self) -> list[str]:
        """Workers that do not work although they should, in words."""
        wanted = {name: peer for name, peer in self._peers.items() if name not in self._quarantined and not peer.leaving}
        idle = {name: peer.problem for name, peer in wanted.items() if not peer.ready}
        found = [f"worker {name}: {self._canaries.distrusted.get(name, problem)}" for name, problem in idle.items()]
        if not any(peer.ready for peer in self._peers.values()):
            found.append("no worker is ready")
        return found

    def describe(self, name: str) -> dict[str, Any]:
        """A worker for the record of a failure."""
        peer = self._peers.get(name)
        if peer is None:
            return {}
        hello = peer.hello
        return {"backend": peer.backend, "device": peer.device, "pid": hello.pid, "host": hello.host, "versions": hello.versions}

    def status(self) -> list[WorkerStatus]:
        """All workers, for a snapshot."""
        out = []
        now, wall = time.monotonic(), time.time()
        for name, peer in self._peers.items():
            health = self._canaries.health(name)
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
                    canary_at=0.0 if health.good is None else wall - now + health.good,
                    canary_age_s=-1.0 if health.good is None else max(0.0, now - health.good),
                    canary_failures=health.failures,
                    distrusted=self._canaries.distrusted.get(name, ""),
                    leaving=peer.leaving or peer.stays_since is not None,
                    quarantined=self._quarantined.get(name, ""),
                    resources=peer.resources,
                )
            )
        return out


def _same_process(one: link.Hello, other: link.Hello) -> bool:
    """Whether both were said by one process, and not by its successor of the same pid."""
    return (one.pid, one.process) == (other.pid, other.process)
