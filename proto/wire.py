"""Binary frames between clients and an ingest, version 1. docs/wire-format.md is the specification, with test vectors.

A message is two ZeroMQ frames: a header of fixed size and a body (payload, records or text; empty for some types).
All integers are little-endian and unpadded. Every header starts with the same 16 bytes and ends with the CRC32C of all its
other bytes:

    magic "HLTF", version u8, type u8, header_bytes u16, body_bytes u32, body_crc32c u32, <fields of the type>, header_crc32c u32

Checks are made in the order of `WireCode`s: length, magic, version, type, header length, header checksum, body size, body checksum.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from hltfarm.proto.errors import LimitError, WireCode, WireError
from hltfarm.proto.events import EventId
from hltfarm.proto.limits import Limits
from hltfarm.proto.results import RESULT

Buffer: TypeAlias = bytes | bytearray | memoryview

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

_PREFIX = struct.Struct("<4sBBHII")
_CRC = struct.Struct("<I")
#: type -> (class, struct of all but the final checksum)
_LAYOUT: dict[int, tuple[type[Header], struct.Struct]] = {
    FrameType.HELLO: (Hello, struct.Struct("<4sBBHIIQIQQ")),
    FrameType.EVENT: (EventHeader, struct.Struct("<4sBBHIIIIQIHHQ")),
    FrameType.CREDIT: (Credit, struct.Struct("<4sBBHIIQIIQQII")),
    FrameType.DECISION: (Decisions, struct.Struct("<4sBBHIIII")),
    FrameType.ERROR: (Error, struct.Struct("<4sBBHIIHHIQQ")),
    FrameType.BYE: (Bye, struct.Struct("<4sBBHIIQ")),
    FrameType.COLUMNS: (Columns, struct.Struct("<4sBBHIIIIQQ")),
}
_EVENT = struct.Struct("<6sHIIIIQIHHQI")  # a whole event header: what every one begins with, lengths and checksum, fields, checksum
_EVENT_BYTES = _EVENT.size
_EVENT_BEGIN = MAGIC + bytes((VERSION, FrameType.EVENT))
HEADER_BYTES: dict[int, int] = {kind: layout.size + _CRC.size for kind, (_, layout) in _LAYOUT.items()}


def checksum(body: Buffer | NDArray[np.uint8]) -> int:
    """CRC32C of a contiguous buffer."""
    return crc32c(cast(bytes, body))  # it reads any buffer; its stub names only some


def _encode(kind: FrameType, body: Buffer | NDArray[np.uint8], *fields: int, crc: int | None = None) -> bytes:
    layout = _LAYOUT[kind][1]
    head = layout.pack(MAGIC, VERSION, kind, layout.size + 4, len(body), checksum(body) if crc is None else crc, *fields)
    return head + _CRC.pack(crc32c(head))


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
        return _encode(FrameType.EVENT, payload, event.run, event.lumi, event.event, event.bx, payload_format, flags, cookie, crc=crc)
    except struct.error as error:
        raise LimitError(f"{event} does not fit the wire format: run, lumi, bx have 32 bits, event and cookie 64 ({error})") from None


def encode_hello(name: str, *, session: int = 0, serial: int = 0, sent_events: int = 0, sent_bytes: int = 0) -> Message:
    """Message of a client that opens (`session` 0) or keeps up a session."""
    body = name.encode()
    return _encode(FrameType.HELLO, body, session, serial, sent_events, sent_bytes), body


def encode_bye(session: int) -> Message:
    """Message of a client that ends its session."""
    return _encode(FrameType.BYE, b"", session), b""


def encode_credit(credit: Credit) -> Message:
    """Message that tells a client its licence."""
    return _encode(FrameType.CREDIT, b"", *credit[:7]), b""


def encode_decisions(records: NDArray[np.void]) -> Message:
    """Message for an array of DECISION records."""
    body = records.tobytes()
    return _encode(FrameType.DECISION, body, len(records), DECISION.itemsize), body


def encode_reply_columns(run: int, lumi: int, event: int, cookie: int, body: bytes) -> Message:
    """Message with the columns of an event, `body` as `proto.columns.encode_columns` made it."""
    return _encode(FrameType.COLUMNS, body, run, lumi, event, cookie), body


def encode_error(code: WireCode, text: str, event: EventHeader | None = None) -> Message:
    """Message that refuses a frame; `event` if it was an event whose header could be read."""
    body = text.encode()[: Limits().max_text_bytes]
    ident = (ErrorFlags.HAS_EVENT, event.run, event.event, event.cookie) if event is not None else (0, 0, 0, 0)
    return _encode(FrameType.ERROR, body, code, *ident), body


def decode_header(frame: Buffer) -> Header:
    """Check and unpack a header frame; raises WireError. The body is checked by `check_body`."""
    size = len(frame)
    if size == _EVENT_BYTES:  # nearly all frames: one look instead of three
        begin, header_bytes, body_bytes, body_crc, *fields, crc = _EVENT.unpack(frame)
        if begin == _EVENT_BEGIN and header_bytes == size and crc32c(frame[:-4]) == crc:
            return EventHeader._make((*fields, body_bytes, body_crc))
    if size < _PREFIX.size:
        raise WireError(WireCode.TRUNCATED, f"header of {size} bytes; the shortest prefix has {_PREFIX.size}")
    magic, version, kind, header_bytes, _, _ = _PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise WireError(WireCode.BAD_MAGIC, f"magic {magic.hex()}, not {MAGIC.hex()}")
    if version != VERSION:
        raise WireError(WireCode.UNKNOWN_VERSION, f"version {version}; this side speaks {VERSION}")
    entry = _LAYOUT.get(kind)
    if entry is None:
        raise WireError(WireCode.UNKNOWN_TYPE, f"frame type {kind}; known are {', '.join(f'{t} {t.name}' for t in FrameType)}")
    cls, layout = entry
    end = layout.size
    if size != end + 4 or header_bytes != size:
        raise WireError(WireCode.TRUNCATED, f"{FrameType(kind).name} header of {size} bytes (field: {header_bytes}), not {end + 4}")
    (crc,) = _CRC.unpack_from(frame, end)
    if crc32c(frame[:end]) != crc:
        raise WireError(WireCode.BAD_CRC, f"header checksum of {FrameType(kind).name} is wrong")
    _, _, _, _, body_bytes, body_crc, *fields = layout.unpack_from(frame)
    return cls._make((*fields, body_bytes, body_crc))


def check_body(header: Header, body: Buffer, limits: Limits) -> None:
    """Check size and checksum of the body that came with `header`; raises WireError. Does not look into a payload."""
    size = len(body)
    if isinstance(header, EventHeader):
        bound = limits.max_payload_bytes
    elif isinstance(header, Decisions):
        bound = limits.max_decisions * DECISION.itemsize
    elif isinstance(header, Columns):
        bound = limits.max_columns_bytes
    else:
        bound = limits.max_name_bytes if isinstance(header, Hello) else limits.max_text_bytes
    if size > bound or header.body_bytes > bound:
        raise WireError(WireCode.OVERSIZE, f"body of {max(size, header.body_bytes)} bytes, the limit is {bound}")
    if size != header.body_bytes:
        raise WireError(WireCode.TRUNCATED, f"body of {size} bytes, the header says {header.body_bytes}")
    if crc32c(cast(bytes, body)) != header.body_crc:
        raise WireError(WireCode.BAD_CRC, f"checksum of the body ({size} bytes) is wrong")


def decode_decisions(header: Decisions, body: Buffer) -> NDArray[np.void]:
    """Records of a DECISION message as a read-only view of `body`; raises WireError if they do not fill it exactly."""
    if header.record_bytes != DECISION.itemsize or header.records * DECISION.itemsize != len(body):
        raise WireError(WireCode.TRUNCATED, f"{header.records} records of {header.record_bytes} bytes do not fill {len(body)} bytes")
    return np.frombuffer(body, dtype=DECISION)


def decode_text(body: Buffer) -> str:
    """Text of an ERROR or HELLO body; bytes that are not UTF-8 are replaced."""
    return bytes(body).decode(errors="replace")
