"""Frames: round trips, mutations, and every refusal with its code."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.proto import wire
from hltfarm.proto.errors import LimitError, WireCode, WireError
from hltfarm.proto.events import EventId
from hltfarm.proto.limits import Limits

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
LIMITS = Limits(max_payload_bytes=1024)


def code_of(call, *args):
    with pytest.raises(WireError) as caught:
        call(*args)
    return caught.value.code


def with_crc(head: bytes) -> bytes:
    return head + crc32c(head).to_bytes(4, "little")


EVENT = wire.encode_event(EventId(1, 2, 3, 4), b"payload!", cookie=5)


@given(U32, U32, U64, U32, st.binary(max_size=64), U64, st.integers(0, 65535))
def test_an_event_comes_back_as_it_was(run, lumi, event, bx, payload, cookie, flags):
    frame = wire.encode_event(EventId(run, lumi, event, bx), payload, cookie=cookie, flags=flags)
    header = wire.decode_header(frame)
    assert isinstance(header, wire.EventHeader)
    assert header.id == EventId(run, lumi, event, bx)
    assert (header.cookie, header.flags, header.payload_format) == (cookie, flags, wire.FED_TABLE)
    wire.check_body(header, payload, LIMITS)


@given(U64, U32, U64, U64, U32, U32)
def test_hello_credit_and_bye_come_back(session, serial, events, size, run, limit):
    head, body = wire.encode_hello("Größe", session=session, serial=serial, sent_events=events, sent_bytes=size)
    hello = wire.decode_header(head)
    wire.check_body(hello, body, LIMITS)
    assert hello[:4] == (session, serial, events, size)
    assert wire.decode_text(body) == "Größe"
    credit = wire.Credit(session, serial, 3, events, size, run, limit)
    assert wire.decode_header(wire.encode_credit(credit)[0])[:7] == credit[:7]
    bye = wire.decode_header(wire.encode_bye(session)[0])
    assert isinstance(bye, wire.Bye)
    assert bye.session == session


@given(st.integers(0, 20), st.randoms(use_true_random=False))
def test_decisions_come_back(n, random):
    records = np.frombuffer(random.randbytes(n * wire.DECISION.itemsize), dtype=wire.DECISION)
    head, body = wire.encode_decisions(records)
    header = wire.decode_header(head)
    assert isinstance(header, wire.Decisions)
    wire.check_body(header, body, LIMITS)
    assert wire.decode_decisions(header, body).tobytes() == records.tobytes()


@given(U32, U32, U64, U64, st.binary(max_size=64))
def test_columns_come_back(run, lumi, event, cookie, content):
    head, body = wire.encode_reply_columns(run, lumi, event, cookie, content)
    header = wire.decode_header(head)
    assert isinstance(header, wire.Columns)
    assert header[:4] == (run, lumi, event, cookie)
    wire.check_body(header, body, LIMITS)
    assert code_of(wire.check_body, header, body, Limits(max_columns_bytes=-1)) is WireCode.OVERSIZE


def test_an_error_names_the_event():
    event = wire.decode_header(EVENT)
    assert isinstance(event, wire.EventHeader)
    header = wire.decode_header(wire.encode_error(WireCode.BAD_CRC, "text", event)[0])
    assert isinstance(header, wire.Error)
    assert (header.code, header.flags, header.run, header.event, header.cookie) == (WireCode.BAD_CRC, 1, 1, 3, 5)


@given(st.integers(0, len(EVENT) - 1), st.integers(1, 255))
def test_no_changed_byte_of_a_header_goes_unnoticed(place, change):
    frame = bytearray(EVENT)
    frame[place] ^= change
    code_of(wire.decode_header, bytes(frame))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_a_wire_error(frame):
    code_of(wire.decode_header, frame)


@given(st.binary(max_size=80))
def test_any_bytes_after_a_valid_prefix_are_a_wire_error(rest):
    code_of(wire.decode_header, EVENT[:16] + rest if EVENT[16:] != rest else b"")


def test_each_fault_of_a_header_has_its_code():
    assert code_of(wire.decode_header, b"") is WireCode.TRUNCATED
    assert code_of(wire.decode_header, EVENT[:15]) is WireCode.TRUNCATED
    assert code_of(wire.decode_header, EVENT[:-1]) is WireCode.TRUNCATED
    assert code_of(wire.decode_header, EVENT + b"\0") is WireCode.TRUNCATED
    assert code_of(wire.decode_header, with_crc(b"HLTE" + EVENT[4:-4])) is WireCode.BAD_MAGIC
    assert code_of(wire.decode_header, with_crc(EVENT[:4] + b"\2" + EVENT[5:-4])) is WireCode.UNKNOWN_VERSION
    assert code_of(wire.decode_header, with_crc(EVENT[:5] + b"\x63" + EVENT[6:-4])) is WireCode.UNKNOWN_TYPE
    assert code_of(wire.decode_header, with_crc(EVENT[:6] + b"\0\0" + EVENT[8:-4])) is WireCode.TRUNCATED
    assert code_of(wire.decode_header, EVENT[:-1] + bytes([EVENT[-1] ^ 1])) is WireCode.BAD_CRC


def test_each_fault_of_a_body_has_its_code():
    header = wire.decode_header(EVENT)
    assert code_of(wire.check_body, header, b"payload", LIMITS) is WireCode.TRUNCATED
    assert code_of(wire.check_body, header, b"payload!!", LIMITS) is WireCode.TRUNCATED
    assert code_of(wire.check_body, header, b"paylOad!", LIMITS) is WireCode.BAD_CRC
    assert code_of(wire.check_body, header, bytes(1025), LIMITS) is WireCode.OVERSIZE
    large = wire.decode_header(wire.encode_event(EventId(1, 1, 1), bytes(1025)))
    assert code_of(wire.check_body, large, b"", LIMITS) is WireCode.OVERSIZE
    head, body = wire.encode_hello("x" * 256)
    assert code_of(wire.check_body, wire.decode_header(head), body, LIMITS) is WireCode.OVERSIZE


def test_decisions_that_do_not_fill_their_body_are_refused():
    assert code_of(wire.decode_decisions, wire.Decisions(2, wire.DECISION.itemsize), bytes(wire.DECISION.itemsize)) is WireCode.TRUNCATED
    assert code_of(wire.decode_decisions, wire.Decisions(1, 60), bytes(60)) is WireCode.TRUNCATED


@pytest.mark.parametrize("event", [EventId(2**32, 1, 1), EventId(1, -1, 1), EventId(1, 1, 2**64), EventId(1, 1, 1, 2**32)])
def test_an_id_that_does_not_fit_is_a_limit_error(event):
    with pytest.raises(LimitError, match="32 bits"):
        wire.encode_event(event, b"")


def test_proto_needs_no_network_and_no_device():
    modules = "wire, columns, limits, worker_link, slots, raw, messages, results, events, errors"
    script = f"import sys; from hltfarm.proto import {modules}; print([m for m in ('zmq', 'torch', 'cupy', 'fastapi') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
