"""Binary frames between clients and an ingest, version 1. docs/wire-format.md is the specification, with test vectors.

A message is two ZeroMQ frames: a header of fixed size (`proto.framing`) under the magic "HLTF", and a body (payload, records or text; empty
for some types).
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple, TypeAlias

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from hltfarm.proto import framing
from hltfarm.proto.errors import LimitError, WireCode, WireError
from hltfarm.proto.events import EventId
from hltfarm.proto.framing import Buffer, Framing
from hltfarm.proto.limits import Limits
from hltfarm.proto.results import RESULT

MAGIC = b"HLTF"
VERSION = 1
FED_TABLE = 1  #: payload format: FED table (the only one so far)


class FrameType(IntEnum):
    """Second byte after the magic."""

    HELLO = 1  # client -> ingest: open a session, stay alive, confirm a credit
    EVENT = 2  # client -> ingest
    CREDIT = 3  # ingest -> client: the answer to a hello, and whenever the licence changes
    DECISION = 4  # ingest -> client
    ERROR = 5  # ingest -> client: a frame was refused
    BYE = 6  # client -> ingest: the session ends, its credit is free again
    COLUMNS = 7  # ingest -> client: tracks and vertices of an accepted event, ahead of its decision


class EventFlags(IntFlag):
    RESENT = 1  # sent before, in this or an earlier session
    WANT_COLUMNS = 2  # if the event is accepted, its tracks and vertices are to come with the decision


class CreditFlags(IntFlag):
    CONFIRM = 1  # answer with a hello that repeats this serial: the licence was lowered
    OPEN = 2  # the run takes events now


class ErrorFlags(IntFlag):
    HAS_EVENT = 1  # `run`, `event` and `cookie` name the refused event


class Outcome(IntEnum):
    ACCEPT = 1
    REJECT = 2
    ERROR = 3  # force-accepted to the error stream, without a reconstruction


class Reason(IntEnum):
    """Why an event went to the error stream."""

    NONE = 0
    WORKER_LOST = 1  # the process ended or fell silent with this event alone in it
    WORKER_FAILED = 2  # the reconstruction raised an exception for this event alone
    STOPPED = 3  # the run was stopped before the event could be decided
    RESET = 4  # the farm was reset with the event in flight


#: One record of a DECISION body. `latency_ns`: event received to decision, on the ingest's clock. `cookie`: as in the event frame.
#: `menu`, `models`: what decided it, the menu's hash and `messages.models_id`; 0 in the error stream.
DECISION = np.dtype(
    [
        ("run", "<u4"),
        ("lumi", "<u4"),
        ("event", "<u8"),
        ("bx", "<u4"),
        ("outcome", "u1"),
        ("reason", "u1"),
        ("attempts", "<u2"),
        ("cookie", "<u8"),
        ("latency_ns", "<u8"),
        ("menu", "<u8"),
        ("models", "<u8"),
        ("result", RESULT),
    ]
)


class Hello(NamedTuple):
    session: int  # 0 asks for a new session
    serial: int  # of the last credit read
    sent_events: int  # in this session so far
    sent_bytes: int
    body_bytes: int = 0
    body_crc: int = 0


class EventHeader(NamedTuple):
    run: int
    lumi: int
    event: int
    bx: int
    payload_format: int
    flags: int
    cookie: int  # opaque to the ingest, returned with the decision
    body_bytes: int = 0
    body_crc: int = 0

    @property
    def id(self) -> EventId:
        return EventId(self.run, self.lumi, self.event, self.bx)


class Credit(NamedTuple):
    """Totals since the start of the session: a client may have sent `granted_events` events of `granted_bytes` payload bytes."""

    session: int
    serial: int
    flags: int
    granted_events: int
    granted_bytes: int
    run: int  # 0 if none
    max_payload_bytes: int
    body_bytes: int = 0
    body_crc: int = 0


class Decisions(NamedTuple):
    records: int
    record_bytes: int
    body_bytes: int = 0
    body_crc: int = 0


class Error(NamedTuple):
    code: int
    flags: int
    run: int
    event: int
    cookie: int
    body_bytes: int = 0
    body_crc: int = 0


class Bye(NamedTuple):
    session: int
    body_bytes: int = 0
    body_crc: int = 0


class Columns(NamedTuple):
    """Of one event; `cookie` as in its decision. The body is read by `proto.columns.decode_columns`."""

    run: int
    lumi: int
    event: int
    cookie: int
    body_bytes: int = 0
    body_crc: int = 0


Header: TypeAlias = Hello | EventHeader | Credit | Decisions | Error | Bye | Columns
Message: TypeAlias = tuple[bytes, bytes]  # header frame, body frame

FRAMING: Framing[Header] = Framing(
    MAGIC,
    VERSION,
    FrameType,
    {
        FrameType.HELLO: (Hello, "QIQQ"),
        FrameType.EVENT: (EventHeader, "IIQIHHQ"),
        FrameType.CREDIT: (Credit, "QIIQQII"),
        FrameType.DECISION: (Decisions, "II"),
        FrameType.ERROR: (Error, "HHIQQ"),
        FrameType.BYE: (Bye, "Q"),
        FrameType.COLUMNS: (Columns, "IIQQ"),
    },
)
_EVENT = struct.Struct("<6sHIIIIQIHHQI")  # a whole event header: what every one begins with, lengths and checksum, fields, checksum
_EVENT_BYTES = _EVENT.size
_EVENT_BEGIN = MAGIC + bytes((VERSION, FrameType.EVENT))


def encode_event(
    event: EventId,
    payload: Buffer | NDArray[np.uint8],
    *,
    cookie: int = 0,
    flags: int = 0,
    payload_format: int = FED_TABLE,
    crc: int | None = None,
) -> bytes:
    """Header frame of an event; the payload itself is the body frame. `crc`: the payload's `checksum`, where it is known already.

    Raises LimitError if an id does not fit its field.
    """
    try:
        fields = (event.run, event.lumi, event.event, event.bx, payload_format, flags, cookie)
        return FRAMING.pack(FrameType.EVENT, payload, fields, crc)
    except struct.error as error:
        raise LimitError(f"{event} does not fit the wire format: run, lumi, bx have 32 bits, event and cookie 64 ({error})") from None


def encode_hello(name: str, *, session: int = 0, serial: int = 0, sent_events: int = 0, sent_bytes: int = 0) -> Message:
    """Message of a client that opens (`session` 0) or keeps up a session."""
    body = name.encode()
    return FRAMING.pack(FrameType.HELLO, body, (session, serial, sent_events, sent_bytes)), body


def encode_bye(session: int) -> Message:
    """Message of a client that ends its session."""
    return FRAMING.pack(FrameType.BYE, b"", (session,)), b""


def encode_credit(credit: Credit) -> Message:
    """Message that tells a client its licence."""
    return FRAMING.pack(FrameType.CREDIT, b"", credit[:7]), b""


def encode_decisions(records: NDArray[np.void]) -> Message:
    """Message for an array of DECISION records."""
    body = records.tobytes()
    return FRAMING.pack(FrameType.DECISION, body, (len(records), DECISION.itemsize)), body


def encode_reply_columns(run: int, lumi: int, event: int, cookie: int, body: bytes) -> Message:
    """Message with the columns of an event, `body` as `proto.columns.encode_columns` made it."""
    return FRAMING.pack(FrameType.COLUMNS, body, (run, lumi, event, cookie)), body


def encode_error(code: WireCode, text: str, event: EventHeader | None = None) -> Message:
    """Message that refuses a frame; `event` if it was an event whose header could be read."""
    body = text.encode()[: Limits().max_text_bytes]
    ident = (ErrorFlags.HAS_EVENT, event.run, event.event, event.cookie) if event is not None else (0, 0, 0, 0)
    return FRAMING.pack(FrameType.ERROR, body, (code, *ident)), body


def decode_header(frame: Buffer) -> Header:
    """Check and unpack a header frame; raises WireError. The body is checked by `check_body`."""
    size = len(frame)
    if size == _EVENT_BYTES:  # nearly all frames: one look instead of three
        begin, header_bytes, body_bytes, body_crc, *fields, crc = _EVENT.unpack(frame)
        if begin == _EVENT_BEGIN and header_bytes == size and crc32c(frame[:-4]) == crc:
            return EventHeader._make((*fields, body_bytes, body_crc))
    return FRAMING.unpack(frame)


def check_body(header: Header, body: Buffer, limits: Limits) -> None:
    """Check size and checksum of the body that came with `header`; raises WireError. Does not look into a payload."""
    if isinstance(header, EventHeader):
        bound = limits.max_payload_bytes
    elif isinstance(header, Decisions):
        bound = limits.max_decisions * DECISION.itemsize
    elif isinstance(header, Columns):
        bound = limits.max_columns_bytes
    else:
        bound = limits.max_name_bytes if isinstance(header, Hello) else limits.max_text_bytes
    framing.check_body("body", body, header.body_bytes, header.body_crc, bound)


def decode_decisions(header: Decisions, body: Buffer) -> NDArray[np.void]:
    """Records of a DECISION message as a read-only view of `body`; raises WireError if they do not fill it exactly."""
    if header.record_bytes != DECISION.itemsize or header.records * DECISION.itemsize != len(body):
        raise WireError(WireCode.TRUNCATED, f"{header.records} records of {header.record_bytes} bytes do not fill {len(body)} bytes")
    return np.frombuffer(body, dtype=DECISION)


def decode_text(body: Buffer) -> str:
    """Text of an ERROR or HELLO body; bytes that are not UTF-8 are replaced."""
    return bytes(body).decode(errors="replace")
