"""An ingest under peers that want too much: commands that are none, floods of greetings, too many clients, frames without a session."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import zmq

from hltfarm.proto import wire
from hltfarm.proto.errors import WireCode
from hltfarm.proto.events import EventId
from hltfarm.proto.messages import CommandReply
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, payload, stream

FLOOD = 2000


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def dealer(context: zmq.Context[zmq.Socket[bytes]], url: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(url)
    return socket


def received(socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(DEADLINE_S * 1000)
    return socket.recv_multipart()


def test_what_is_no_command_is_answered(farm: Farm, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Text that is not UTF-8 among them: it once ended the ingest."""
    texts = [b"", b"{", b"[]", b'{"id":"1","op":"\x8d"}', b'{"id":"1","op":7}', b"\xff" * 1000, b"[" * 100_000]
    with dealer(context, farm.server.control_url) as socket:
        for text in texts:
            socket.send(text)
            reply = msgspec.json.decode(received(socket)[-1], type=CommandReply)
            assert reply.error is not None
            assert "not a command" in reply.error
        socket.send_multipart([b"x"] * 100)
        assert "not a command" in str(msgspec.json.decode(received(socket)[-1], type=CommandReply).error)
    assert farm.snapshot().ledger.received == 0


def test_more_clients_than_the_limit_are_told_and_leave_room_when_they_go(make_farm, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    farm = make_farm(max_clients=3)
    farm.run(workers=1)
    sockets = [dealer(context, farm.server.clients_url) for _ in range(5)]
    try:
        answers = []
        for socket in sockets:
            socket.send_multipart(wire.encode_hello("one of many"))
            answers.append(wire.decode_header(received(socket)[0]))
        assert [type(answer) for answer in answers] == [wire.Credit] * 3 + [wire.Error] * 2
        assert {answer.code for answer in answers[3:]} == {WireCode.NO_CREDIT}
        assert farm.snapshot().clients == 3
        sockets[0].send_multipart(wire.encode_bye(answers[0].session))
        farm.wait(lambda s: s.clients == 2)
        sockets[4].send_multipart(wire.encode_hello("late"))
        assert isinstance(wire.decode_header(received(sockets[4])[0]), wire.Credit)
    finally:
        for socket in sockets:
            socket.close()


def test_a_flood_of_greetings_takes_one_session_and_stops_nobody(farm: Farm, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    farm.run(workers=1)
    with dealer(context, farm.server.clients_url) as flood, farm.client() as client:
        client.wait_open(DEADLINE_S)
        head, body = wire.encode_hello("flood")
        sent = 0
        while sent < FLOOD:
            try:
                flood.send_multipart([head, body], zmq.NOBLOCK)
                sent += 1
            except zmq.Again:
                client.poll(0.001)
            while flood.poll(0):
                flood.recv_multipart()
        assert len(stream(client, range(50))) == 50
        assert farm.snapshot().clients == 2
    farm.wait(lambda s: s.clients <= 1)


def test_a_flood_of_greetings_whose_answers_nobody_reads_is_bounded(farm: Farm, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    farm.run(workers=1)
    with dealer(context, farm.server.clients_url) as flood, farm.client() as client:
        client.wait_open(DEADLINE_S)
        head, body = wire.encode_hello("deaf")
        for _ in range(FLOOD):
            try:
                flood.send_multipart([head, body], zmq.NOBLOCK)
            except zmq.Again:
                client.poll(0.001)
        assert len(stream(client, range(50))) == 50
    farm.wait(lambda s: s.clients <= 1)


def test_events_without_a_session_are_counted_and_cost_no_slot(farm: Farm, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    farm.run(workers=1)
    data = payload(1).tobytes()
    with dealer(context, farm.server.clients_url) as stranger:
        for number in range(100):
            stranger.send_multipart([wire.encode_event(EventId(RUN, 1, number), data), data])
        codes = {wire.decode_header(received(stranger)[0]).code for _ in range(100)}
    assert codes == {WireCode.NO_HELLO}
    snapshot = farm.snapshot()
    assert snapshot.frames_refused["NO_HELLO"] == 100
    assert snapshot.ledger.received == 0
    assert snapshot.slots_free == snapshot.slots_total
