"""The door for consumers over a socket that the test is: peers that vanish, names that are taken, descriptions that repeat."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import zmq

from hltfarm.proto import output_wire as wire
from hltfarm.proto.errors import WireCode
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.output_wire import Mode
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.stream_door import StreamDoor
from hltfarm.service.output.subscribers import Subscribers
from tests.unit.output_events import DECIDERS, PATHS, accepted


class Peers:
    """A ROUTER: what consumers sent, what they get, and who cannot be reached."""

    def __init__(self) -> None:
        self.inbox: deque[list[bytes]] = deque()
        self.sent: list[tuple[bytes, wire.Header, list[bytes]]] = []
        self.gone: set[bytes] = set()

    def setsockopt(self, option: int, value: int) -> None:
        assert option

    def recv_multipart(self, flags: int, copy: bool) -> list[zmq.Frame]:
        assert not copy
        if not self.inbox:
            raise zmq.Again
        return [zmq.Frame(frame) for frame in self.inbox.popleft()]

    def send_multipart(self, frames: Any, flags: int) -> None:
        identity, head, *rest = (bytes(frame) for frame in frames)
        if identity in self.gone:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        self.sent.append((identity, wire.decode_header(head), rest))

    def says(self, identity: bytes, header: wire.Header, body: bytes = b"") -> None:
        self.inbox.append([identity, wire.encode(header, body), body])

    def subscribes(self, identity: bytes, name: str, mode: Mode = Mode.MONITOR) -> None:
        self.says(identity, wire.Subscribe(mode), wire.encode_names(name, ()))

    def got(self, kind: type[wire.Header], identity: bytes = b"a") -> list[Any]:
        return [header for who, header, _ in self.sent if who == identity and isinstance(header, kind)]


class Room:
    """A door with its machine and the events that it may be asked for."""

    def __init__(self) -> None:
        self.peers = Peers()
        self.subscribers = Subscribers(10.0)
        self.events: dict[int, tuple[OutputEvent, Deciders]] = {}
        self.door = StreamDoor(self.peers, self.subscribers, self.events)  # type: ignore[arg-type]

    def event(self, number: int, deciders: Deciders = DECIDERS) -> int:
        event = accepted(number)
        self.events[number] = (event, deciders)
        sends, claims = self.subscribers.offer(number, len(event.payload), deciders.streams_of(event.bits))
        self.door.send(sends)
        return claims


def test_a_monitor_that_subscribes_and_vanishes_is_forgotten() -> None:
    room = Room()
    room.peers.gone.add(b"a")
    room.peers.subscribes(b"a", "dqm")
    assert room.door.receive(0.0) == []
    assert len(room.subscribers) == 0


def test_a_lossless_consumer_that_vanishes_is_awaited_and_its_events_come_again() -> None:
    room = Room()
    room.peers.subscribes(b"a", "archive", Mode.LOSSLESS)
    room.door.receive(0.0)
    (status,) = room.peers.got(wire.Status)
    room.peers.says(b"a", wire.Credit(status.session, 5, 0))
    room.door.receive(0.0)
    room.peers.gone.add(b"a")
    assert [room.event(number) for number in (1, 2)] == [1, 1]
    assert [s.present for s in room.subscribers.status(0.0)] == [False]
    room.peers.subscribes(b"b", "archive", Mode.LOSSLESS)
    room.door.receive(1.0)
    (status,) = room.peers.got(wire.Status, b"b")
    room.peers.says(b"b", wire.Credit(status.session, 5, 0))
    room.peers.says(b"b", wire.Credit(status.session, 5, 2))
    assert room.door.receive(1.0) == [1, 2]
    events = room.peers.got(wire.Event, b"b")
    assert [(event.event, event.serial) for event in events] == [(1, 1), (2, 2)]
    assert events[0].flags == wire.EventFlags.RESENT, "it was under way"


def test_who_takes_the_name_of_a_consumer_that_is_there_ends_it() -> None:
    room = Room()
    room.peers.subscribes(b"a", "dqm")
    room.peers.subscribes(b"b", "dqm")
    room.door.receive(0.0)
    (error,) = room.peers.got(wire.Error)
    assert error.code == WireCode.NOT_ALLOWED
    assert "another consumer has subscribed as 'dqm'" in room.peers.sent[1][2][0].decode()
    assert not room.peers.got(wire.Error, b"b")
    room.peers.subscribes(b"b", "dqm")  # the same once more, as one does that waits for its STATUS
    room.door.receive(0.0)
    assert len(room.peers.got(wire.Status, b"b")) == 2
    assert not room.peers.got(wire.Error, b"b")


def test_every_event_is_described_by_one_of_the_latest_descriptions() -> None:
    """Runs follow each other in one session: each is described once, and nothing grows with their number."""
    room = Room()
    room.peers.subscribes(b"a", "dqm")
    room.door.receive(0.0)
    (status,) = room.peers.got(wire.Status)
    runs = [Deciders(RunConfig(run=run), "c0ffee", (), PATHS) for run in range(1, wire.DESCRIPTIONS + 3)]
    number = 0
    for deciders in [*runs, runs[-1], runs[-2], runs[0]]:  # the last one is forgotten by now, and described anew
        number += 1
        room.peers.says(b"a", wire.Credit(status.session, number, number - 1))
        room.door.receive(0.0)
        room.event(number, deciders)
    known: dict[int, int] = {}
    events = 0
    for _, header, (body, *_) in room.peers.sent:
        if isinstance(header, wire.Description):
            known[header.number] = json.loads(body)["config"]["run"]
        elif isinstance(header, wire.Event):
            assert header.described in list(known)[-wire.DESCRIPTIONS :]
            assert known[header.described] == room.events[header.event][1].config.run
            events += 1
    assert events == number
    assert len(known) == len(runs) + 1
