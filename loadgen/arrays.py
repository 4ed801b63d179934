"""A block of named arrays: the form in which samples carry truth and detector tables.

Layout: u32 length of a JSON text, the text, then the arrays one after the other. The text is `{"arrays": [[name, dtype, shape], ...],
"attributes": {...}}`. Elements are stored byte plane by byte plane (all first bytes, then all second bytes, ...): this compresses better.
The same arrays always give the same bytes.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import SampleError

Array = NDArray[Any]
_DTYPE = re.compile(r"(\|[bui]1|<[uif][248])")


def pack_arrays(arrays: Mapping[str, Array], attributes: Mapping[str, Any] | None = None) -> bytes:
    """The block of these arrays (bool, integer or float, any shape) and JSON attributes. SampleError for other types."""
    heads: list[list[object]] = []
    parts: list[bytes] = []
    for name, value in arrays.items():
        a = np.asarray(value)
        a = a.astype(a.dtype.newbyteorder("<"))
        if not _DTYPE.fullmatch(a.dtype.str):
            raise SampleError(f"array {name}: dtype {a.dtype} cannot be stored, use bool, integers or floats up to 64 bits")
        heads.append([name, a.dtype.str, list(a.shape)])
        parts.append(shuffle(a.tobytes(), a.dtype.itemsize))
    text = json.dumps({"arrays": heads, "attributes": dict(attributes or {})}, separators=(",", ":"), sort_keys=True).encode()
    return struct.pack("<I", len(text)) + text + b"".join(parts)


def unpack_arrays(block: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays (owned, writeable) and attributes of a block. SampleError if it is not one."""
    try:
        (length,) = struct.unpack_from("<I", block)
        head = json.loads(block[4 : 4 + length])
        entries = [(str(name), str(dtype), tuple(int(n) for n in shape)) for name, dtype, shape in head["arrays"]]
        attributes = dict(head["attributes"])
    except (struct.error, ValueError, KeyError, TypeError) as e:
        raise SampleError(f"block of arrays: unreadable description ({e})") from e
    out: dict[str, Array] = {}
    at = 4 + length
    for name, dtype, shape in entries:
        if not _DTYPE.fullmatch(dtype) or any(n < 0 for n in shape):
            raise SampleError(f"block of arrays: {name} has the unknown type {dtype} {shape}")
        size = np.dtype(dtype).itemsize * math.prod(shape)
        if at + size > len(block):
            raise SampleError(f"block of arrays: {name} ends at byte {at + size} of {len(block)}")
        out[name] = np.frombuffer(unshuffle(block[at : at + size], np.dtype(dtype).itemsize), dtype).reshape(shape).copy()
        at += size
    if at != len(block):
        raise SampleError(f"block of arrays: {len(block) - at} bytes too many")
    return out, attributes


def shuffle(data: bytes, width: int) -> bytes:
    """Byte planes of elements of `width` bytes: byte 0 of all elements, then byte 1, ... Length must be a multiple of `width`."""
    return np.frombuffer(data, np.uint8).reshape(-1, width).T.tobytes()


def unshuffle(data: bytes, width: int) -> bytes:
    """Inverse of `shuffle`."""
    return np.frombuffer(data, np.uint8).reshape(width, -1).T.tobytes()
