"""Python consumer of accepted events: subscribes to streams of one ingest over ZeroMQ.

    with Consumer("tcp://127.0.0.1:7410", "dqm", streams=("physics",)) as consumer:
        for event in consumer.poll(timeout=1.0):
            event.payload, event.decision, event.tables()      # raw data, what was decided, tracks and vertices

A monitor (the default) takes what it can and is told how many events it missed. A lossless consumer gets every event of its streams
and calls `confirm` when it has what `poll` returned for good; until then the farm keeps the events. If it ends without
`close(leave=True)`, the farm waits for it to come back under the same name. An event can come twice (`resent`, or after a crash).
A consumer belongs to one thread; call `poll` at least once a second. The protocol is docs/wire-format.md.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import zmq
from numpy.typing import NDArray

from hltfarm.proto import output_wire as wire
from hltfarm.proto.columns import Tables, decode_columns
from hltfarm.proto.errors import ConfigError, LayoutError, WireCode, WireError
from hltfarm.proto.events import EventId
from hltfarm.proto.framing import check_body
from hltfarm.proto.limits import Limits
from hltfarm.proto.output_wire import Mode
from hltfarm.proto.results import layout_dtype
from hltfarm.service.security.handshake import Handshake
from hltfarm.service.security.keys import ClientCurve

CREDIT = 64  #: events that may be under way


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An accepted event. `decision`: one record of the fields of its description; `missed`: events that did not come before it.

    description: what decided it (menu, models, paths, ...), as in the metadata of an output file.
    """

    id: EventId
    payload: NDArray[np.uint8]
    decision: NDArray[np.void]
    columns: bytes
    missed: int
    resent: bool
    description: dict[str, Any] = field(repr=False)

    def tables(self) -> Tables | None:
        """Reconstructed tables, None if the farm keeps none. Raises WireError for damage."""
        return decode_columns(self.columns) if self.columns else None

    @property
    def paths(self) -> list[str]:
        """Names of the accepting paths."""
        bits = int(self.decision["path_bits"][0])
        return [name for bit, name in enumerate(self.description["paths"]) if bits >> bit & 1]


class Consumer:
    """A subscription. Connects in the background and anew after silence.

    Calls raise ConfigError for what the ingest will never take (any more), AccessError if it wants other keys or none.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        streams: tuple[str, ...] = (),
        mode: Mode = Mode.MONITOR,
        credit: int = CREDIT,
        heartbeat_s: float = 1.0,
        timeout_s: float = 5.0,
        limits: Limits | None = None,
        curve: ClientCurve | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self.url = url
        self.name = name
        self.mode = mode
        self.run = 0  #: the present run, 0 if none, as the ingest said last
        self.missed = 0  #: events without credit, over all sessions
        self.reconnects = 0  #: sessions after the first
        self.damaged = 0  #: messages that could not be read; a lossless consumer gets their events again
        self._names = wire.encode_names(name, streams)
        self._credit = credit
        self._heartbeat_s, self._timeout_s = heartbeat_s, timeout_s
        self._limits = limits or Limits()
        self._curve = curve
        self._own_context = context is None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context() if context is None else context
        self._socket: zmq.Socket[bytes] | None = None
        self._handshake: Handshake | None = None
        self._unread: deque[StreamEvent] = deque()
        self._connect()

    # -- public ------------------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """True while there is a session."""
        return self._session != 0

    def poll(self, timeout: float = 0.0) -> list[StreamEvent]:
        """Events that have arrived; waits up to `timeout` seconds for the first."""
        end = time.monotonic() + timeout
        while True:
            self._receive()
            if not self._session and self._handshake is not None:
                self._handshake.check()
            self._keep_alive(time.monotonic())
            if self._unread or time.monotonic() >= end:
                break
            assert self._socket is not None
            self._socket.poll(max(1, int(1000 * min(end - time.monotonic(), self._heartbeat_s / 2))))
        events = list(self._unread)
        self._unread.clear()
        if events:
            self._taken = self._received
            self._give_credit()
        return events

    def confirm(self) -> None:
        """Everything that `poll` has returned is safe here: the farm need not keep it any longer."""
        self._confirmed = self._taken
        self._give_credit()

    def close(self, *, leave: bool = True) -> None:
        """End. `leave`: the farm is not to wait for this consumer; else a lossless one keeps its claim."""
        if self._socket is not None:
            self._end_watch()
            if leave and self._session:
                self._send(wire.Bye(self._session))
                self._socket.close(linger=1000)
            else:
                self._socket.close(linger=0)
            self._socket = None
            if self._own_context:
                self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(leave=kind is None)

    # -- session -----------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._socket is not None:
            self._end_watch()
            self._socket.close(linger=0)
            self.reconnects += 1
        socket = self._socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 0)  # the credit bounds what comes
        if self._curve is not None:
            self._curve.apply(socket)
        self._handshake = Handshake(socket, self.url, self._curve)
        try:
            socket.connect(self.url)
        except zmq.ZMQError as error:
            self._end_watch()
            socket.close(linger=0)
            self._socket = None
            raise ConfigError(f"endpoint {self.url!r}: {error.strerror}") from error
        self._session = self._received = self._taken = self._confirmed = self._missed = 0
        self._descriptions: dict[int, dict[str, Any]] = {}
        self._heard = self._said = time.monotonic()
        self._unread.clear()  # not confirmed: they come again
        self._send(wire.Subscribe(self.mode), self._names)

    def _end_watch(self) -> None:
        if self._handshake is not None:
            self._handshake.close()
            self._handshake = None

    def _give_credit(self) -> None:
        if self._session:
            confirmed = self._confirmed if self.mode is Mode.LOSSLESS else self._taken
            self._send(wire.Credit(self._session, confirmed + self._credit, confirmed))

    def _send(self, header: wire.Header, body: bytes = b"") -> None:
        assert self._socket is not None
        self._said = time.monotonic()
        try:
            self._socket.send_multipart((wire.encode(header, body), body), zmq.NOBLOCK)
        except zmq.Again:
            return  # the ingest does not read: its silence ends the session

    def _keep_alive(self, now: float) -> None:
        if now - self._heard > self._timeout_s:
            self._connect()
        elif now - self._said >= self._heartbeat_s:
            if self._session:
                self._give_credit()
            else:
                self._send(wire.Subscribe(self.mode), self._names)

    # -- in ----------------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard = time.monotonic()
            try:
                self._message(frames)
            except WireError as error:
                if error.code in (WireCode.BAD_MAGIC, WireCode.UNKNOWN_VERSION):
                    raise ConfigError(f"{self.url} is no output of an ingest of this version: {error}") from error
                self.damaged += 1
                self._connect()  # what was lost is not confirmed

    def _message(self, frames: list[bytes]) -> None:
        header = wire.decode_header(frames[0])
        if len(frames) != (4 if isinstance(header, wire.Event) else 2):
            raise WireError(WireCode.TRUNCATED, f"{type(header).__name__} of {len(frames)} frames")
        most = self._limits.max_payload_bytes if isinstance(header, wire.Event) else wire.MAX_DESCRIPTION_BYTES
        check_body("body", frames[1], header.body_bytes, header.body_crc, most)
        if isinstance(header, wire.Status):
            self._status(header)
        elif isinstance(header, wire.Bye) and header.session == self._session:
            self._connect()
        elif isinstance(header, wire.Error):
            raise ConfigError(f"{self.url} refuses the consumer {self.name}: {frames[1].decode(errors='replace')}")
        elif isinstance(header, wire.Description):
            self._descriptions[header.number] = _description(frames[1])
            while len(self._descriptions) > wire.DESCRIPTIONS:
                del self._descriptions[next(iter(self._descriptions))]
        elif isinstance(header, wire.Event) and header.session == self._session:
            self._event(header, frames)

    def _status(self, header: wire.Status) -> None:
        self.run = header.run
        if not self._session:
            self._session = header.session
            self._give_credit()
        self._note_missed(header.missed)

    def _note_missed(self, missed: int) -> int:
        fresh, self._missed = missed - self._missed, max(missed, self._missed)
        self.missed += max(0, fresh)
        return max(0, fresh)

    def _event(self, header: wire.Event, frames: list[bytes]) -> None:
        check_body("decision", frames[2], header.decision_bytes, header.decision_crc, 1 << 16)
        check_body("columns", frames[3], header.columns_bytes, header.columns_crc, 1 << 30)
        description = self._descriptions.get(header.described)
        if header.serial != self._received + 1 or description is None:
            raise WireError(WireCode.MALFORMED_PAYLOAD, f"event with serial {header.serial} after {self._received}, or not described")
        dtype = layout_dtype(description["decision_fields"])
        if dtype.itemsize != len(frames[2]):
            raise WireError(WireCode.TRUNCATED, f"decision of {len(frames[2])} bytes, its fields have {dtype.itemsize}")
        self._received = header.serial
        self._unread.append(
            StreamEvent(
                EventId(header.run, header.lumi, header.event, header.bx),
                np.frombuffer(frames[1], dtype=np.uint8),
                np.frombuffer(frames[2], dtype=dtype),
                frames[3],
                self._note_missed(header.missed),
                bool(header.flags & wire.EventFlags.RESENT),
                description,
            )
        )


def _description(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
        layout_dtype(content["decision_fields"])
        list(content["paths"])
    except (ValueError, KeyError, TypeError, LayoutError) as error:
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"description: {error}") from error
    return dict(content)
