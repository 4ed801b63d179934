"""Frames of the output stream: docs/output-stream.md is the specification, its vectors and tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.proto import output_wire as wire
from hltfarm.proto.columns import decode_columns
from hltfarm.proto.errors import LimitError, WireCode, WireError
from hltfarm.proto.framing import check_body, checksum

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "output-stream.md").read_text()
HEX = r"((?:[0-9a-f]+|\(empty\))(?:\n {12}[0-9a-f]+)*)"
VECTOR = re.compile(rf"\*\*([a-z ]+)\*\*\n\n {{4}}fields {{2}}(.*)\n {{4}}header {{2}}{HEX}\n {{4}}body {{4}}{HEX}")
VECTORS = {m[1]: {"fields": m[2], "header": m[3], "body": m[4]} for m in VECTOR.finditer(PAGE)}
CLASSES: dict[str, type[Any]] = {
    "subscribe": wire.Subscribe,
    "output credit": wire.Credit,
    "status": wire.Status,
    "description": wire.Description,
    "output event": wire.Event,
    "output bye": wire.Bye,
    "output error": wire.Error,
}


def binary(text: str) -> bytes:
    return b"" if "(empty)" in text else bytes.fromhex("".join(text.split()))


def vector(name: str) -> tuple[dict[str, int], bytes, bytes]:
    found = VECTORS[name]
    fields = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", found["fields"])}
    return fields, binary(found["header"]), binary(found["body"])


def test_the_page_has_a_vector_of_every_type() -> None:
    assert {binary(found["header"])[5] for found in VECTORS.values()} == set(wire.FrameType)
    assert VECTORS.keys() == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_vectors_decode_and_encode(name: str) -> None:
    fields, head, body = vector(name)
    header = wire.decode_header(head)
    assert isinstance(header, CLASSES[name])
    check_body("body", body, header.body_bytes, header.body_crc, 1 << 20)
    assert {key: value for key, value in header._asdict().items() if key not in ("body_bytes", "body_crc", "reserved")} == fields
    assert wire.encode(CLASSES[name](**fields), body) == head


def test_the_other_frames_of_the_event() -> None:
    fields, _, _ = vector("output event")
    decision = binary(re.search(rf" {{4}}decision {HEX}", PAGE)[1])  # type: ignore[index]
    assert (len(decision), checksum(decision)) == (fields["decision_bytes"], fields["decision_crc"])
    columns = binary(re.search(rf"\*\*columns\*\*(?s:.*?)body {{4}}{HEX}", (DOCS / "wire-format.md").read_text())[1])  # type: ignore[index]
    assert (len(columns), checksum(columns)) == (fields["columns_bytes"], fields["columns_crc"])
    assert set(decode_columns(columns)) == {"tracks", "vertices"}
    assert wire.decode_names(vector("subscribe")[2]) == ("dqm", ("physics", "monitoring"))


def test_the_table_of_types() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \| [^|]* \| (\d+) \| ([^|]*) \|", PAGE, re.MULTILINE)
    assert {(int(kind), name, int(size)) for kind, name, size, _ in rows} == {
        (kind.value, kind.name, wire.FRAMING.header_bytes[kind]) for kind in wire.FrameType
    }
    for kind, _, size, fields in rows:
        entries = re.findall(r"(\w+) \((\d+)\)", fields)
        cls = wire.decode_header(next(binary(v["header"]) for v in VECTORS.values() if binary(v["header"])[5] == int(kind)))
        assert tuple(name for name, _ in entries) == cls._fields[:-2]
        assert 16 + sum(int(width) for _, width in entries) + 4 == int(size)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda head: head[:10], WireCode.TRUNCATED),
        (lambda head: head + b"\0", WireCode.TRUNCATED),
        (lambda head: b"HLTF" + head[4:], WireCode.BAD_MAGIC),
        (lambda head: head[:4] + b"\2" + head[5:], WireCode.UNKNOWN_VERSION),
        (lambda head: head[:5] + b"\x63" + head[6:], WireCode.UNKNOWN_TYPE),
        (lambda head: head[:20] + b"\xff" + head[21:], WireCode.BAD_CRC),
    ],
)
def test_damaged_headers_are_refused(change: Any, code: WireCode) -> None:
    with pytest.raises(WireError) as error:
        wire.decode_header(change(wire.encode(wire.Credit(7, 8, 9))))
    assert error.value.code is code


def test_damaged_parts_are_refused() -> None:
    good = b"payload"
    for part, size, crc, code in (
        (good, 7, checksum(good) ^ 1, WireCode.BAD_CRC),
        (good[:-1], 7, checksum(good), WireCode.TRUNCATED),
        (good * 2, 14, 0, WireCode.OVERSIZE),
        (good, 70, 0, WireCode.OVERSIZE),
    ):
        with pytest.raises(WireError) as error:
            check_body("payload", part, size, crc, most=10)
        assert error.value.code is code


def test_numbers_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(LimitError):
        wire.encode(wire.Credit(-1, 0, 0))


@given(st.binary(max_size=120))
def test_any_bytes_are_a_header_or_a_wire_error(data: bytes) -> None:
    for frame in (data, b"HLTO\1" + data):
        with pytest.raises(WireError):
            wire.decode_header(frame)


@given(st.text("ab9._@-/\n\x1b ", max_size=6), st.lists(st.text("ab9_-\n ", max_size=4), max_size=3).map(tuple))
def test_names_come_back_or_are_refused(name: str, streams: tuple[str, ...]) -> None:
    try:
        body = wire.encode_names(name, streams)
    except LimitError:
        assert not (wire.CONSUMER_NAME.match(name) and all(wire.STREAM_NAME.match(stream) for stream in streams))
    else:
        assert wire.decode_names(body) == (name, streams)


@pytest.mark.parametrize(
    "body", [b"", b"\nphysics", b"a/b", b"dqm\n", b"dqm\n../x", b"\x1b[2Jdqm", b"dqm\n\x1b[2J", "d\u00fcm".encode(), b"\xff", b"x" * 129]
)
def test_names_that_a_terminal_or_an_address_would_not_take_are_refused(body: bytes) -> None:
    with pytest.raises(WireError) as caught:
        wire.decode_names(body)
    assert caught.value.code == WireCode.MALFORMED_PAYLOAD
