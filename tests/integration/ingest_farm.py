"""An ingest in a thread with real worker processes that run a fake reconstruction: what the tests of the ingest share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import zmq

from hltfarm.proto.errors import StateError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import Command, CommandReply, RunConfig, Snapshot
from hltfarm.service.client import Client, Decision
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings

WORKER = Path(__file__).with_name("fake_worker.py")
RUN = 7
DEADLINE_S = 20.0


def payload(tag: int, words: int = 64) -> np.ndarray:
    """FED table with one FED; the last word is the tag."""
    table = np.array([1, 40, 8 * words] + [0] * (2 * words - 1) + [tag], dtype="<u4")
    return table.view(np.uint8)


def event(number: int, run: int = RUN) -> RawEvent:
    return RawEvent(EventId(run, 1, number, 3), payload(number))


class Farm:
    """An ingest in a thread, worker processes, a control socket."""

    def __init__(self, folder: Path, **changes: object) -> None:
        settings = {
            "clients_url": f"ipc://{folder}/clients",
            "workers_url": f"ipc://{folder}/workers",
            "control_url": f"ipc://{folder}/control",
            "ring": Path(f"/dev/shm/hltfarm-{folder.name}-{os.getpid()}"),
            "slots": 64,
            "limits": Limits(max_payload_bytes=1 << 16),
            "error_dir": folder / "errors",
            "worker_heartbeat_s": 0.1,
            "worker_timeout_s": 1.0,
            "client_timeout_s": 5.0,
            "stop_timeout_s": 1.0,
            "confirm_timeout_s": 0.5,
            "forget_worker_s": 60.0,
        } | changes
        self.settings = IngestSettings(**settings)  # type: ignore[arg-type]
        self.folder = folder
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._context = zmq.Context()
        self._ended = threading.Event()
        self.start_ingest()

    def start_ingest(self) -> None:
        self.server = self._server()
        self._ended.clear()
        self._thread = threading.Thread(target=self._serve, name="ingest")
        self._thread.start()
        self._control = self._context.socket(zmq.DEALER)
        self._control.connect(self.server.control_url)

    def _server(self) -> IngestServer:
        return IngestServer(self.settings)

    def _serve(self) -> None:
        while not self._ended.is_set():
            self.server.turn()

    def stop_ingest(self) -> None:
        self._ended.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._control.close(linger=0)
        self.server.close()

    def command(self, op: str, **arguments: object) -> Snapshot:
        self._control.send(msgspec.json.encode(Command(id=op, op=op, **arguments)))  # type: ignore[arg-type]
        assert self._control.poll(DEADLINE_S * 1000), f"no answer to {op}"
        reply = msgspec.json.decode(self._control.recv(), type=CommandReply)
        assert reply.id == op
        if reply.error is not None:
            raise StateError(reply.error, reply.legal)
        assert reply.snapshot is not None
        assert reply.snapshot.ledger.mismatch == 0
        assert reply.snapshot.totals.mismatch == 0
        return reply.snapshot

    def snapshot(self) -> Snapshot:
        return self.command("snapshot")

    def wait(self, condition: Callable[[Snapshot], bool], client: Client | None = None) -> Snapshot:
        """Ask until the condition holds; a client that is given keeps up its session meanwhile."""
        end = time.monotonic() + DEADLINE_S
        while not condition(snapshot := self.snapshot()):
            assert time.monotonic() < end, snapshot
            if client is not None:
                client.poll(0)
            time.sleep(0.01)
        return snapshot

    def worker(self, name: str, max_events: int = 8) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), self.settings.workers_url, name, str(max_events)], stderr=subprocess.DEVNULL
        )
        self.workers[name] = process
        return process

    def run(self, workers: int = 1, **plan: object) -> Snapshot:
        """Configure, start, wait for the workers."""
        for number in range(workers):
            self.worker(f"w{number}")
        self.command("configure", config=RunConfig(run=RUN, menu=json.dumps(plan)))
        self.command("start")
        return self.wait(lambda s: sum(w.ready for w in s.workers) == workers)

    def client(self, **options: object) -> Client:
        return Client(self.settings.clients_url, "test", **({"heartbeat_s": 0.1, "timeout_s": 1.0} | options))  # type: ignore[arg-type]

    def reaper(self, name: str) -> int:
        """What a supervisor does when a worker ends: tells the ingest."""
        code = self.workers[name].wait(DEADLINE_S)
        self.command("worker_lost", worker=name)
        return code

    def close(self) -> None:
        for process in self.workers.values():
            process.kill()
        for process in self.workers.values():
            process.wait(DEADLINE_S)
        self.stop_ingest()
        self._context.term()
        assert not self.settings.ring.exists()


def stream(client: Client, numbers: range, run: int = RUN) -> dict[int, Decision]:
    decisions: list[Decision] = []
    for number in numbers:
        client.send(event(number, run), timeout=DEADLINE_S)
        decisions += client.poll(0)
    decisions += client.flush(DEADLINE_S)
    assert len({decision.id.event for decision in decisions}) == len(decisions), "each event is decided once"
    return {decision.id.event: decision for decision in decisions}
