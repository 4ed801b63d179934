"""One ingest as a worker sees it: a DEALER socket, where the slots are, which configuration holds, when either side was heard."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zmq

from hltfarm.proto import worker_link as link
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import Resources
from hltfarm.proto.slots import SlotView
from hltfarm.workers.descriptors import GENERATION, Descriptor

log = logging.getLogger(__name__)
QUIET_S = 0.5  # time between hellos until an ingest answers


class IngestLink:
    """The connection to one ingest. `number` tells it from the others of the same worker; `hello` is how the worker presents itself.

    Work of a generation that this ingest has not told is dropped: it gave it to others meanwhile.
    """

    def __init__(self, number: int, url: str, context: zmq.Context[zmq.Socket[bytes]], poller: zmq.Poller, hello: link.Hello) -> None:
        self.number = number
        self.url = url
        self.welcome: link.Welcome | None = None  #: None while the ingest does not know this worker
        self.ring: SlotView | None = None
        self.batch_timeout_s = float("inf")  #: longest batch that the ingest allows
        self.generations: set[int] = set()  #: programmes that events may name
        self.leaving = self.asked_to_stay = self.dismissed = False
        self._context = context
        self._poller = poller
        self._hello = hello
        self._heard = self._said = -float("inf")
        self._no_ring_since: float | None = None  # since when the ring that the ingest names is not there
        self._connect()

    def _connect(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 1000)
        socket.setsockopt(zmq.SNDHWM, 1024)
        socket.setsockopt(zmq.RCVHWM, 4096)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 250)
        socket.connect(self.url)
        self._poller.register(socket, zmq.POLLIN)
        self._socket = socket

    # -- in ----------------------------------------------------------------------------------------------------------------

    def messages(self, now: float) -> Iterator[tuple[link.ToWorker, list[Descriptor]]]:
        """What has arrived, with the events of Work; the rest is taken note of here before it is handed over."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard = now
            message = link.decode_to_worker(frames[0])
            work: list[Descriptor] = []
            if isinstance(message, link.Work):
                known, number = self.generations, (self.number,)
                work = [item + number for item in np.frombuffer(frames[1], dtype=link.DESCRIPTOR).tolist() if item[GENERATION] in known]
            elif isinstance(message, link.Welcome):
                self._welcomed(message, now)
            elif isinstance(message, link.Configure):
                self.generations = {message.generation, *message.keep}
            elif isinstance(message, link.Retire):
                self.generations.discard(message.generation)
            elif isinstance(message, link.Unknown):
                self.forget()
            elif isinstance(message, link.Stay):
                self.asked_to_stay = True
            elif isinstance(message, link.Dismissed):
                self.dismissed = True
            yield message, work

    def _welcomed(self, welcome: link.Welcome, now: float) -> None:
        """Map the ring; the engine gets it with the next configuration.

        An ingest that ends takes its ring along, maybe before its welcome is read: the worker says hello again. Raises ConfigError if the
        ring cannot be mapped here for so long that the ingest would count as lost.
        """
        try:
            ring = SlotView(Path(welcome.ring), welcome.slots, welcome.slot_bytes)
        except ConfigError as error:
            since = self._no_ring_since = now if self._no_ring_since is None else self._no_ring_since
            if now - since > welcome.timeout_s:
                raise
            log.warning("worker %s: %s; or the ingest at %s has just ended: asking again", self._hello.name, error, self.url)
            self.forget()
            self.ring, self._said = None, now
            return
        self._no_ring_since = None
        if self.ring is not None and self.ring.file == ring.file:
            ring.close()  # the ingest forgot this worker and knows it again; what the device has registered stays
        else:
            self.ring = ring
        self.welcome = welcome
        self.batch_timeout_s = welcome.batch_timeout_s

    # -- out ---------------------------------------------------------------------------------------------------------------

    def send(self, message: link.FromWorker, *parts: bytes) -> None:
        """Send without waiting."""
        try:
            self._socket.send_multipart([link.encode(message), *parts], zmq.NOBLOCK)
        except zmq.Again:
            if self.welcome is not None:  # else it is a hello to an ingest that is not there yet, one of a thousand
                # the ingest has been silent for a thousand messages; it will take this worker for lost and its events are safe
                log.error("worker %s: the ingest at %s does not read", self._hello.name, self.url)

    def leave(self) -> None:
        """Ask for no more work, once."""
        if not self.leaving:
            self.leaving = True
            self.send(link.Leaving())

    @property
    def patience_s(self) -> float:
        """How long the ingest may take to answer Leaving."""
        return self.welcome.timeout_s if self.welcome is not None else 0.0

    # -- time --------------------------------------------------------------------------------------------------------------

    @property
    def next_sign(self) -> float:
        """When the next sign of life is due."""
        return self._said + self.heartbeat_s

    @property
    def heartbeat_s(self) -> float:
        """Time between signs of life."""
        return self.welcome.heartbeat_s if self.welcome is not None else QUIET_S

    def keep_alive(self, now: float, busy_s: float, idle: bool, resources: Resources | None = None) -> bool:
        """Say Alive or, while the ingest does not know this worker, Hello. True if the ingest was lost: drop its events.

        idle: nothing of this ingest is being computed. An ingest that was started again counts its tickets from 1: an answer of the time
        before, after the hello, would be taken for one of the new ones.
        """
        if now < self.next_sign:
            return False
        self._said = now
        lost = self.welcome is not None and now - self._heard > self.welcome.timeout_s
        if lost:
            log.error("worker %s: the ingest at %s is silent; connecting again", self._hello.name, self.url)
            self._disconnect()
            self._connect()
            self.forget()
        if self.welcome is not None:
            self.send(link.Alive(busy_s=busy_s, resources=resources))
        elif idle and not self.leaving:
            self.send(self._hello)
            self._said = now
        return lost

    def forget(self) -> None:
        """The ingest does not know this worker: whatever is here was given to others."""
        if self.welcome is not None:  # else it has been greeted, and says so of an older message
            self._said = -float("inf")
        self.welcome = None
        self.generations = set()

    def _disconnect(self) -> None:
        self._poller.unregister(self._socket)
        self._socket.close(linger=0)

    def close(self) -> None:
        """Close the socket; messages that wait have a second to leave."""
        self._poller.unregister(self._socket)
        self._socket.close()
