"""Binary frames of the output stream, between an ingest and the consumers of its accepted events, version 1 (docs/wire-format.md).

Built as the frames of `proto.wire` are: a header of fixed size and a body, little-endian and unpadded, under a magic of its own. An EVENT
has two more frames behind its body (the payload): the decision and the columns.

    magic "HLTO", version u8, type u8, header_bytes u16, body_bytes u32, body_crc32c u32, <fields of the type>, header_crc32c u32
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple, TypeAlias

from crc32c import crc32c

from hltfarm.proto.errors import LimitError, WireCode, WireError
from hltfarm.proto.wire import Buffer, checksum

MAGIC = b"HLTO"
VERSION = 1
MAX_TEXT_BYTES = 4096  #: of the names in a SUBSCRIBE, and of a BYE or an ERROR
MAX_DESCRIPTION_BYTES = 4 << 20
DESCRIPTIONS = 16  #: events name one of so many latest descriptions of their session


class FrameType(IntEnum):
    """Second byte after the magic."""

    SUBSCRIBE = 1  # consumer -> ingest: open a session for streams
    CREDIT = 2  # consumer -> ingest: how many events it takes, and which it has; stay alive
    STATUS = 3  # ingest -> consumer: the answer to a credit
    DESCRIPTION = 4  # ingest -> consumer: what decided the events that follow
    EVENT = 5  # ingest -> consumer
    BYE = 6  # both: the session ends
    ERROR = 7  # ingest -> consumer: a frame was refused


class Mode(IntEnum):
    """What happens to an event for which a consumer has given no credit."""

    MONITOR = 1  # it is not sent, and counted
    LOSSLESS = 2  # it stays in flight until the consumer has it


class EventFlags(IntFlag):
    RESENT = 1  # sent before, in an earlier session of this consumer


class Subscribe(NamedTuple):
    """`text`: the name of the consumer, then streams, one a line; no streams are all streams."""

    mode: int
    reserved: int = 0
    body_bytes: int = 0
    body_crc: int = 0


class Credit(NamedTuple):
    """Totals since the session began: events that the consumer takes, and the serial up to which it has all events for good."""

    session: int
    granted: int
    confirmed: int
    body_bytes: int = 0
    body_crc: int = 0


class Status(NamedTuple):
    """Totals since the session began; `missed`: events for which there was no credit. `run`: the present one, 0 if none."""

    session: int
    sent: int
    missed: int
    run: int
    reserved: int = 0
    body_bytes: int = 0
    body_crc: int = 0


class Description(NamedTuple):
    """Body: JSON, the metadata of an output file without run, lumisection and stream. `number`: what events name it by."""

    session: int
    number: int
    reserved: int = 0
    body_bytes: int = 0
    body_crc: int = 0


class Event(NamedTuple):
    """An event. `serial`: 1, 2, 3, ... in a session. `missed`: as in a Status, before this event. The body is the payload."""

    session: int
    serial: int
    missed: int
    event: int
    run: int
    lumi: int
    bx: int
    described: int
    payload_format: int
    flags: int
    decision_bytes: int
    decision_crc: int
    columns_bytes: int
    columns_crc: int
    body_bytes: int = 0
    body_crc: int = 0


class Bye(NamedTuple):
    session: int
    body_bytes: int = 0
    body_crc: int = 0


class Error(NamedTuple):
    code: int
    reserved: int = 0
    body_bytes: int = 0
    body_crc: int = 0


Header: TypeAlias = Subscribe | Credit | Status | Description | Event | Bye | Error
_PREFIX = struct.Struct("<4sBBHII")
_CRC = struct.Struct("<I")
#: type -> (class, struct of all but the final checksum)
_LAYOUT: dict[int, tuple[type[Header], struct.Struct]] = {
    FrameType.SUBSCRIBE: (Subscribe, struct.Struct("<4sBBHIIHH")),
    FrameType.CREDIT: (Credit, struct.Struct("<4sBBHIIQQQ")),
    FrameType.STATUS: (Status, struct.Struct("<4sBBHIIQQQII")),
    FrameType.DESCRIPTION: (Description, struct.Struct("<4sBBHIIQII")),
    FrameType.EVENT: (Event, struct.Struct("<4sBBHIIQQQQIIIIHHIIII")),
    FrameType.BYE: (Bye, struct.Struct("<4sBBHIIQ")),
    FrameType.ERROR: (Error, struct.Struct("<4sBBHIIHH")),
}
_TYPE = {cls: kind for kind, (cls, _) in _LAYOUT.items()}
HEADER_BYTES: dict[int, int] = {kind: layout.size + _CRC.size for kind, (_, layout) in _LAYOUT.items()}


def encode(header: Header, body: Buffer = b"", *, crc: int | None = None) -> bytes:
    """The header frame for `body` (its own lengths and checksum of the body are filled in). `crc`: of the body, where it is known.

    Raises LimitError if a number does not fit its field.
    """
    kind = _TYPE[type(header)]
    layout = _LAYOUT[kind][1]
    fields = header[:-2]
    try:
        head = layout.pack(MAGIC, VERSION, kind, layout.size + 4, len(body), checksum(body) if crc is None else crc, *fields)
    except struct.error as error:
        raise LimitError(f"{header} does not fit the wire format ({error})") from None
    return head + _CRC.pack(crc32c(head))


def decode_header(frame: Buffer) -> Header:
    """Check and unpack a header frame; raises WireError. Bodies are checked by `check_part`."""
    size = len(frame)
    if size < _PREFIX.size:
        raise WireError(WireCode.TRUNCATED, f"header of {size} bytes; the shortest prefix has {_PREFIX.size}")
    magic, version, kind, header_bytes, _, _ = _PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise WireError(WireCode.BAD_MAGIC, f"magic {magic.hex()}, not {MAGIC.hex()} of the output stream")
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


def check_part(what: str, part: Buffer, size: int, crc: int, most: int) -> None:
    """Check size and checksum of a frame behind a header that names them; raises WireError."""
    if max(size, len(part)) > most:
        raise WireError(WireCode.OVERSIZE, f"{what} of {max(size, len(part))} bytes, the limit is {most}")
    if len(part) != size:
        raise WireError(WireCode.TRUNCATED, f"{what} of {len(part)} bytes, the header says {size}")
    if checksum(part) != crc:
        raise WireError(WireCode.BAD_CRC, f"checksum of the {what} ({size} bytes) is wrong")


def encode_names(name: str, streams: tuple[str, ...]) -> bytes:
    """Body of a SUBSCRIBE. Raises LimitError for names that cannot be told apart in it."""
    names = (name, *streams)
    body = "\n".join(names).encode()
    if any(not part or "\n" in part for part in names) or len(body) > MAX_TEXT_BYTES:
        raise LimitError(f"consumer {name!r} of {streams}: names have no line breaks, are not empty, and {MAX_TEXT_BYTES} bytes at most")
    return body


def decode_names(body: Buffer) -> tuple[str, tuple[str, ...]]:
    """Name and streams of a SUBSCRIBE. Raises WireError (MALFORMED_PAYLOAD)."""
    try:
        name, *streams = bytes(body).decode().split("\n")
    except UnicodeDecodeError as error:
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"names of a subscription: {error}") from None
    if not name or not all(streams):
        raise WireError(WireCode.MALFORMED_PAYLOAD, "a subscription names its consumer, then streams, one a line; none may be empty")
    return name, tuple(streams)
