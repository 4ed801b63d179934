"""The ROUTER socket at which consumers of accepted events subscribe: frames in, events out. Belongs to the ingest's thread."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import zmq

from hltfarm.proto import output_wire as wire
from hltfarm.proto.errors import WireCode, WireError
from hltfarm.proto.framing import check_body, checksum
from hltfarm.proto.limits import Limits
from hltfarm.proto.results import OUTPUT_DECISION, layout_fields
from hltfarm.proto.wire import FED_TABLE
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.hlt_file import ORIGIN
from hltfarm.service.output.subscribers import WINDOW, Send, Subscribers

if TYPE_CHECKING:
    from hltfarm.service.ingest.gate import Gate

log = logging.getLogger(__name__)
MESSAGES_A_TURN = 64
ROOM = "consumers"  # theirs in the allow-list: who may send events may not read those of others
#: Messages that wait for a consumer: its window of events, and answers to what it says. One that talks and does not read is gone beyond it.
UNREAD_MESSAGES = 2 * WINDOW + 256


class StreamDoor:
    """Sessions of consumers over `subscribers`. `run`: the present run, 0 if none.

    events: those that somebody may be sent again, by number; the owner keeps them. gate: whose keys may come, None without CURVE.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        subscribers: Subscribers,
        events: Mapping[int, tuple[OutputEvent, Deciders]],
        gate: Gate | None = None,
    ) -> None:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, UNREAD_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, 64)
        socket.setsockopt(zmq.MAXMSGSIZE, Limits().socket_bytes)
        self.run = 0
        self.sent_events = self.sent_bytes = self.refused = 0
        self._socket = socket
        self._subscribers = subscribers
        self._events = events
        self._gate = gate
        self._keys: dict[int, bytes] = {}  # of the sessions, where there is a gate
        self._told: dict[int, deque[tuple[int, Deciders]]] = {}  # session -> descriptions that it has, with their numbers

    def receive(self, now: float) -> list[int]:
        """Handle messages that are there; returns the events that consumers released."""
        released: list[int] = []
        for _ in range(MESSAGES_A_TURN):
            try:
                whole = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            identity, *frames = (frame.bytes for frame in whole)
            key = self._gate.key(whole[-1]) if self._gate is not None else b""
            try:
                if not self._may_come(key):
                    raise WireError(WireCode.NOT_ALLOWED, "the key of this consumer is not allowed here (any more)")
                released += self._message(identity, frames, key, now)
            except WireError as error:
                self.refused += 1
                text = str(error).encode()[: wire.MAX_TEXT_BYTES]
                self._reply(identity, wire.encode(wire.Error(error.code), text), text)
        return released

    def _may_come(self, key: bytes) -> bool:
        return self._gate is None or self._gate.name(ROOM, key) is not None

    def look_at_keys(self) -> None:
        """The allow-list has changed: consumers whose keys are gone are gone, too."""
        for session, key in self._keys.items():
            identity = self._subscribers.identity(session)
            if identity is not None and not self._may_come(key):
                self.expel(identity, "the key of this consumer is not allowed here any more")
                self._subscribers.lost(session)

    def _message(self, identity: bytes, frames: list[bytes], key: bytes, now: float) -> list[int]:
        if len(frames) != 2:
            raise WireError(WireCode.TRUNCATED, f"a message has two frames, this one has {len(frames)}")
        header, body = wire.decode_header(frames[0]), frames[1]
        check_body("body", body, header.body_bytes, header.body_crc, wire.MAX_TEXT_BYTES)
        if isinstance(header, wire.Subscribe):
            return self._subscribe(identity, header, body, key, now)
        if isinstance(header, wire.Credit):
            answer = None
            if self._subscribers.identity(header.session) == identity:
                answer = self._subscribers.credit(header.session, header.granted, header.confirmed, now)
            if answer is None:
                text = b"this session is not known here (any more): subscribe again"
                self._reply(identity, wire.encode(wire.Bye(header.session), text), text)
                return []
            released, sends = answer
            self.send(sends)
            self._status(identity, header.session)
            return released
        if isinstance(header, wire.Bye):
            return self._subscribers.leave(header.session) if self._subscribers.identity(header.session) == identity else []
        raise WireError(WireCode.UNKNOWN_TYPE, "this type travels from the ingest to the consumer only")

    def _subscribe(self, identity: bytes, header: wire.Subscribe, body: bytes, key: bytes, now: float) -> list[int]:
        name, streams = wire.decode_names(body)
        if header.mode not in tuple(wire.Mode):
            raise WireError(WireCode.MALFORMED_PAYLOAD, f"mode {header.mode}; known are {', '.join(f'{m} {m.name}' for m in wire.Mode)}")
        holder = self._keys.get(self._subscribers.holder(name) or 0, key)
        if holder != key and self._may_come(holder):  # what waits for a lossless consumer is not for others to confirm
            raise WireError(WireCode.NOT_ALLOWED, f"the name {name!r} belongs to another key until it is detached")
        joined = self._subscribers.subscribe(identity, name, wire.Mode(header.mode), streams, now)
        if joined is None:
            raise WireError(WireCode.NO_CREDIT, f"{len(self._subscribers)} consumers have subscribed already")
        session = joined.session
        log.info("consumer %s: session %d, %s of %s", name, session, wire.Mode(header.mode).name, ", ".join(streams) or "all streams")
        self._told = {known: told for known, told in self._told.items() if self._subscribers.identity(known) is not None}
        self._keys = {known: theirs for known, theirs in self._keys.items() if self._subscribers.identity(known) is not None}
        self._keys[session] = key
        if joined.replaced not in (None, identity):
            self.expel(joined.replaced, f"another consumer has subscribed as {name!r}; give each a name of its own")
        self._status(identity, session)
        return joined.released

    def _status(self, identity: bytes, session: int) -> None:
        sent, missed = self._subscribers.totals(session)
        self._reply(identity, wire.encode(wire.Status(session, sent, missed, self.run)), b"", session=session)

    def send(self, sends: list[Send]) -> None:
        """Send events. A consumer that cannot be reached is gone, which the subscribers are told."""
        for item in sends:
            event, deciders = self._events[item.number]
            described = self._describe(item, deciders)
            header = wire.Event(
                session=item.session, serial=item.serial, missed=item.missed, event=event.id.event, run=event.id.run, lumi=event.id.lumi,
                bx=event.id.bx, described=described, payload_format=FED_TABLE, flags=wire.EventFlags.RESENT if item.resent else 0,
                decision_bytes=len(event.decision), decision_crc=checksum(event.decision),
                columns_bytes=len(event.columns), columns_crc=checksum(event.columns),
            )  # fmt: skip
            head = wire.encode(header, event.payload, crc=event.crc)
            if self._reply(item.identity, head, event.payload, event.decision, event.columns, session=item.session):
                self.sent_events += 1
                self.sent_bytes += len(event.payload)

    def _describe(self, item: Send, deciders: Deciders) -> int:
        """The number of a description, which its session is told first."""
        told = self._told.setdefault(item.session, deque(maxlen=wire.DESCRIPTIONS))
        for number, known in reversed(told):
            if known is deciders or known == deciders:
                return number
        number = told[-1][0] + 1 if told else 1
        told.append((number, deciders))
        text = json.dumps(description(deciders), sort_keys=True).encode()
        self._reply(item.identity, wire.encode(wire.Description(item.session, number), text), text, session=item.session)
        return number

    def expel(self, identity: bytes, why: str) -> None:
        """Tell a consumer that its session is over, and not to come back by itself."""
        text = why.encode()[: wire.MAX_TEXT_BYTES]
        self._reply(identity, wire.encode(wire.Error(WireCode.NOT_ALLOWED), text), text)

    def _reply(self, identity: bytes, *frames: Any, session: int = 0) -> bool:
        try:
            self._socket.send_multipart((identity, *frames), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            if session:
                self._subscribers.lost(session)
            return False
        return True


def description(deciders: Deciders) -> dict[str, Any]:
    """What a DESCRIPTION says."""
    fields = {"origin": ORIGIN, "version": version("hltfarm"), "decision_fields": layout_fields(OUTPUT_DECISION)}
    return {**fields, **deciders.description()}
