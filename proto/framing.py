"""Header frames: the form that all binary frames of hltfarm share. docs/wire-format.md is the specification.

All integers are little-endian and unpadded. Every header starts with the same 16 bytes and ends with the CRC32C of all its other bytes:

    magic, version u8, type u8, header_bytes u16, body_bytes u32, body_crc32c u32, <fields of the type>, header_crc32c u32

Checks are made in the order of `WireCode`s: length, magic, version, type, header length, header checksum, body size, body checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Generic, TypeAlias, TypeVar, cast

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from hltfarm.proto.errors import WireCode, WireError

Buffer: TypeAlias = bytes | bytearray | memoryview
_PREFIX = struct.Struct("<4sBBHII")
_CRC = struct.Struct("<I")


H = TypeVar("H")


def checksum(body: Buffer | NDArray[np.uint8]) -> int:
    """CRC32C of a contiguous buffer."""
    return crc32c(cast(bytes, body))  # it reads any buffer; its stub names only some


class Framing(Generic[H]):
    """Frames under one magic.

    layouts: of each type, what takes its fields, `body_bytes` and `body_crc` behind them, and the format of the fields without these two.
    """

    def __init__(self, magic: bytes, version: int, types: type[IntEnum], layouts: Mapping[int, tuple[Callable[..., H], str]]) -> None:
        self._magic = magic
        self._version = version
        self._types = types
        self._layouts = {kind: (cls, struct.Struct(_PREFIX.format + fields)) for kind, (cls, fields) in layouts.items()}
        #: size of a header frame by type
        self.header_bytes = {kind: layout.size + _CRC.size for kind, (_, layout) in self._layouts.items()}

    def pack(self, kind: int, body: Buffer | NDArray[np.uint8], fields: Sequence[int], crc: int | None = None) -> bytes:
        """Header frame for a body. `crc`: its `checksum`, where it is known. Raises struct.error for a number that is too large."""
        layout = self._layouts[kind][1]
        head = layout.pack(self._magic, self._version, kind, layout.size + 4, len(body), checksum(body) if crc is None else crc, *fields)
        return head + _CRC.pack(crc32c(head))

    def unpack(self, frame: Buffer) -> H:
        """Check a header frame and take it apart; raises WireError. Its body is checked by `check_body`."""
        size = len(frame)
        if size < _PREFIX.size:
            raise WireError(WireCode.TRUNCATED, f"header of {size} bytes; the shortest prefix has {_PREFIX.size}")
        magic, version, kind, header_bytes, _, _ = _PREFIX.unpack_from(frame)
        if magic != self._magic:
            raise WireError(WireCode.BAD_MAGIC, f"magic {magic.hex()}, not {self._magic.hex()}")
        if version != self._version:
            raise WireError(WireCode.UNKNOWN_VERSION, f"version {version}; this side speaks {self._version}")
        entry = self._layouts.get(kind)
        if entry is None:
            raise WireError(WireCode.UNKNOWN_TYPE, f"frame type {kind}; known are {', '.join(f'{t} {t.name}' for t in self._types)}")
        cls, layout = entry
        end, name = layout.size, self._types(kind).name
        if size != end + 4 or header_bytes != size:
            raise WireError(WireCode.TRUNCATED, f"{name} header of {size} bytes (field: {header_bytes}), not {end + 4}")
        (crc,) = _CRC.unpack_from(frame, end)
        if crc32c(frame[:end]) != crc:
            raise WireError(WireCode.BAD_CRC, f"header checksum of {name} is wrong")
        _, _, _, _, body_bytes, body_crc, *fields = layout.unpack_from(frame)
        return cls(*fields, body_bytes, body_crc)


def check_body(what: str, body: Buffer, size: int, crc: int, most: int) -> None:
    """Check a frame behind a header that names its size and checksum; raises WireError. Does not look into a payload."""
    if max(size, len(body)) > most:
        raise WireError(WireCode.OVERSIZE, f"{what} of {max(size, len(body))} bytes, the limit is {most}")
    if len(body) != size:
        raise WireError(WireCode.TRUNCATED, f"{what} of {len(body)} bytes, the header says {size}")
    if checksum(body) != crc:
        raise WireError(WireCode.BAD_CRC, f"checksum of the {what} ({size} bytes) is wrong")
