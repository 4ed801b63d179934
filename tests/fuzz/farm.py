"""Fuzz target of a whole ingest: strangers, clients, workers and commands in any order, and the books must close.

The bytes are a program: each step sends a message, sound, half sound or plain nonsense, over real sockets inside this process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import zmq

from hltfarm.proto import output_wire, wire, worker_link
from hltfarm.proto.events import EventId
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import OPS, Command, CommandReply, RunConfig
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.service.output.settings import OutputSettings

RUN = 7
STEPS = 40
PAYLOAD = np.array([1, 40, 8, 0, 0], dtype="<u4").tobytes()
SEEDS = [*(bytes([step]) * 8 for step in range(12)), bytes([4, 0, 0, 2, 1, 1, 2, 1, 2, 5, 5, 1, 1, 3, 1, 1, 5, 6, 8, 5, 9, 4])]
_numbers = itertools.count()


class Bytes:
    """Takes numbers and pieces from bytes; zeros when there are none left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def piece(self) -> bytes:
        size = self.byte()
        self._at += size
        return self._data[self._at - size : self._at]


class Play:
    """An ingest, and the other ends of its sockets."""

    def __init__(self, server: IngestServer, settings: IngestSettings) -> None:
        self.server = server
        urls = (settings.clients_url, settings.workers_url, settings.control_url, settings.output.url or "")
        self._sockets = [server._context.socket(zmq.DEALER) for _ in urls]
        self.client, self.worker, self.control, self.consumer = self._sockets
        for socket, url in zip(self._sockets, urls, strict=True):
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(url)
        self.session = 0
        self.work: list[np.void] = []  # descriptors that were handed out and not answered
        self.generation = 0
        self.subscription = 0  # session of the consumer

    def send(self, socket: zmq.Socket[bytes], frames: list[bytes]) -> None:
        socket.send_multipart(frames, zmq.NOBLOCK)
        self.server.turn()
        self.hear()

    def hear(self) -> None:
        """Read what the ingest has sent."""
        for head, body in _messages(self.client):
            header = wire.decode_header(head)
            wire.check_body(header, body, Limits())
            if isinstance(header, wire.Credit):
                self.session = header.session
        for frames in _all(self.worker):
            message = worker_link.decode_to_worker(frames[0])
            if isinstance(message, worker_link.Configure):
                self.generation = message.generation
            elif isinstance(message, worker_link.Work):
                self.work += list(np.frombuffer(frames[1], worker_link.DESCRIPTOR))
        for frames in _all(self.consumer):
            told = output_wire.decode_header(frames[0])
            if isinstance(told, output_wire.Status):
                self.subscription = told.session

    def command(self, op: str, config: RunConfig | None = None) -> CommandReply:
        self.control.send(msgspec.json.encode(Command(id="1", op=op, config=config, worker="w")))
        while not self.control.poll(0):
            self.server.turn()
        self.hear()
        return msgspec.json.decode(self.control.recv(), type=CommandReply)

    def greet(self) -> None:
        """A worker that can do the run."""
        self.send(self.worker, [encode(worker_link.Hello(name="w", backend="cpu", device="cpu", pid=1, host="h", capacity=4))])
        self.ready()

    def ready(self, menu_hash: str = "0123456789abcdef") -> None:
        paths = (worker_link.PathInfo("HLT_A", "physics"),)
        self.send(self.worker, [encode(worker_link.Configured(generation=self.generation, menu_hash=menu_hash, paths=paths))])

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        self.server.close()


encode = worker_link.encode


def _all(socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
    while socket.poll(0):
        yield socket.recv_multipart()


def _messages(socket: zmq.Socket[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for frames in _all(socket):
        yield frames[0], frames[1]


@contextmanager
def playing(folder: Path) -> Iterator[Play]:
    number = f"{os.getpid()}-{next(_numbers)}"
    settings = IngestSettings(
        clients_url=f"inproc://clients-{number}",
        workers_url=f"inproc://workers-{number}",
        control_url=f"inproc://control-{number}",
        ring=Path("/dev/shm") / f"hltfarm-fuzz-{number}",
        slots=4,
        window=16,
        limits=Limits(max_payload_bytes=4096),
        error_dir=folder / "errors",
        output=OutputSettings(url=f"inproc://consumers-{number}"),
    )
    play = Play(IngestServer(settings), settings)
    try:
        yield play
    finally:
        play.close()


def ingest(data: bytes, folder: Path) -> None:
    """Run the program of the bytes against an ingest with a run and a worker; every answer can be read, and no event is lost."""
    source = Bytes(data)
    with playing(folder) as play:
        play.command("configure", RunConfig(run=RUN))
        play.greet()
        play.command("start")
        play.send(play.client, list(wire.encode_hello("fuzz")))
        for _ in range(STEPS):
            if not source.left:
                break
            step(play, source)
        reply = play.command("snapshot")
        assert reply.snapshot is not None, reply.error
        for counts in (reply.snapshot.ledger, reply.snapshot.totals):
            assert counts.mismatch == 0, counts


def step(play: Play, source: Bytes) -> None:
    """One step of the program."""
    kind = source.byte() % 12
    if kind == 0:
        play.send(play.client, [source.piece() for _ in range(1 + source.byte() % 3)])
    elif kind == 1:
        number = source.byte()
        event = EventId(RUN + (number > 250), 1, number % 8, 1)
        body = PAYLOAD if source.byte() % 4 else source.piece()
        head = wire.encode_event(event, body, cookie=number, flags=source.byte() % 4, payload_format=1 + (number == 249))
        play.send(play.client, [head, body])
    elif kind == 2:
        session = (0, play.session, play.session + 1)[source.byte() % 3]
        sent, size = source.byte(), source.byte()
        play.send(play.client, list(wire.encode_hello("f", session=session, serial=source.byte(), sent_events=sent, sent_bytes=size << 8)))
    elif kind == 3:
        play.send(play.client, list(wire.encode_bye(play.session + source.byte() % 2)))
    elif kind == 4:
        play.send(play.worker, [source.piece() for _ in range(1 + source.byte() % 3)])
    elif kind == 5:
        play.send(play.worker, answer(play, source))
    elif kind == 6:
        slots = np.zeros(source.byte() % 3, worker_link.ASSIGNED)
        for place in range(min(len(slots), len(play.work))):
            work = play.work.pop()
            slots["ticket"][place], slots["slot"][place] = work["ticket"], work["slot"] if source.byte() % 4 else source.byte()
        play.send(play.worker, [encode(worker_link.Failed(error="fuzz")), slots.tobytes() + source.piece()])
    elif kind == 7:
        messages = (worker_link.Leaving(), worker_link.Goodbye(), worker_link.Alive(busy_s=float(source.byte())))
        play.send(play.worker, [encode(messages[source.byte() % 3])])
    elif kind == 8:
        play.greet()
        if source.byte() == 255:
            play.ready("no hash")
    elif kind == 9:
        play.send(play.consumer, [source.piece() for _ in range(1 + source.byte() % 3)])
    elif kind == 10:
        play.send(play.consumer, subscription(play, source))
    elif source.byte() % 4 == 3:
        play.control.send(source.piece())
        while not play.control.poll(0):
            play.server.turn()
        assert msgspec.json.decode(play.control.recv(), type=CommandReply).error is not None
        play.hear()
    else:
        op = OPS[source.byte() % len(OPS)]
        config = RunConfig(run=RUN + source.byte() % 2) if source.byte() % 2 else None
        play.command(op, config)


def subscription(play: Play, source: Bytes) -> list[bytes]:
    """What a consumer says: that it subscribes, takes events and has them, leaves."""
    kind, session = source.byte() % 4, play.subscription + (source.byte() > 250)
    if kind == 0:
        names = b"\n".join(source.piece() for _ in range(1 + source.byte() % 3))
        return [output_wire.encode(output_wire.Subscribe(source.byte() % 4), names), names]
    if kind == 1:
        names = output_wire.encode_names("fuzz", ("physics",)[: source.byte() % 2])
        return [output_wire.encode(output_wire.Subscribe(1 + source.byte() % 2), names), names]
    if kind == 2:
        return [output_wire.encode(output_wire.Credit(session, source.byte(), source.byte())), b""]
    return [output_wire.encode(output_wire.Bye(session)), b""]


def answer(play: Play, source: Bytes) -> list[bytes]:
    """Results, of what was asked for, and of what was not."""
    records = np.zeros(1 + source.byte() % 3, worker_link.ANSWER)
    for record in records:
        if play.work and source.byte() % 8:
            work = play.work.pop()
            record["ticket"], record["slot"] = work["ticket"], work["slot"]
        else:
            record["ticket"], record["slot"] = source.byte(), source.byte()
        record["part"] = source.byte() % 3
        record["result"]["accept"] = source.byte() % 2
        record["result"]["path_bits"] = record["result"]["path_raw"] = source.byte()
    message = worker_link.Results(seconds=0.1, stage_seconds={"unpack": 0.1}, batch_events=source.byte())
    cut = len(records.tobytes()) - (source.byte() == 255)
    return [encode(message), records.tobytes()[:cut], *(source.piece() for _ in range(source.byte() % 3))]
