"""Records of a sample file: a checked 128-byte header, the data, zeros up to the next multiple of 128 bytes (docs/sample-format.md)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import NoReturn

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from hltfarm.loadgen.arrays import shuffle, unshuffle
from hltfarm.proto.errors import SampleError

ALIGN = 128
VERSION = 1
FILE_MAGIC = b"HLTSMPL\0"
FOOTER_MAGIC = b"HLTSEND\0"
RECORD_MAGIC = 0x52544C48
PAYLOAD_FORMAT = 1  # FED table
ZLIB_RATIO = 1032  # the most that deflate can do
LARGEST_UNPACKED = 1 << 30  # bytes of a record; a file may claim what it likes

_RECORD = struct.Struct("<IIIIQQQIIIII")
_FILE = struct.Struct("<8sII")
_FOOTER = struct.Struct("<8sIIQQQ")
_CRC = struct.Struct("<I")

#: Index entries. `truth` is 0 for an event without truth. `decision`: how far behind the payload's record that of the decision begins, in
#: units of ALIGN; 0 without one.
INDEX = np.dtype(
    [
        ("payload", "<u8"),
        ("truth", "<u8"),
        ("event", "<u8"),
        ("run", "<u4"),
        ("lumi", "<u4"),
        ("bx", "<u4"),
        ("decision", "<u4"),
    ]
)


class Kind(IntEnum):
    METADATA = 1
    DETECTOR = 2
    PAYLOAD = 3
    TRUTH = 4
    INDEX = 5
    DECISION = 6
    COLUMNS = 7


#: Kinds that may follow the payload of an event; a decision is the last record of its event.
OF_EVENT = frozenset({Kind.TRUTH, Kind.COLUMNS, Kind.DECISION})


class Flags(IntFlag):
    NONE = 0
    ZLIB = 1  # data are compressed
    SHUFFLED = 2  # before that, 32-bit words were split into byte planes


@dataclass(frozen=True)
class Header:
    """Header of a record. The identity and the payload format are 0 except for the records of an event."""

    kind: int
    flags: int = 0
    crc: int = 0
    stored: int = 0
    size: int = 0
    event: int = 0
    run: int = 0
    lumi: int = 0
    bx: int = 0
    payload_format: int = 0

    def pack(self) -> bytes:
        identity = (self.event, self.run, self.lumi, self.bx, self.payload_format)
        return plain_header(self.kind, self.crc, self.stored, *identity, self.flags, self.size)


def plain_header(
    kind: int, crc: int, stored: int, event: int, run: int, lumi: int, bx: int, payload_format: int, flags: int = 0, size: int | None = None
) -> bytes:
    """The 128 bytes before the data of a record; `size`: bytes when unpacked, if they are not as stored."""
    whole = stored if size is None else size
    return seal(_RECORD.pack(RECORD_MAGIC, kind, flags, crc, stored, whole, event, run, lumi, bx, payload_format, 0))


def encode(header: Header, data: bytes | memoryview, flags: Flags) -> bytes:
    """The whole record, padding included. `flags` says how the data are to be stored; SHUFFLED needs whole 32-bit words."""
    size = len(data)
    if Flags.ZLIB in flags:
        data = zlib.compress(shuffle(bytes(data), 4) if Flags.SHUFFLED in flags else bytes(data), 6)
    head = replace(header, flags=int(flags), crc=crc32c(data), stored=len(data), size=size)
    return b"".join((head.pack(), data, bytes(-len(data) % ALIGN)))


def seal(text: bytes) -> bytes:
    """`text` padded to 124 bytes, then its CRC32C."""
    body = text.ljust(ALIGN - _CRC.size, b"\0")
    return body + _CRC.pack(crc32c(body))


def file_header() -> bytes:
    """The first 128 bytes of a sample."""
    return seal(_FILE.pack(FILE_MAGIC, VERSION, ALIGN))


def footer(n_events: int, index: int, file_size: int) -> bytes:
    """The last 128 bytes of a sample; `index` is the offset of the index record."""
    return seal(_FOOTER.pack(FOOTER_MAGIC, VERSION, ALIGN, n_events, index, file_size))


class RecordFile:
    """Checked access to the records of a mapped file. `data` is the whole file; nothing is copied except what must be unpacked."""

    def __init__(self, name: str, data: NDArray[np.uint8]) -> None:
        self.name = name
        self.data = data

    def fail(self, text: str) -> NoReturn:
        raise SampleError(f"{self.name}: {text}; copy or simulate the sample again")

    def check_file_header(self) -> None:
        if len(self.data) < ALIGN:
            self.fail(f"{len(self.data)} bytes, too short for a sample")
        magic, version, align = _FILE.unpack_from(self._sealed(0, "file header", FILE_MAGIC))
        if version != VERSION or align != ALIGN:
            raise SampleError(f"{self.name}: sample format {version}, this program reads {VERSION}; use a newer hltfarm")
        del magic

    def read_footer(self) -> tuple[int, int]:
        """(number of events, offset of the index)."""
        if len(self.data) < 3 * ALIGN or len(self.data) % ALIGN:
            self.fail(f"truncated: {len(self.data)} bytes is not a whole number of {ALIGN}-byte units")
        block = self._sealed(len(self.data) - ALIGN, "footer (file truncated?)", FOOTER_MAGIC)
        _, _, _, n_events, index, size = _FOOTER.unpack_from(block)
        if size != len(self.data):
            self.fail(f"{len(self.data)} bytes, its footer says {size}")
        return n_events, index

    def header(self, at: int, kind: Kind) -> Header:
        """The header of the record at byte `at`, checked, of the given kind, with all of its data inside the file."""
        head = self.any_header(at, kind.name.lower())
        if head.kind != kind:
            self.fail(f"record at byte {at} is no {kind.name.lower()} record")
        return head

    def any_header(self, at: int, what: str = "next") -> Header:
        """The header of the record at byte `at`, checked, of any kind, also of one that this version does not know."""
        if at % ALIGN or at + 2 * ALIGN > len(self.data):
            self.fail(f"no record at byte {at}")
        magic, found, *rest = _RECORD.unpack_from(self._sealed(at, f"{what} record at byte {at}", None))
        head = Header(found, *rest[:-1])
        if magic != RECORD_MAGIC:
            self.fail(f"record at byte {at} is no {what} record")
        if at + ALIGN + head.stored > len(self.data):
            self.fail(f"{what} record at byte {at} is longer than the file")
        return head

    def check_crc(self, at: int, head: Header) -> None:
        if crc32c(self.stored(at, head).data) != head.crc:
            known = Kind(head.kind).name.lower() if head.kind in list(Kind) else f"kind {head.kind}"
            self.fail(f"checksum of the {known} record at byte {at} is wrong")

    def stored(self, at: int, head: Header) -> NDArray[np.uint8]:
        """The data as stored: a view, aligned to 128 bytes in the file."""
        return self.data[at + ALIGN : at + ALIGN + head.stored]

    def content(self, at: int, head: Header) -> NDArray[np.uint8]:
        """The data unpacked: a view if they are not compressed."""
        view = self.stored(at, head)
        if not head.flags & Flags.ZLIB:
            if head.size != head.stored:
                self.fail(f"record at byte {at} has {head.stored} bytes, its header says {head.size}")
            return view
        if head.size > min(LARGEST_UNPACKED, ZLIB_RATIO * head.stored):
            self.fail(f"record at byte {at} claims {head.size} bytes in {head.stored} compressed ones")
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(view.data, head.size) if head.size else b""
        except zlib.error as e:
            self.fail(f"record at byte {at} cannot be decompressed ({e})")
        if len(data) != head.size:
            self.fail(f"record at byte {at} unpacks to {len(data)} bytes, its header says {head.size}")
        if head.flags & Flags.SHUFFLED:
            if head.size % 4:
                self.fail(f"record at byte {at} is not whole 32-bit words")
            data = unshuffle(data, 4)
        return np.frombuffer(data, np.uint8)

    def after(self, at: int, head: Header) -> int:
        """Offset of the next record."""
        end = at + ALIGN + head.stored
        return end + -end % ALIGN

    def check_padding(self, at: int, head: Header) -> int:
        """Offset of the next record, after zeros."""
        end, after = at + ALIGN + head.stored, self.after(at, head)
        if self.data[end:after].any():
            self.fail(f"padding before byte {after} is not zero")
        return after

    def _sealed(self, at: int, what: str, magic: bytes | None) -> bytes:
        block = self.data[at : at + ALIGN].tobytes()
        if magic is not None and not block.startswith(magic):
            self.fail(f"{what}: wrong magic number, not a sample or damaged")
        if crc32c(block[: -_CRC.size]) != _CRC.unpack_from(block, ALIGN - _CRC.size)[0]:
            self.fail(f"{what}: wrong checksum")
        return block
