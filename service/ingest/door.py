"""The client side of an ingest: sessions on a ROUTER socket, frames in, credits, decisions and refusals out."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import zmq
from numpy.typing import NDArray

from hltfarm.proto import wire
from hltfarm.proto.errors import WireCode, WireError
from hltfarm.proto.framing import Buffer
from hltfarm.proto.limits import Limits
from hltfarm.service.ingest.credit import CreditBook, Grant
from hltfarm.service.ingest.flow import EventFlow
from hltfarm.service.ingest.gate import Gate
from hltfarm.service.ingest.stats import Stats

log = logging.getLogger(__name__)
CLIENTS = "clients"  # their room in the allow-list
FRAMES_A_TURN = 128  # events read before results and commands get their turn
COLUMNS_WAITING = 8  # largest columns that may wait for a client who does not read; too low loses them in a hiccup, too high costs memory


@dataclass(slots=True)
class _Session:
    number: int
    identity: bytes
    name: str
    heard: float
    key: bytes = b""  # CURVE key under which it was opened
    outbox: deque[wire.Message] = field(default_factory=deque)  # messages the socket did not take
    waiting_bytes: int = 0  # their bodies; columns are left out beyond COLUMNS_WAITING of the largest


class ClientDoor:
    """Sessions of clients. `flow` is set by the owner before the first turn (the flow delivers through this object).

    gate: knows whose keys may have sessions; None where the socket has no CURVE.
    """

    flow: EventFlow

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        credit: CreditBook,
        stats: Stats,
        limits: Limits,
        timeout_s: float,
        gate: Gate | None = None,
    ) -> None:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 256)
        socket.setsockopt(zmq.RCVHWM, 64)  # what credit allows waits in the clients' pipes, not here
        socket.setsockopt(zmq.MAXMSGSIZE, limits.socket_bytes)
        self._socket = socket
        self._credit = credit
        self._stats = stats
        self._limits = limits
        self._timeout_s = timeout_s
        self._gate = gate
        self._by_identity: dict[bytes, _Session] = {}
        self._by_number: dict[int, _Session] = {}
        # Decisions and columns that wait are bounded by the client's credit; who also piles up answers that need none does not read at all.
        self._max_outbox = 2 * credit.capacity_events + 256
        self._next = 1
        self._open, self._run = False, 0  # as announced with every credit

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def stalled(self) -> frozenset[int]:
        """Sessions that do not read what they are sent; they get no new credit."""
        return frozenset(number for number, session in self._by_number.items() if session.outbox)

    # -- in ----------------------------------------------------------------------------------------------------------------

    def receive(self, now: float) -> int:
        """Handle up to FRAMES_A_TURN messages; returns how many there were."""
        recv = self._socket.recv
        for count in range(FRAMES_A_TURN):
            try:
                identity = recv(zmq.NOBLOCK)
            except zmq.Again:
                return count
            head = recv(copy=False)
            frames = 1
            body: zmq.Frame | None = None
            more = head.more
            while more:
                frame = recv(copy=False)
                body = frame if frames == 1 else body
                more = frame.more
                frames += 1
            self._message(identity, head.bytes, body.buffer if body is not None else b"", frames, now, head)
        return FRAMES_A_TURN

    def _message(self, identity: bytes, head: bytes, body: Buffer, frames: int, now: float, frame: zmq.Frame | None = None) -> None:
        session = self._by_identity.get(identity)
        event: wire.EventHeader | None = None
        try:
            header = wire.decode_header(head)
            if isinstance(header, wire.EventHeader):
                event = header
                if session is None:
                    raise WireError(WireCode.NO_HELLO, "no session: say hello first")
                session.heard = now
                licensed = self._credit.arrived(session.number, len(body), now)
                if frames != 2:
                    raise WireError(WireCode.TRUNCATED, f"a message has two frames, this one has {frames}")
                decision = self.flow.admit(session.number, header, body, licensed=licensed, now_ns=time.monotonic_ns())
                if decision is not None:
                    self._send(session, wire.encode_decisions(decision))
                return
            if frames != 2:
                raise WireError(WireCode.TRUNCATED, f"a message has two frames, this one has {frames}")
            wire.check_body(header, body, self._limits)
            if isinstance(header, wire.Hello):
                self._hello(session, identity, header, wire.decode_text(body), now, self._key(frame))
            elif isinstance(header, wire.Bye):
                if session is not None and header.session == session.number:
                    self._leave(session)
            else:
                raise WireError(WireCode.UNKNOWN_TYPE, "this type travels from the ingest to the client only")
        except WireError as error:
            self._refuse(session, identity, error, event)

    def _key(self, frame: zmq.Frame | None) -> bytes:
        """The key of who says hello. Raises WireError if it has been taken from the allow-list since he connected."""
        if self._gate is None or frame is None:
            return b""
        key = self._gate.key(frame)
        if self._gate.name(CLIENTS, key) is None:
            raise WireError(WireCode.NOT_ALLOWED, f"key {key.decode()} is not allowed here any more")
        return key

    def _hello(self, session: _Session | None, identity: bytes, hello: wire.Hello, name: str, now: float, key: bytes) -> None:
        if session is not None and hello.session not in (0, session.number):
            self._leave(session)
            session = None
        if session is not None and hello.session == session.number:
            session.heard = now
            self._credit.confirm(session.number, hello.serial, hello.sent_events, hello.sent_bytes)
        else:
            if hello.session:
                raise WireError(WireCode.NO_HELLO, f"session {hello.session} is not known here (any more)")
            if session is not None:
                self._leave(session)
            if not self._credit.join(self._next):
                raise WireError(WireCode.NO_CREDIT, f"{self._credit.max_clients} clients are connected already")
            session = _Session(self._next, identity, name, now, key)
            self._next += 1
            self._by_identity[identity] = self._by_number[session.number] = session
            allowed = f" of {self._gate.name(CLIENTS, key)}" if self._gate is not None else ""
            log.info("client %s%s: session %d", name, allowed, session.number)
        self._announce(session, self._credit.current(session.number))

    def _refuse(self, session: _Session | None, identity: bytes, error: WireError, event: wire.EventHeader | None) -> None:
        self._stats.refused[error.code.name] += 1
        message = wire.encode_error(error.code, str(error), event)
        if session is not None and session.number in self._by_number:
            self._send(session, message)
            return
        try:
            self._socket.send_multipart((identity, *message), zmq.NOBLOCK)
        except zmq.ZMQError as failure:  # nobody there, or a stranger who does not read: the counter has it
            log.debug("no way to tell a peer of %s: %s", error, failure)

    # -- out ---------------------------------------------------------------------------------------------------------------

    def announce(self, grants: list[Grant], run: int, open_: bool) -> None:
        """Tell clients their new licence; all of them if run or openness changed."""
        changed = (self._open, self._run) != (open_, run)
        self._open, self._run = open_, run
        if changed:
            told = {grant.client for grant in grants}
            grants = grants + [self._credit.current(number) for number in self._by_number if number not in told]
        for grant in grants:
            session = self._by_number.get(grant.client)
            if session is not None:
                self._announce(session, grant)

    def _announce(self, session: _Session, grant: Grant) -> None:
        flags = (wire.CreditFlags.CONFIRM if grant.confirm else 0) | (wire.CreditFlags.OPEN if self._open else 0)
        credit = wire.Credit(session.number, grant.serial, flags, grant.events, grant.bytes, self._run, self._limits.max_payload_bytes)
        self._send(session, wire.encode_credit(credit))

    def deliver(self, sessions: NDArray[np.int64], records: NDArray[np.void], columns: Mapping[int, bytes]) -> None:
        """Send decisions. Those of sessions that are gone stay in the ledger, for when the client sends the events again.

        columns: by place in `records`; they go ahead of the decisions, so that a client that has a decision has its columns.
        """
        for place, body in columns.items():
            self._send_columns(int(sessions[place]), records, place, body)
        first = int(sessions[0])
        if (sessions == first).all():
            groups = [(first, records)]
        else:
            groups = [(number, records[sessions == number]) for number in np.unique(sessions).tolist()]
        for number, group in groups:
            session = self._by_number.get(number)
            if session is not None:
                self._send(session, wire.encode_decisions(group))

    def _send_columns(self, number: int, records: NDArray[np.void], place: int, body: bytes) -> None:
        session = self._by_number.get(number)
        if session is None:
            return
        if session.waiting_bytes + len(body) > COLUMNS_WAITING * self._limits.max_columns_bytes:
            self.flow.leave_out(records, place)
            return
        run, lumi, event, cookie = (int(records[name][place]) for name in ("run", "lumi", "event", "cookie"))
        self._stats.columns_sent += 1
        self._send(session, wire.encode_reply_columns(run, lumi, event, cookie, body))

    def _send(self, session: _Session, message: wire.Message) -> None:
        if session.number not in self._by_number:
            return  # lost over the message before
        if session.outbox:
            self._wait(session, message)
            if len(session.outbox) > self._max_outbox:
                self._lose(session, f"it leaves {len(session.outbox)} messages unread")
            return
        try:
            self._socket.send_multipart((session.identity, *message), zmq.NOBLOCK)
        except zmq.Again:
            self._wait(session, message)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._lose(session, "its connection is gone")

    @staticmethod
    def _wait(session: _Session, message: wire.Message) -> None:
        session.outbox.append(message)
        session.waiting_bytes += len(message[1])

    # -- time --------------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send what waits; close sessions that are silent for too long or do not read."""
        for session in list(self._by_number.values()):
            if now - session.heard > self._timeout_s:
                self._lose(session, f"silent for {self._timeout_s:g} s")
                continue
            waiting, session.outbox, session.waiting_bytes = session.outbox, deque(), 0
            for message in waiting:
                if session.number not in self._by_number:
                    break
                self._send(session, message)

    def expel(self) -> None:
        """Close the sessions of those who may not come in any more."""
        for session in list(self._by_number.values()):
            if self._gate is not None and self._gate.name(CLIENTS, session.key) is None:
                self._lose(session, "its key is not allowed any more")

    def _lose(self, session: _Session, why: str) -> None:
        self._stats.lost_sessions += 1
        log.warning("client %s: session %d closed, %s", session.name, session.number, why)
        self._leave(session)

    def _leave(self, session: _Session) -> None:
        session.outbox.clear()
        self._by_number.pop(session.number, None)
        self._by_identity.pop(session.identity, None)
        self._credit.leave(session.number)
