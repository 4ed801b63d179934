"""Binary frames of the output stream, between an ingest and the consumers of its accepted events, version 1 (docs/wire-format.md).

Headers are those of `proto.framing` under the magic "HLTO". An EVENT has two more frames behind its body (the payload): the decision and
the columns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple, TypeAlias

from hltfarm.proto.errors import LimitError, WireCode, WireError
from hltfarm.proto.framing import Buffer, Framing

MAGIC = b"HLTO"
VERSION = 1
MAX_TEXT_BYTES = 4096  #: of the names in a SUBSCRIBE, and of a BYE or an ERROR
CONSUMER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}\Z")
STREAM_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")
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
_LAYOUTS: dict[int, tuple[type[Header], str]] = {
    FrameType.SUBSCRIBE: (Subscribe, "HH"),
    FrameType.CREDIT: (Credit, "QQQ"),
    FrameType.STATUS: (Status, "QQQII"),
    FrameType.DESCRIPTION: (Description, "QII"),
    FrameType.EVENT: (Event, "QQQQIIIIHHIIII"),
    FrameType.BYE: (Bye, "Q"),
    FrameType.ERROR: (Error, "HH"),
}
FRAMING: Framing[Header] = Framing(MAGIC, VERSION, FrameType, _LAYOUTS)
_TYPE = {cls: kind for kind, (cls, _) in _LAYOUTS.items()}


def encode(header: Header, body: Buffer = b"", *, crc: int | None = None) -> bytes:
    """The header frame for `body` (its own lengths and checksum of the body are filled in). `crc`: of the body, where it is known.

    Raises LimitError if a number does not fit its field.
    """
    try:
        return FRAMING.pack(_TYPE[type(header)], body, header[:-2], crc)
    except struct.error as error:
        raise LimitError(f"{header} does not fit the wire format ({error})") from None


def decode_header(frame: Buffer) -> Header:
    """Check and unpack a header frame; raises WireError. Frames behind it are checked by `framing.check_body`."""
    return FRAMING.unpack(frame)


def encode_names(name: str, streams: tuple[str, ...]) -> bytes:
    """Body of a SUBSCRIBE. Raises LimitError for names that cannot be told apart in it."""
    try:
        _check_names(name, streams)
    except WireError as error:
        raise LimitError(str(error)) from None
    body = "\n".join((name, *streams)).encode()
    if len(body) > MAX_TEXT_BYTES:
        raise LimitError(f"consumer {name!r}: its name and {len(streams)} streams have {len(body)} bytes, the limit is {MAX_TEXT_BYTES}")
    return body


def _check_names(name: str, streams: Sequence[str]) -> None:
    """Names are shown in terminals and become parts of addresses of the API."""
    if not CONSUMER_NAME.match(name):
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"consumer {name[:80]!r}: a name has letters, digits and . _ @ -, 128 at most")
    for stream in streams:
        if not STREAM_NAME.match(stream):
            raise WireError(WireCode.MALFORMED_PAYLOAD, f"stream {stream[:80]!r}: a name has letters, digits and _, 64 at most")


def decode_names(body: Buffer) -> tuple[str, tuple[str, ...]]:
    """Name and streams of a SUBSCRIBE. Raises WireError (MALFORMED_PAYLOAD)."""
    try:
        name, *streams = bytes(body).decode().split("\n")
    except UnicodeDecodeError as error:
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"names of a subscription: {error}") from None
    _check_names(name, streams)
    return name, tuple(streams)
