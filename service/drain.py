"""An ingest leaves its farm in order: it takes no new events, and ends its run when all that is in flight is decided."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

import msgspec
import zmq

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.proto.messages import Command, CommandReply, Snapshot
from hltfarm.service.runcontrol import OPEN
from hltfarm.service.security.keys import ClientCurve

POLL_S = 0.1
ANSWER_S = 5.0


class DrainError(BackendError):
    """An ingest does not answer, or events are still in flight when the time is over."""

    retryable = True


def drain(
    ingests: Sequence[str], timeout_s: float, curve: ClientCurve | None = None, say: Callable[[str], None] = lambda text: None
) -> None:
    """Let ingests leave, at the same time, and wait until each has closed its books. `ingests`: control endpoints; `say` is told.

    An ingest that was told stays so: it takes part in no run until it is started again. Raises DrainError, when all have been
    told and waited for, and ConfigError for what is no endpoint.
    """
    deadline = time.monotonic() + timeout_s
    faults: dict[str, DrainError] = {}
    with zmq.Context() as context:
        peers: dict[str, _Peer] = {}
        try:
            for url in ingests:
                peers[url] = _Peer(context, url, curve)
            for url, peer in peers.items():  # one that does not answer holds the others up, and keeps them from nothing
                try:
                    say(f"{url}: leaves with {peer.leave().totals.in_flight} events in flight")
                except DrainError as error:
                    faults[url] = error
            for url, peer in peers.items():
                if url in faults:
                    continue
                try:
                    say(f"{url}: {_books(_left(peer, url, deadline, timeout_s))}")
                except DrainError as error:
                    faults[url] = error
        finally:
            for peer in peers.values():
                peer.close()
    if faults:
        raise DrainError("; ".join(str(error) for error in faults.values()))


def _left(peer: _Peer, url: str, deadline: float, timeout_s: float) -> Snapshot:
    """Wait until an ingest has closed its books. Raises DrainError."""
    while (snapshot := peer.leave()).state in OPEN:
        if time.monotonic() >= deadline:
            held = f"{snapshot.totals.in_flight} events in flight"
            raise DrainError(f"ingest {url} has {held} after {timeout_s:g} s; problems: {'; '.join(snapshot.problems) or 'none'}")
        time.sleep(POLL_S)  # the interval between two questions
    return snapshot


def _books(snapshot: Snapshot) -> str:
    ledger = snapshot.ledger
    if snapshot.run is None:
        return "it had no run"
    counts = f"received {ledger.received}, accepted {ledger.accepted}, rejected {ledger.rejected}, error {ledger.error}"
    return f"run {snapshot.run} is closed here: {counts}, in flight {ledger.in_flight}"


class _Peer:
    """The control socket of one ingest."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], url: str, curve: ClientCurve | None) -> None:
        self._url, self._socket = url, context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        if curve is not None and url.startswith("tcp://"):
            curve.apply(self._socket)
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self._socket.close()
            raise ConfigError(f"--ingest {url}: {error.strerror}; give an endpoint such as tcp://127.0.0.1:7402") from error

    def leave(self) -> Snapshot:
        """Tell it, as often as one likes, and learn how it is. Raises DrainError."""
        command = Command(id=uuid.uuid4().hex, op="leave")
        self._socket.send(msgspec.json.encode(command))
        deadline = time.monotonic() + ANSWER_S
        while self._socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            reply = msgspec.json.decode(self._socket.recv(), type=CommandReply)
            if reply.id != command.id:
                continue
            if reply.snapshot is None:
                raise DrainError(f"ingest {self._url} refused to leave: {reply.error}")
            return reply.snapshot
        raise DrainError(f"ingest {self._url} did not answer within {ANSWER_S:g} s")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
