"""Python client for data sources: sends raw events to an ingest and collects the decisions.

    with Client("tcp://127.0.0.1:7400", "readout-1") as client:
        for event in events:
            client.send(event)                      # waits for credit
            for decision in client.poll(0):         # decisions that have arrived
                ...
        rest = client.flush(timeout=10)             # the remaining decisions

A client belongs to one thread; nothing happens behind its calls, so call `poll` at least once a second (`send` and `flush` do).
It keeps every event until its decision has come, and sends it again after a loss of the connection or of the ingest; the ingest
recognises what it has seen. An event payload must therefore not change before its decision. The protocol is docs/wire-format.md.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import zmq

from hltfarm.proto import wire
from hltfarm.proto.columns import Tables, decode_columns
from hltfarm.proto.errors import AccessError, HltfarmError, InputError, LimitError, WireCode, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.service.security.handshake import Handshake
from hltfarm.service.security.keys import ClientCurve

#: Refusals that leave the event with the client, to be sent when the ingest gives credit again.
_SEND_LATER = (WireCode.NO_CREDIT, WireCode.NOT_RUNNING, WireCode.NO_HELLO)
_NO_FLAGS = wire.EventFlags(0)
_COPY_BELOW = 65536  # bytes; ZeroMQ's zero-copy bookkeeping costs more than the copy of a smaller payload


class ConnectionLostError(HltfarmError):
    """The ingest did not answer within the time allowed."""

    retryable = True


class RefusedEvent(NamedTuple):
    """An event the ingest will not take, whatever the credit; it is no longer kept by the client."""

    id: EventId
    code: WireCode
    text: str


class Decision(NamedTuple):
    """Decision about one event. Seconds: `latency` from the first send to the arrival of the decision here, `server_latency` in the farm.

    `menu` and `models` identify what decided it: the menu's hash (hexadecimal) and `proto.messages.models_id`.
    `result` is one record of `hltfarm.proto.results.RESULT` (counts, flags, digest, path bits before prescale).
    `columns`: tables `tracks` and `vertices` (docs/wire-format.md) of an accepted event sent with `want_columns`, else None; its flag
    `COLUMNS_LEFT_OUT` says that the farm could not add them.
    """

    id: EventId
    outcome: Outcome
    path_bits: int
    digest: int
    latency: float
    server_latency: float
    reason: Reason
    attempts: int
    menu: str
    models: int
    result: np.void
    columns: Tables | None = None

    @property
    def accepted(self) -> bool:
        """True if the event is to be kept: accepted, or force-accepted to the error stream."""
        return self.outcome != Outcome.REJECT


@dataclass(slots=True)
class _Pending:
    event: RawEvent
    cookie: int  # monotonic ns of the first send
    bytes: int
    flags: wire.EventFlags  # but RESENT
    crc: int | None  # of the payload, if the caller told it
    columns: Tables | None = None  # arrived ahead of the decision


class Client:
    """Connection to one ingest; see the module's text.

    Any call that waits raises WireError if the ingest speaks another version, AccessError if it wants other keys or none.

    name: shown in the farm's status. heartbeat_s: time between signs of life. timeout_s: silence of the ingest after which the
    client connects anew (it keeps trying; `send` and `flush` have their own time-outs). payload_format: of all events that it sends.
    """

    def __init__(
        self,
        url: str,
        name: str = "client",
        *,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        heartbeat_s: float = 1.0,
        timeout_s: float = 5.0,
        limits: Limits | None = None,
        curve: ClientCurve | None = None,
        payload_format: int = wire.FED_TABLE,
    ) -> None:
        self.url = url
        self.name = name
        self.limits = limits or Limits()
        self.run = 0  #: run the ingest last announced, 0 if none
        self.open = False  #: whether the run takes events now
        self.reconnects = 0  #: sessions after the first
        self.resent = 0  #: events sent more than once
        self.refused: list[RefusedEvent] = []  #: events given up on, with the reason
        self.errors: dict[WireCode, int] = {}  #: error frames received, by code
        self._own_context = context is None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context() if context is None else context
        self._heartbeat_ns = int(heartbeat_s * 1e9)
        self._timeout_ns = int(timeout_s * 1e9)
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._resend: deque[tuple[int, int]] = deque()
        self._unread: list[Decision] = []
        self._curve = curve
        self._payload_format = payload_format
        self._socket: zmq.Socket[bytes] | None = None
        self._handshake: Handshake | None = None
        self._connect()

    # -- public ------------------------------------------------------------------------------------------------------------

    @property
    def credit(self) -> tuple[int, int]:
        """(events, bytes) that may be sent now. Resends have the first claim on it. (0, 0) while there is no session."""
        if not self._session:
            return 0, 0
        return max(0, self._granted_events - self._sent_events), max(0, self._granted_bytes - self._sent_bytes)

    @property
    def connected(self) -> bool:
        """True while a session with the ingest is open."""
        return self._session != 0

    @property
    def unacknowledged(self) -> int:
        """Events whose decision has not come yet."""
        return len(self._pending)

    def try_send(self, event: RawEvent, want_columns: bool = False, crc: int | None = None) -> bool:
        """Send one event if the credit allows it; never waits. False: no credit (call `poll`, then try again).

        want_columns: tracks and vertices are to come with the decision if the event is accepted. crc: `framing.checksum` of the payload,
        for who sends the same one often.
        Raises LimitError for a payload the ingest would refuse by its size, InputError for an event that is already under way.
        """
        size = len(event.payload)
        if size > min(self.limits.max_payload_bytes, self._max_payload):
            raise LimitError(f"{event.id}: payload of {size} bytes, the limit is {min(self.limits.max_payload_bytes, self._max_payload)}")
        key = (event.id.run, event.id.event)
        if key in self._pending:
            raise InputError(f"{event.id} is under way already: (run, event) must be unique")
        events, room = self.credit
        if self._resend or not events or size > room:
            return False
        flags = wire.EventFlags.WANT_COLUMNS if want_columns else _NO_FLAGS
        entry = _Pending(event, time.monotonic_ns(), size, flags, crc)
        if not self._transmit(entry, entry.flags):
            return False
        self._pending[key] = entry
        return True

    def send(self, event: RawEvent, timeout: float | None = None, want_columns: bool = False) -> None:
        """Send one event, waiting for credit (see `try_send`). Decisions that arrive meanwhile are returned by the next `poll`.

        Raises TimeoutError after `timeout` seconds (None: wait for ever); the event is then not sent.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.try_send(event, want_columns):
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no credit from {self.url} for {event.id} within {timeout} s (run {self.run}, open: {self.open})")
            self._receive(left)

    def poll(self, timeout: float = 0.0) -> list[Decision]:
        """Decisions that have arrived, waiting up to `timeout` seconds for the first. Also keeps the session alive."""
        if self._unread:
            timeout = 0.0
        self._receive(timeout)
        unread, self._unread = self._unread, []
        return unread

    def flush(self, timeout: float | None = None) -> list[Decision]:
        """Wait until every event sent has its decision (or was refused, see `refused`) and return the decisions.

        Raises TimeoutError after `timeout` seconds; the decisions so far are then still returned by the next `poll`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._pending:
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self._pending)} events without decision from {self.url} after {timeout} s")
            self._receive(left)
        unread, self._unread = self._unread, []
        return unread

    def wait_open(self, timeout: float) -> None:
        """Wait until there is credit. After `timeout` seconds raises ConnectionLostError if there is no session, else TimeoutError."""
        deadline = time.monotonic() + timeout
        while not self.credit[0]:
            left = deadline - time.monotonic()
            if left <= 0:
                if not self._session:
                    trouble = self._handshake.trouble if self._handshake is not None else ""
                    raise ConnectionLostError(
                        f"no answer from an ingest at {self.url} within {timeout:g} s{trouble}; is it running (`hltfarm serve`), and is"
                        " this the address that it printed?"
                    )
                raise TimeoutError(f"{self.url} gave no credit within {timeout} s (run {self.run}, open: {self.open})")
            self._receive(left)

    def close(self) -> None:
        """End the session. Unacknowledged events are forgotten here; the farm still decides those it has received."""
        if self._socket is None:
            return
        if self._session:
            self._put(wire.encode_bye(self._session))
        self._hang_up(1000 if self._session else 0)
        if self._own_context:
            self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- session -----------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Fresh socket (the old one may hold stale messages), new session; every pending event is to be sent again."""
        if self._socket is not None:
            self._hang_up(0)
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 64)
        socket.setsockopt(zmq.RCVHWM, 1024)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if self._curve is not None:
            self._curve.apply(socket)
        self._handshake = Handshake(socket, self.url, self._curve, self._handshake.trouble if self._handshake is not None else "")
        socket.connect(self.url)
        self._socket = socket
        self._session = 0
        self._serial = 0
        self._granted_events = self._granted_bytes = 0
        self._sent_events = self._sent_bytes = 0
        self._max_payload = self.limits.max_payload_bytes
        self._resend = deque(self._pending)
        self._heard_ns = self._said_ns = time.monotonic_ns()
        self._hello()

    def _hang_up(self, linger_ms: int) -> None:
        assert self._socket is not None
        assert self._handshake is not None
        self._handshake.close()
        self._socket.close(linger=linger_ms)
        self._socket = None

    def _hello(self) -> None:
        self._said_ns = time.monotonic_ns()
        self._put(
            wire.encode_hello(
                self.name, session=self._session, serial=self._serial, sent_events=self._sent_events, sent_bytes=self._sent_bytes
            )
        )

    def _put(self, message: wire.Message) -> bool:
        assert self._socket is not None, "the client is closed"
        try:
            self._socket.send_multipart(message, zmq.NOBLOCK)
        except zmq.Again:
            return False  # full pipe: no connection, or a stalled ingest; the heartbeat and the resend put it right
        return True

    def _transmit(self, entry: _Pending, flags: int) -> bool:
        assert self._socket is not None, "the client is closed"
        payload = entry.event.payload
        header = wire.encode_event(
            entry.event.id, payload, cookie=entry.cookie, flags=flags, crc=entry.crc, payload_format=self._payload_format
        )
        try:
            self._socket.send(header, zmq.NOBLOCK | zmq.SNDMORE)
        except zmq.Again:
            return False
        self._socket.send(payload.data, 0, entry.bytes < _COPY_BELOW)
        self._sent_events += 1
        self._sent_bytes += entry.bytes
        return True

    def _receive(self, timeout: float) -> None:
        """One turn: wait up to `timeout` seconds for messages, handle all of them, resend, keep the session alive."""
        assert self._socket is not None, "the client is closed"
        now = time.monotonic_ns()
        wait_ns = max(0, min(int(timeout * 1e9), self._said_ns + self._heartbeat_ns - now))
        if self._socket.poll(-(-wait_ns // 1_000_000)):
            self._heard_ns = time.monotonic_ns()
            socket = self._socket
            while socket is self._socket:  # a lost session replaces the socket
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._handle(frames)
        if not self._session and self._handshake is not None:
            self._handshake.check()
        now = time.monotonic_ns()
        if now - self._heard_ns > self._timeout_ns:
            self.reconnects += 1
            self._connect()
        elif now - self._said_ns >= self._heartbeat_ns:
            self._hello()
        self._send_again()

    def _send_again(self) -> None:
        while self._resend:
            entry = self._pending.get(self._resend[0])
            if entry is not None:
                events, room = self.credit
                if not events or entry.bytes > room or not self._transmit(entry, entry.flags | wire.EventFlags.RESENT):
                    return
                self.resent += 1
            self._resend.popleft()

    def _handle(self, frames: list[bytes]) -> None:
        header = wire.decode_header(frames[0])
        body = frames[1] if len(frames) == 2 else b""
        wire.check_body(header, body, self.limits)
        if isinstance(header, wire.Decisions):
            self._decided(wire.decode_decisions(header, body))
        elif isinstance(header, wire.Columns):
            entry = self._pending.get((header.run, header.event))
            if entry is not None:
                entry.columns = decode_columns(body)
        elif isinstance(header, wire.Credit):
            self._credited(header)
        elif isinstance(header, wire.Error):
            self._refused(header, wire.decode_text(body))

    def _credited(self, credit: wire.Credit) -> None:
        if self._session and credit.session != self._session:
            return  # an answer to an earlier hello
        if not self._session and self._handshake is not None:
            self._handshake.trouble = ""
        self._session, self._serial = credit.session, credit.serial
        self._granted_events, self._granted_bytes = credit.granted_events, credit.granted_bytes
        self._max_payload = credit.max_payload_bytes
        self.run, self.open = credit.run, bool(credit.flags & wire.CreditFlags.OPEN)
        if credit.flags & wire.CreditFlags.CONFIRM:
            self._hello()

    def _decided(self, records: np.ndarray[tuple[int, ...], np.dtype[np.void]]) -> None:
        now = time.monotonic_ns()
        results = records["result"]
        for i, (run, lumi, event, bx, outcome, reason, attempts, cookie, latency_ns, menu, models, result) in enumerate(records.tolist()):
            entry = self._pending.pop((run, event), None)
            if entry is None:
                continue  # decided twice over a reconnect
            self._unread.append(
                Decision(
                    EventId(run, lumi, event, bx), Outcome(outcome), result[1], result[0], (now - cookie) * 1e-9, latency_ns * 1e-9,
                    Reason(reason), attempts, f"{menu:016x}", models, results[i], entry.columns,
                )
            )  # fmt: skip

    def _refused(self, error: wire.Error, text: str) -> None:
        if error.code not in WireCode.__members__.values():
            raise WireError(WireCode.UNKNOWN_TYPE, f"{self.url}: refusal {error.code}, which this version does not know: {text}")
        code = WireCode(error.code)
        self.errors[code] = self.errors.get(code, 0) + 1
        if code == WireCode.UNKNOWN_VERSION:
            raise WireError(code, f"{self.url}: {text}")
        if code == WireCode.NOT_ALLOWED:
            raise AccessError(f"{self.url}: {text}")
        if code == WireCode.NO_HELLO:
            self.reconnects += 1
            self._connect()
            return
        if not error.flags & wire.ErrorFlags.HAS_EVENT:
            return
        key = (error.run, error.event)
        if code in _SEND_LATER:
            if key in self._pending:
                self._resend.append(key)
            return
        entry = self._pending.pop(key, None)
        if entry is not None:
            self.refused.append(RefusedEvent(entry.event.id, code, text))
