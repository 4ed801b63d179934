"""Payloads in formats of the site become FED tables, or are refused with a reason."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from numpy.typing import NDArray

from hltfarm.proto import framing, wire
from hltfarm.proto.errors import ConfigError, WireCode, WireError
from hltfarm.proto.events import EventId
from hltfarm.proto.wire import EventHeader
from hltfarm.service.ingest.payload_formats import PayloadFormats, load_converters

OWN = 200


def header(body: bytes, payload_format: int) -> EventHeader:
    return EventHeader(1, 1, 5, 3, payload_format, 0, 9, len(body), framing.checksum(body))


def doubled(given: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A converter whose result is longer than what came."""
    if given[0] == 255:
        raise ValueError("no such\nthing")
    return np.repeat(given, 2)


def test_a_table_is_what_it_was() -> None:
    body = bytes(8)
    assert PayloadFormats().fed_table(header(body, wire.FED_TABLE), body, 10) == (header(body, wire.FED_TABLE), body)


def test_another_becomes_a_table_with_length_and_checksum_of_its_own() -> None:
    body = bytes(range(12))
    made, table = PayloadFormats({OWN: doubled}).fed_table(header(body, OWN), body, 24)
    assert bytes(table) == np.repeat(np.frombuffer(body, np.uint8), 2).tobytes()
    assert (made.payload_format, made.body_bytes, made.body_crc) == (wire.FED_TABLE, 24, framing.checksum(table))
    assert made.id == EventId(1, 1, 5, 3)


@pytest.mark.parametrize(
    ("body", "payload_format", "code", "text"),
    [
        (bytes(4), 201, WireCode.UNKNOWN_PAYLOAD, r"payload format 201; known is 1 \(FED table\), 200"),
        (b"\xff" * 4, OWN, WireCode.MALFORMED_PAYLOAD, "format 200: ValueError: no such thing$"),
        (bytes(16), OWN, WireCode.OVERSIZE, "32 bytes, the limit is 24"),
    ],
)
def test_refusals_have_a_code_and_a_reason(body: bytes, payload_format: int, code: WireCode, text: str) -> None:
    with pytest.raises(WireError, match=text) as error:
        PayloadFormats({OWN: doubled}).fed_table(header(body, payload_format), body, 24)
    assert error.value.code is code


def test_converters_are_named_by_module_and_function() -> None:
    assert load_converters(["128=math:sqrt", "65535=os.path:join"]) == {128: math.sqrt, 65535: os.path.join}
    assert load_converters([]) == {}


@pytest.mark.parametrize(
    "texts",
    [["128"], ["x=math:sqrt"], ["1=math:sqrt"], ["70000=math:sqrt"], ["128=math:sqrt", "128=math:cos"], ["128=no.such:f"], ["128=math:pi"]],
)
def test_what_is_no_converter_is_told(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--payload-format '"):
        load_converters(texts)
