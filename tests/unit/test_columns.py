"""Tables of columns as bytes: round trips, mutations, and what has no place in the format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hltfarm.proto.columns import ALIGNMENT, CODES, decode_columns, encode_columns
from hltfarm.proto.errors import LayoutError, WireCode, WireError

NAMES = st.text(st.characters(min_codepoint=0, max_codepoint=127), min_size=1, max_size=12)


@st.composite
def columns(draw, rows):
    width = draw(st.integers(1, 5))
    return draw(arrays(draw(st.sampled_from(CODES)), (rows, width) if width > 1 else (rows,)))


@st.composite
def tables(draw):
    sizes = draw(st.dictionaries(NAMES, st.integers(0, 9), max_size=3))
    return {name: draw(st.dictionaries(NAMES, columns(rows), max_size=4)) for name, rows in sizes.items()}


EXAMPLE = {
    "tracks": {"pt": np.array([1.5, np.nan], "f4"), "hits": np.array([[1, -1, 3], [4, 5, 6]], "i4")},
    "vertices": {"z": np.empty(0, "f8")},
    "none": {},
}
GOOD = encode_columns(EXAMPLE)


def same(a, b) -> bool:
    return list(a) == list(b) and all(
        list(a[t]) == list(b[t]) and all((x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()) for x, y in pairs(a[t], b[t]))
        for t in a
    )


def pairs(a, b):
    return zip(a.values(), b.values(), strict=True)


@given(tables())
def test_tables_come_back_bit_for_bit(given_tables):
    body = encode_columns(given_tables)
    back = decode_columns(body)
    assert same(back, given_tables)
    assert encode_columns(back) == body


def test_columns_are_read_only_views_at_aligned_places():
    body = bytearray(GOOD)
    base = np.frombuffer(body, np.uint8).ctypes.data
    for table in decode_columns(body).values():
        for column in table.values():
            assert not column.flags.writeable
            assert column.size == 0 or (column.ctypes.data - base) % ALIGNMENT == 0


def test_any_order_of_bytes_and_memory_gives_the_same_body():
    pt, hits = EXAMPLE["tracks"].values()
    other = {"tracks": {"pt": pt.astype(">f4"), "hits": np.asfortranarray(hits)}, "vertices": EXAMPLE["vertices"], "none": {}}
    assert encode_columns(other) == GOOD


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_other_tables_or_a_wire_error(place, change):
    body = bytearray(GOOD)
    body[place] ^= change
    canonical(bytes(body))


@given(st.binary(max_size=120))
def test_any_bytes_are_tables_or_a_wire_error(body):
    canonical(body)


def canonical(body: bytes) -> None:
    code = None
    try:
        found = decode_columns(body)
    except WireError as error:
        code = error.code
    assert code is WireCode.MALFORMED_PAYLOAD if code is not None else encode_columns(found) == body


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_a_body_that_is_cut_is_a_wire_error(size):
    with pytest.raises(WireError, match="expected at offset"):
        decode_columns(GOOD[:size])


def head(rows: int, *described: bytes) -> bytes:
    return b"\1\0\0\0\1t" + rows.to_bytes(4, "little") + len(described).to_bytes(2, "little") + b"".join(described)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (GOOD + b"\0", "1 bytes after"),
        (b"\2\0\0\0\1t\0\0\0\0\0\0\1t\0\0\0\0\0\0", "there already"),
        (b"\1\0\0\0\1\xff\0\0\0\0\0\0", "not ASCII"),
        (b"\1\0\0\0\0\0\0\0\0\0\0", "empty"),
        (head(5), "no columns"),
        (head(0, b"\1af4\1", b"\1af4\1"), "there already"),
        (head(0, b"\1af2\1"), "dtype"),
        (head(0, b"\1af4\0"), "width 0"),
        (head(1, b"\1au1\1") + b"\1" * 8, "padding"),
        (head(2**32 - 1, b"\1af8\xff") + bytes(8), "expected"),
    ],
)
def test_each_fault_of_a_body_is_named(body, why):
    with pytest.raises(WireError, match=why):
        decode_columns(body)


@pytest.mark.parametrize(
    ("given_tables", "why"),
    [
        ({"t": {"a": np.zeros(2, "c8")}}, "dtype"),
        ({"t": {"a": np.zeros(2, "O")}}, "dtype"),
        ({"t": {"a": np.zeros((2, 1), "f4")}}, "shape"),
        ({"t": {"a": np.zeros((2, 256), "f4")}}, "shape"),
        ({"t": {"a": np.zeros((2, 2, 2), "f4")}}, "shape"),
        ({"t": {"a": np.zeros(2, "f4"), "b": np.zeros(3, "f4")}}, "shape"),
        ({"": {}}, "1 to 255"),
        ({"t": {"é": np.zeros(2, "f4")}}, "1 to 255"),
        ({"t" * 256: {}}, "1 to 255"),
    ],
)
def test_what_has_no_place_in_the_format_is_a_layout_error(given_tables, why):
    with pytest.raises(LayoutError, match=why):
        encode_columns(given_tables)
