"""A client that sends damaged frames, damaged payloads and garbage, in the middle of the good traffic of others."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

import numpy as np
import zmq

from hltfarm.loadgen.load.accounting import Accounting, Total
from hltfarm.loadgen.load.driver import OUTCOME_NAMES
from hltfarm.loadgen.load.report import make_report
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.proto import wire
from hltfarm.proto.errors import WireCode, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import check_payload
from hltfarm.proto.results import EventFlag
from hltfarm.service.chaos.plan import Injection
from hltfarm.service.chaos.scene import Scene
from hltfarm.service.client import Client, Decision
from hltfarm.service.farm_process import LOOPBACK

#: Numbers of its events: far above those of the load.
FIRST = 1 << 40
PAUSE_S = 0.005
FLUSH_S = 30.0
#: A greeting of ZeroMQ's transport up to its version; what follows is garbage.
GREETING = bytes([0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 1]) + b"NULL".ljust(20, b"\0") + bytes(32)


def corrupt(scene: Scene, injection: Injection) -> None:
    """Damage for a while. Payloads that can be read, however wrong, are decided; all else is refused and never counted."""
    work: dict[str, Callable[[Scene, Injection, random.Random, float], int]] = {"frames": _frames, "payloads": _payloads, "bytes": _bytes}
    draw = random.Random(injection.seed)
    scene.in_flight()
    scene.hit()
    if not work[injection.manner](scene, injection, draw, time.monotonic() + injection.seconds):
        scene.problems.append(f"nothing damaged was sent as {injection.manner}")


def damaged(draw: random.Random, data: bytes) -> bytes:
    """A few bytes changed, or the end cut off; never the same."""
    if len(data) > 1 and draw.random() < 0.3:
        return data[: draw.randrange(len(data))]
    changed = bytearray(data)
    for place in {draw.randrange(len(changed)) for _ in range(draw.randint(1, 8))}:
        changed[place] ^= draw.randint(1, 255)
    return bytes(changed)


def _door(scene: Scene, injection: Injection) -> int:
    return scene.farm.doors[injection.target % len(scene.farm.doors)]


def _frames(scene: Scene, injection: Injection, draw: random.Random, until: float) -> int:
    """Event frames with a damaged header or body, and messages of any number of random frames, within a session."""
    sent = 0
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket_ = context.socket(zmq.DEALER)
    socket_.setsockopt(zmq.LINGER, 0)
    socket_.setsockopt(zmq.SNDHWM, 64)
    try:
        socket_.connect(f"tcp://{LOOPBACK}:{_door(scene, injection)}")
        socket_.send_multipart(wire.encode_hello("vandal", session=0, serial=0, sent_events=0, sent_bytes=0))
        while time.monotonic() < until:
            payload = scene.payloads[draw.randrange(len(scene.payloads))].payload
            header = wire.encode_event(EventId(scene.run, 1, FIRST + sent, 0), payload, cookie=0)
            messages = [
                [damaged(draw, header), payload.tobytes()],
                [header, damaged(draw, payload.tobytes())],
                [header],
                [draw.randbytes(draw.randrange(200)) for _ in range(draw.randint(1, 5))],
            ]
            try:
                socket_.send_multipart(messages[draw.randrange(len(messages))], zmq.NOBLOCK)
                sent += 1
            except zmq.Again:
                pass  # the ingest is behind; the next one may find room
            while socket_.poll(0):
                socket_.recv_multipart()
            time.sleep(PAUSE_S)  # the rate of the damage
    finally:
        socket_.close()
        context.term()
    return sent


def _payloads(scene: Scene, injection: Injection, draw: random.Random, until: float) -> int:
    """Events in good order around damaged data, by a client that keeps its books; the checksum is that of the damaged data."""
    accounting, sent, refused = Accounting("vandal"), 0, 0
    first = FIRST * (2 + len(scene.further_loads))
    begin = time.monotonic()
    with Client(f"tcp://{LOOPBACK}:{_door(scene, injection)}", "vandal") as client:
        client.wait_open(FLUSH_S)
        run = client.run
        index_of: dict[int, int] = {}

        def take(decisions: list[Decision]) -> None:
            for decision in decisions:
                unprocessed = bool(int(decision.result["flags"]) & EventFlag.UNPROCESSED)
                index = index_of.get(decision.id.event, -1)
                accounting.add_decision(index, OUTCOME_NAMES[decision.outcome], time.monotonic() - begin)
                if unprocessed:
                    scene.problems.append(f"a damaged event was not reconstructed: {decision}")

        while time.monotonic() < until:
            data = np.frombuffer(damaged(draw, scene.payloads[draw.randrange(len(scene.payloads))].payload.tobytes()), dtype=np.uint8)
            event = RawEvent(EventId(run, 1, first + sent, 0), data)
            if _readable(data):
                index_of[event.id.event] = accounting.add_sent(time.monotonic() - begin, sent, len(data))
                accounting.offered += 1
            else:
                refused += 1
            client.send(event, FLUSH_S)
            sent += 1
            take(client.poll(0))
            time.sleep(PAUSE_S)  # the rate of the damage
        take(client.flush(FLUSH_S))
        if len(client.refused) != refused or {item.code for item in client.refused} - {WireCode.MALFORMED_PAYLOAD}:
            told = ", ".join(sorted({item.code.name for item in client.refused}))
            scene.problems.append(f"{refused} payloads cannot be read, {len(client.refused)} were refused ({told or 'for no reason'})")
    accepted = set(accounting.indices("accepted"))
    scene.further_accepted += [number for number, index in index_of.items() if index in accepted]
    total = Total([accounting])
    scene.further_loads.append(
        make_report(
            total, Schedule(None, events=max(1, sent)), source="damaged payloads", run=run, events=(first, first + sent), offer_seconds=0.0,
            seconds=time.monotonic() - begin,
        )
    )  # fmt: skip
    return sent


def _readable(data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bool:
    try:
        check_payload(data)
    except WireError:
        return False
    return True


def _bytes(scene: Scene, injection: Injection, draw: random.Random, until: float) -> int:
    """Bytes that are not ZeroMQ's, half a greeting, a greeting and then garbage, half a message; connections that end in the middle."""
    sent = 0
    while time.monotonic() < until:
        ways = [draw.randbytes(draw.randrange(1, 4096)), GREETING[: draw.randrange(1, len(GREETING))], GREETING + draw.randbytes(300)]
        # a command frame of a gigabyte of which nothing comes
        ways.append(GREETING + bytes([6]) + (1 << 30).to_bytes(8, "big") + draw.randbytes(64))
        try:
            with socket.create_connection((LOOPBACK, _door(scene, injection)), timeout=2.0) as connection:
                connection.sendall(ways[draw.randrange(len(ways))])
                sent += 1
        except OSError:
            pass  # the ingest broke the connection, as it may
        time.sleep(PAUSE_S)  # the rate of the damage
    return sent
