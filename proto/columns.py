"""Tables of columns as bytes: the body of a COLUMNS frame (docs/wire-format.md). No pickles; a reader needs nothing but the page.

The form is canonical: bytes that decode encode to themselves, bit for bit.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import LayoutError, WireCode, WireError
from hltfarm.proto.framing import Buffer

#: Table -> column -> array of shape (rows,) or, with more than one value a row, (rows, width).
Tables: TypeAlias = dict[str, dict[str, NDArray[Any]]]

ALIGNMENT = 8
CODES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")  #: dtype codes: kind, bytes
MAX_WIDTH = 255
_DTYPES = {code.encode(): np.dtype(f"<{code}") for code in CODES}
_COUNT = struct.Struct("<I")
_TABLE = struct.Struct("<IH")
_COLUMN = struct.Struct("<2sB")


def encode_columns(tables: Mapping[str, Mapping[str, NDArray[Any]]]) -> bytes:
    """Bytes of tables. Raises LayoutError for columns that have no place in the format (names, dtypes, shapes, lengths)."""
    head = bytearray(_COUNT.pack(len(tables)))
    data: list[NDArray[Any]] = []
    for table, columns in tables.items():
        rows = len(next(iter(columns.values()))) if columns else 0
        head += _name(table)
        try:
            head += _TABLE.pack(rows, len(columns))
        except struct.error as error:
            raise LayoutError(f"table {table!r}: {rows} rows, {len(columns)} columns do not fit ({error})") from None
        for name, column in columns.items():
            where = f"column {table}.{name}"
            code = f"{column.dtype.kind}{column.dtype.itemsize}"
            width = column.shape[1] if column.ndim == 2 else 1
            if code not in CODES:
                raise LayoutError(f"{where}: dtype {column.dtype} is none of {', '.join(CODES)}")
            if column.ndim not in (1, 2) or len(column) != rows or (column.ndim == 2 and not 1 < width <= MAX_WIDTH):
                raise LayoutError(f"{where}: shape {column.shape}, not ({rows},) or ({rows}, 2 .. {MAX_WIDTH})")
            head += _name(name) + _COLUMN.pack(code.encode(), width)
            data.append(np.ascontiguousarray(column, dtype=_DTYPES[code.encode()]))
    parts = [bytes(head)]
    size = len(head)
    for values in data:
        parts += [bytes(-size % ALIGNMENT), values.tobytes()]
        size += -size % ALIGNMENT + values.nbytes
    return b"".join(parts)


def decode_columns(buffer: Buffer) -> Tables:
    """Tables as read-only views of `buffer`. Raises WireError (MALFORMED_PAYLOAD) for anything `encode_columns` would not write."""
    view = memoryview(buffer).toreadonly().cast("B")
    reader = _Reader(view)
    plan: list[tuple[dict[str, NDArray[Any]], str, np.dtype[Any], int, int]] = []
    tables: Tables = {}
    for _ in range(reader.unpack(_COUNT)[0]):
        table = reader.name(tables)
        rows, columns = reader.unpack(_TABLE)
        if rows and not columns:
            raise _malformed(f"table {table!r} has {rows} rows and no columns")
        target: dict[str, NDArray[Any]] = {}
        tables[table] = target
        seen: dict[str, None] = {}
        for _ in range(columns):
            name = reader.name(seen)
            seen[name] = None
            code, width = reader.unpack(_COLUMN)
            if code not in _DTYPES or width == 0:
                raise _malformed(f"column {table}.{name}: dtype {code!r}, width {width}")
            plan.append((target, name, _DTYPES[code], rows, width))
    for target, name, dtype, rows, width in plan:
        if any(reader.take(-reader.at % ALIGNMENT)):
            raise _malformed(f"the padding before column {name!r} is not zero")
        values = np.frombuffer(reader.take(rows * width * dtype.itemsize), dtype=dtype)
        target[name] = values if width == 1 else values.reshape(rows, width)
    if reader.at != len(view):
        raise _malformed(f"{len(view) - reader.at} bytes after the last column")
    return tables


class _Reader:
    def __init__(self, view: memoryview) -> None:
        self._view = view
        self.at = 0

    def take(self, size: int) -> memoryview:
        if size > len(self._view) - self.at:
            raise _malformed(f"{size} bytes expected at offset {self.at} of {len(self._view)}")
        self.at += size
        return self._view[self.at - size : self.at]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def name(self, taken: Mapping[str, object]) -> str:
        """A name that is not empty, ASCII, and new."""
        (size,) = self.take(1)
        raw = bytes(self.take(size))
        if not raw or not raw.isascii() or raw.decode("ascii") in taken:
            raise _malformed(f"the name {raw!r} is empty, not ASCII, or there already")
        return raw.decode("ascii")


def _name(name: str) -> bytes:
    raw = name.encode("ascii", errors="replace")
    if not name.isascii() or not 0 < len(raw) < 256:
        raise LayoutError(f"{name!r}: a name has 1 to 255 ASCII characters")
    return bytes([len(raw)]) + raw


def _malformed(text: str) -> WireError:
    return WireError(WireCode.MALFORMED_PAYLOAD, f"columns: {text}")
