"""docs/wire-format.md is the specification: its vectors, tables and codes are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c

from hltfarm.proto import wire
from hltfarm.proto.columns import decode_columns, encode_columns
from hltfarm.proto.errors import WireCode
from hltfarm.proto.events import EventId
from hltfarm.proto.limits import Limits
from hltfarm.proto.raw import check_payload
from hltfarm.proto.wire import FrameType
from hltfarm.workers.columns import REPLY_TRACKS, VERTEX_COLUMNS

PAGE = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
VECTOR = re.compile(
    r"\*\*(?P<name>[^*]+)\*\*\n\n {4}fields {2}(?P<fields>.*)\n {4}header {2}(?P<header>[0-9a-f\s]+?)\n {4}body {4}(?P<body>[^*]+)"
)
VECTORS = {m["name"]: m for m in VECTOR.finditer(PAGE)}


def binary(text: str) -> bytes:
    return b"" if "(empty)" in text else bytes.fromhex("".join(text.split()))


def message(name: str) -> tuple[dict[str, str], bytes, bytes]:
    found = VECTORS[name]
    fields = dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", found["fields"]))
    return fields, binary(found["header"]), binary(found["body"])


def test_the_page_has_a_vector_of_every_type():
    kinds = {binary(vector["header"])[5] for vector in VECTORS.values()}
    assert kinds == set(FrameType)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_decode_to_their_fields(name):
    fields, head, body = message(name)
    header = wire.decode_header(head)
    wire.check_body(header, body, Limits())
    for field, value in fields.items():
        if field in ("name", "text"):
            assert wire.decode_text(body) == value
        else:
            assert getattr(header, field) == int(value), field


@pytest.mark.parametrize("name", VECTORS)
def test_fields_encode_to_their_vectors(name):
    fields, head, body = message(name)
    number = {key: int(value) for key, value in fields.items() if value.isdigit()}
    kind = head[5]
    if kind == FrameType.HELLO:
        assert wire.encode_hello(fields["name"], **number) == (head, body)
    elif kind == FrameType.EVENT:
        event = EventId(*(number.pop(key) for key in ("run", "lumi", "event", "bx")))
        assert wire.encode_event(event, body, **number) == head
        assert check_payload(np.frombuffer(body, dtype=np.uint8)) == 1
    elif kind == FrameType.CREDIT:
        assert wire.encode_credit(wire.Credit(**number)) == (head, body)
    elif kind == FrameType.DECISION:
        assert wire.encode_decisions(np.frombuffer(body, dtype=wire.DECISION)) == (head, body)
    elif kind == FrameType.ERROR:
        event = wire.EventHeader(number["run"], 0, number["event"], 0, 1, 0, number["cookie"])
        assert wire.encode_error(WireCode(number["code"]), fields["text"], event) == (head, body)
    elif kind == FrameType.COLUMNS:
        assert wire.encode_reply_columns(**number, body=body) == (head, body)
        assert encode_columns(decode_columns(body)) == body
    else:
        assert wire.encode_bye(number["session"]) == (head, body)


def test_the_decision_records_of_the_vector():
    _, _, body = message("decision")
    first, second = wire.decode_decisions(wire.Decisions(2, wire.DECISION.itemsize), body)
    assert (first["event"], first["outcome"], first["result"]["digest"], first["result"]["vertices"]) == (
        123456789012,
        wire.Outcome.ACCEPT,
        0x1122334455667788,
        1,
    )
    assert (second["outcome"], second["reason"], second["attempts"]) == (wire.Outcome.ERROR, wire.Reason.WORKER_LOST, 2)


def test_the_tables_of_the_vector():
    tables = decode_columns(message("columns")[2])
    assert {name: list(table) for name, table in tables.items()} == {"tracks": ["pt", "n_hits", "hits"], "vertices": ["z"]}
    assert tables["tracks"]["pt"].tolist() == [12.5, 0.75]
    assert tables["tracks"]["n_hits"].tolist() == [4, 3]
    assert tables["tracks"]["hits"].tolist() == [[0, 5, 9, 12], [1, 6, 8, -1]]
    assert tables["vertices"]["z"].tolist() == [-1.5]


def test_the_page_names_the_columns_of_a_reply():
    part = PAGE.split("### 7 COLUMNS")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", part, re.MULTILINE))
    assert {name: tuple(re.findall(r"\w+", re.sub(r" \(.*?\)", "", text))) for name, text in rows.items()} == {
        "tracks": REPLY_TRACKS,
        "vertices": VERTEX_COLUMNS,
    }


def test_the_table_of_types_is_complete():
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \| [^|]*→[^|]* \| (\d+) \|", PAGE, re.MULTILINE)
    assert {(int(kind), name, int(size)) for kind, name, size in rows} == {
        (t.value, t.name, wire.FRAMING.header_bytes[t]) for t in FrameType
    }


def test_the_table_of_refusals_is_complete():
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| [^→\n]*$", PAGE, re.MULTILINE)
    assert {(int(code), name) for code, name in rows} >= {(c.value, c.name) for c in WireCode}


def test_the_offsets_of_the_decision_record():
    part = PAGE.split("One record:")[1].split("### 5")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+)[ a-z]*\| (\w+)", part, re.MULTILINE)
    result = wire.DECISION["result"]
    for offset, size, name in rows:
        base = wire.DECISION.fields[name] if name in wire.DECISION.fields else result.fields[name]
        start = base[1] + (0 if name in wire.DECISION.fields else wire.DECISION.fields["result"][1])
        assert (start, base[0].itemsize) == (int(offset), int(size)), name
    counts = re.search(r"\| (modules, [^|]*) \| counts", part)
    assert counts is not None
    assert counts[1].strip().split(", ") == list(result.names)[5:-9]


def test_the_checksum_is_the_one_named():
    assert crc32c(b"123456789") == 0xE3069283
    assert "0xE3069283" in PAGE
