"""The client door with a socket that takes nothing: what waits for a client is bounded."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import zmq

from hltfarm.proto import wire
from hltfarm.proto.limits import Limits
from hltfarm.service.ingest.credit import CreditBook
from hltfarm.service.ingest.door import COLUMNS_WAITING, ClientDoor
from hltfarm.service.ingest.stats import Stats

LIMITS = Limits(max_payload_bytes=1024, max_columns_bytes=100)
CLIENT = b"client"


class Socket:
    """Takes messages while `reads`."""

    def __init__(self) -> None:
        self.reads = True
        self.sent: list[list[bytes]] = []

    def setsockopt(self, option: int, value: int) -> None:
        pass

    def send_multipart(self, frames: tuple[bytes, ...], flags: int) -> None:
        if not self.reads:
            raise zmq.Again
        self.sent.append(list(frames))


def test_columns_for_a_client_that_does_not_read_are_left_out_and_their_decisions_are_not():
    socket, stats = Socket(), Stats()
    door = ClientDoor(socket, CreditBook(4, 1 << 20, max_payload_bytes=1024, max_clients=1), stats, LIMITS, 10.0)
    marked = []
    door.flow = SimpleNamespace(leave_out=lambda records, place: marked.append(int(records["event"][place])))
    door._message(CLIENT, *wire.encode_hello("c"), 2, 0.0)
    socket.reads = False
    records = np.zeros(1, dtype=wire.DECISION)
    for number in range(COLUMNS_WAITING + 5):
        records["event"] = number
        door.deliver(np.array([1]), records.copy(), {0: bytes(100)})
    # decisions wait as well, and count
    assert 0 < stats.columns_sent <= COLUMNS_WAITING
    assert marked == list(range(stats.columns_sent, COLUMNS_WAITING + 5))
    socket.reads, socket.sent = True, []
    door.tick(1.0)
    kinds = [type(wire.decode_header(frames[1])) for frames in socket.sent]
    assert kinds.count(wire.Decisions) == COLUMNS_WAITING + 5
    assert kinds[: 2 * stats.columns_sent] == [wire.Columns, wire.Decisions] * stats.columns_sent
    door.deliver(np.array([1]), records, {0: bytes(100)})
    assert type(wire.decode_header(socket.sent[-2][1])) is wire.Columns, "what waited is gone, there is room again"
