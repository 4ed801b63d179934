"""The talking half of a worker with several ingests, here two sockets in the same thread; the engine computes for real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq

from hltfarm.proto import worker_link as link
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.results import RESULT
from hltfarm.service.ingest.slots import SlotRing
from hltfarm.workers.engine import Built
from hltfarm.workers.process import Worker, WorkerSettings

DEADLINE_S = 20.0


class Reconstruction:
    """A batch ends when `gate` is open."""

    backend = "cpu"
    device = "fake"
    parallel = 1

    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate

    def run(self, events: list[RawEvent], *, columns: list[bool] | None, programme: int) -> Any:
        assert self._gate.wait(DEADLINE_S)
        return SimpleNamespace(results=np.zeros(len(events), RESULT), stage_seconds={}, reply=lambda i: None)

    def forget(self, programme: int) -> None:
        raise AssertionError("the last programme stays")

    def register(self, buffer: memoryview) -> None:
        assert len(buffer) > 0

    def close(self) -> None:
        pass


class Ingest:
    """The worker's side of an ingest: answers the first Hello of a worker that it does not know, notes what comes but further Hellos."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, name: str) -> None:
        self.url = f"ipc://{folder / name}.sock"
        self.socket = context.socket(zmq.ROUTER)
        self.socket.bind(self.url)
        self.ring = SlotRing(folder / name, 8, 4096)
        self.path = self.ring.path  #: as a Welcome names it
        self.timeout_s = DEADLINE_S
        self.heard: list[link.FromWorker] = []
        self._worker = b""
        self._known = False

    def send(self, message: link.ToWorker, *parts: bytes) -> None:
        self.socket.send_multipart([self._worker, link.encode(message), *parts])

    def listen(self) -> None:
        while self.socket.poll(0):
            self._worker, body, *_ = self.socket.recv_multipart()
            message = link.decode_from_worker(body)
            greets = isinstance(message, link.Hello)
            if greets and self._known:
                continue  # it says so again until it is answered
            self.heard.append(message)
            if greets:
                self._known = True
                self.send(
                    link.Welcome(
                        ring=str(self.path),
                        slots=8,
                        slot_bytes=4096,
                        heartbeat_s=0.05,
                        timeout_s=self.timeout_s,
                        batch_timeout_s=DEADLINE_S,
                    )
                )
                self.send(link.Configure(generation=1, config=RunConfig(run=1)))

    def heard_of_nobody(self) -> None:
        """As an ingest that was started again: it answers the next Hello."""
        self._known = False

    def forget(self) -> None:
        """As one that lets the worker know of it."""
        self.heard_of_nobody()
        self.send(link.Unknown())

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.heard)

    def give(self, ticket: int) -> None:
        work = np.zeros(1, link.DESCRIPTOR)
        work["ticket"], work["slot"], work["size"], work["generation"] = ticket, self.ring.put(bytes(8)), 8, 1
        self.send(link.Work(alone=False), work.tobytes())


class Farm:
    def __init__(self, folder: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.gate = threading.Event()
        self.ingests = [Ingest(self._context, folder, name) for name in "ab"]
        settings = WorkerSettings(name="w", ingests=tuple(ingest.url for ingest in self.ingests), backend="cpu", max_wait_s=0.0)
        self.worker = Worker(settings, lambda config, present: Built(Reconstruction(self.gate), 1, "c0ffee", ()))

    def turn_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until, [ingest.heard for ingest in self.ingests]
            self.worker.turn()
            for ingest in self.ingests:
                ingest.listen()

    def close(self) -> None:
        self.gate.set()
        self.worker.close()
        for ingest in self.ingests:
            ingest.socket.close(linger=0)
            ingest.ring.close()
        self._context.term()


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path)
    yield farm
    farm.close()


def test_an_ingest_that_came_back_is_greeted_while_another_keeps_the_worker_busy(farm: Farm) -> None:
    a, b = farm.ingests
    farm.turn_until(lambda: a.count(link.Configured) == 1 and b.count(link.Configured) == 1)
    a.give(1)
    b.forget()
    farm.turn_until(lambda: b.count(link.Hello) == 2)
    assert a.count(link.Results) == 0, "a's batch still runs"
    farm.gate.set()
    farm.turn_until(lambda: a.count(link.Results) == 1 and b.count(link.Configured) == 2)


def test_an_ingest_that_came_back_is_not_greeted_before_its_own_batch_has_ended(farm: Farm) -> None:
    """Its tickets begin anew: the answer of the old batch must not meet them."""
    a, b = farm.ingests
    farm.turn_until(lambda: a.count(link.Configured) == 1 and b.count(link.Configured) == 1)
    b.give(1)
    farm.turn_until(lambda: b.count(link.Alive) > 0 and any(m.busy_s > 0 for m in b.heard if isinstance(m, link.Alive)))
    b.forget()
    signs = a.count(link.Alive)
    farm.turn_until(lambda: a.count(link.Alive) > signs + 5)
    assert b.count(link.Hello) == 1
    farm.gate.set()
    farm.turn_until(lambda: b.count(link.Hello) == 2)
    kinds = [type(message) for message in b.heard]
    assert link.Results in kinds[: len(kinds) - 1 - kinds[::-1].index(link.Hello)], "the answer came before the hello"


def test_one_hello_answers_many_messages_that_say_unknown(farm: Farm) -> None:
    """An ingest that comes back says so to everything that waited for it. To every further hello the worker would be lost again."""
    b = farm.ingests[1]
    farm.turn_until(lambda: b.count(link.Configured) == 1)
    b.forget()
    greeted = 0
    while not greeted:
        farm.worker.turn()
        while b.socket.poll(0):
            greeted += isinstance(link.decode_from_worker(b.socket.recv_multipart()[1]), link.Hello)
    for _ in range(5):
        b.send(link.Unknown())
        farm.worker.turn()
    while b.socket.poll(20):
        greeted += isinstance(link.decode_from_worker(b.socket.recv_multipart()[1]), link.Hello)
    assert greeted == 1


def test_a_welcome_of_an_ingest_that_has_ended_since_is_no_end_of_the_worker(farm: Farm) -> None:
    """Its ring is gone before the welcome is read; the next one has another. As an error, it would never be started again."""
    a, b = farm.ingests
    farm.turn_until(lambda: a.count(link.Configured) == 1 and b.count(link.Configured) == 1)
    b.path = a.ring.path.with_name("gone")
    b.forget()
    farm.turn_until(lambda: b.count(link.Hello) == 2)
    b.path = b.ring.path
    b.heard_of_nobody()
    farm.turn_until(lambda: b.count(link.Hello) == 3 and b.count(link.Configured) == 2)
    a.give(1)
    b.give(1)
    farm.gate.set()
    farm.turn_until(lambda: a.count(link.Results) == 1 and b.count(link.Results) == 1)


def test_a_ring_that_stays_away_is_a_configuration_error(farm: Farm) -> None:
    """A worker on another machine."""
    b = farm.ingests[1]
    b.path, b.timeout_s = b.ring.path.with_name("elsewhere"), 0.0

    def configured() -> bool:
        b.heard_of_nobody()
        return b.count(link.Configured) == 1

    with pytest.raises(ConfigError, match="worker and ingest must share /dev/shm"):
        farm.turn_until(configured)
