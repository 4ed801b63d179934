"""Frames that an ingest refuses, one error each, and what a client says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from crc32c import crc32c

from hltfarm.proto import wire
from hltfarm.proto.errors import LimitError, WireCode, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import RunState
from hltfarm.proto.wire import Outcome
from hltfarm.service.client import Client, ConnectionLostError
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, event, payload


def sealed(head: bytes) -> bytes:
    return head + crc32c(head).to_bytes(4, "little")


def good_event(number: int = 1, run: int = RUN, **options: int) -> list[bytes]:
    data = payload(number).tobytes()
    return [wire.encode_event(EventId(run, 1, number), data, cookie=99, **options), data]


def malformed() -> list[bytes]:
    data = np.array([1, 40, 12, 0, 0, 0], dtype="<u4").tobytes()
    return [wire.encode_event(EventId(RUN, 1, 1), data), data]


def oversize() -> list[bytes]:
    data = bytes((1 << 16) + 4)
    return [wire.encode_event(EventId(RUN, 1, 1), data), data]


def with_header(change: Callable[[bytes], bytes]) -> list[bytes]:
    head, data = good_event()
    return [sealed(change(head[:-4])), data]


HEAD, DATA = good_event()
BAD = {
    "no frames": ([b""], WireCode.TRUNCATED, False),
    "short header": ([HEAD[:20], DATA], WireCode.TRUNCATED, False),
    "long header": ([HEAD + b"\0", DATA], WireCode.TRUNCATED, False),
    "no body": ([HEAD], WireCode.TRUNCATED, True),
    "three frames": ([HEAD, DATA, b"more"], WireCode.TRUNCATED, True),
    "short body": ([HEAD, DATA[:-4]], WireCode.TRUNCATED, True),
    "magic": (with_header(lambda h: b"FTLH" + h[4:]), WireCode.BAD_MAGIC, False),
    "version": (with_header(lambda h: h[:4] + b"\7" + h[5:]), WireCode.UNKNOWN_VERSION, False),
    "type": (with_header(lambda h: h[:5] + b"\x2a" + h[6:]), WireCode.UNKNOWN_TYPE, False),
    "type of the other direction": (list(wire.encode_credit(wire.Credit(1, 1, 0, 9, 9, 1, 1))), WireCode.UNKNOWN_TYPE, False),
    "header checksum": ([HEAD[:-1] + bytes([HEAD[-1] ^ 1]), DATA], WireCode.BAD_CRC, False),
    "body checksum": ([HEAD, bytes([DATA[0] ^ 1]) + DATA[1:]], WireCode.BAD_CRC, True),
    "oversize": (oversize(), WireCode.OVERSIZE, True),
    "long name": (list(wire.encode_hello("x" * 256)), WireCode.OVERSIZE, False),
    "payload format": (good_event(payload_format=9), WireCode.UNKNOWN_PAYLOAD, True),
    "FED table": (malformed(), WireCode.MALFORMED_PAYLOAD, True),
    "run": (good_event(run=RUN + 1), WireCode.WRONG_RUN, True),
}


class Stranger:
    """A client written from the page, without the library."""

    def __init__(self, url: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(url)
        self._session = 0

    def send(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames)

    def receive(self, kind: type) -> tuple[wire.Header, bytes]:
        """The next message of a type; others (credits) are skipped."""
        while True:
            assert self._socket.poll(DEADLINE_S * 1000), f"no {kind.__name__}"
            head, body = self._socket.recv_multipart()
            header = wire.decode_header(head)
            wire.check_body(header, body, Limits())
            if isinstance(header, kind):
                return header, body

    def greet(self) -> wire.Credit:
        """Say hello and wait for credit to send."""
        self.send(list(wire.encode_hello("stranger")))
        while True:
            credit, _ = self.receive(wire.Credit)
            assert isinstance(credit, wire.Credit)
            if credit.granted_events and credit.session > self._session:  # not a late one of the session before
                self._session = credit.session
                return credit

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@pytest.fixture
def running(farm: Farm) -> Iterator[tuple[Farm, Stranger]]:
    farm.run(workers=1)
    stranger = Stranger(farm.settings.clients_url)
    yield farm, stranger
    stranger.close()


def test_each_bad_frame_gets_its_error_and_counts(running: tuple[Farm, Stranger]) -> None:
    farm, stranger = running
    stranger.greet()
    for name, (frames, code, names_event) in BAD.items():
        before = farm.snapshot()
        stranger.send(frames)
        error, text = stranger.receive(wire.Error)
        assert isinstance(error, wire.Error)
        assert error.code == code, name
        assert text, name
        assert bool(error.flags & wire.ErrorFlags.HAS_EVENT) == names_event, name
        after = farm.snapshot()
        expected = before.frames_refused | {code.name: before.frames_refused[code.name] + 1}
        assert after.frames_refused == expected, name
        assert after.ledger.received == 0, name
        stranger.greet()
    stranger.send(good_event(1))
    decisions, body = stranger.receive(wire.Decisions)
    assert isinstance(decisions, wire.Decisions)
    (record,) = wire.decode_decisions(decisions, body)
    assert (record["event"], record["cookie"], record["outcome"]) == (1, 99, Outcome.ACCEPT)


def test_events_without_session_or_credit_or_run_are_refused(running: tuple[Farm, Stranger]) -> None:
    farm, stranger = running
    stranger.send(good_event())
    assert stranger.receive(wire.Error)[0].code == WireCode.NO_HELLO
    stranger.send(list(wire.encode_hello("x", session=12345)))
    assert stranger.receive(wire.Error)[0].code == WireCode.NO_HELLO
    credit = stranger.greet()
    farm.command("pause")
    while credit.granted_events:
        credit, _ = stranger.receive(wire.Credit)  # withdrawn
    stranger.send(list(wire.encode_hello("x", session=credit.session, serial=credit.serial)))
    stranger.receive(wire.Credit)
    stranger.send(good_event())
    assert stranger.receive(wire.Error)[0].code == WireCode.NO_CREDIT
    farm.command("stop")
    farm.wait(lambda s: s.state is RunState.CONFIGURED)
    stranger.send(good_event())
    error, _ = stranger.receive(wire.Error)
    assert (error.code, error.event, error.cookie) == (WireCode.NOT_RUNNING, 1, 99)
    refused = farm.snapshot().frames_refused
    assert (refused["NO_HELLO"], refused["NO_CREDIT"], refused["NOT_RUNNING"]) == (2, 1, 1)


def test_a_frame_beyond_the_hard_limit_ends_the_connection_not_the_ingest(running: tuple[Farm, Stranger]) -> None:
    farm, stranger = running
    stranger.greet()
    stranger.send([b"x" * (farm.settings.limits.socket_bytes + 1), b""])
    other = Stranger(farm.settings.clients_url)
    try:
        other.greet()
    finally:
        other.close()


def test_the_client_says_in_time_what_it_cannot_send(farm: Farm) -> None:
    farm.run(workers=1)
    with farm.client(limits=Limits(max_payload_bytes=1 << 16)) as client:
        client.wait_open(DEADLINE_S)
        with pytest.raises(LimitError, match="payload"):
            client.send(RawEvent(EventId(RUN, 1, 1), np.zeros((1 << 16) + 4, dtype=np.uint8)))
        client.send(RawEvent(EventId(RUN, 1, 1), np.zeros(3, dtype=np.uint8)), timeout=DEADLINE_S)
        client.flush(DEADLINE_S)
        assert [(r.id.event, r.code) for r in client.refused] == [(1, WireCode.MALFORMED_PAYLOAD)]


def test_a_client_without_an_ingest_says_so(tmp_path: Path) -> None:
    with Client(f"ipc://{tmp_path}/nobody", heartbeat_s=0.05, timeout_s=0.2) as client:
        with pytest.raises(ConnectionLostError, match="no answer"):
            client.wait_open(0.4)
        with pytest.raises(TimeoutError):
            client.send(event(1), timeout=0.1)


def test_an_ingest_of_another_version_is_an_error(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        router.bind(f"ipc://{tmp_path}/other")
        with Client(f"ipc://{tmp_path}/other") as client:
            identity, *_ = router.recv_multipart()
            router.send_multipart([identity, *wire.encode_error(WireCode.UNKNOWN_VERSION, "version 1; this side speaks 2")])
            with pytest.raises(WireError, match="speaks 2"):
                client.poll(5.0)
