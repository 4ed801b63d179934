"""Workers that an ingest lost and that stay away: forgotten after a while, however the loss was noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from hltfarm.proto.messages import Command
from hltfarm.proto.worker_link import Hello, encode
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings


def turn_until(server: IngestServer, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        server.turn()


def test_a_worker_that_cannot_be_reached_and_whose_end_is_reported_is_forgotten(tmp_path: Path) -> None:
    urls = {f"{peers}_url": f"ipc://{tmp_path}/{peers}" for peers in ("clients", "workers", "control")}
    ring = Path(f"/dev/shm/hltfarm-lost-{os.getpid()}")
    settings = IngestSettings(
        **urls, ring=ring, slots=4, error_dir=tmp_path / "errors", worker_heartbeat_s=0.001, worker_timeout_s=5.0, forget_worker_s=0.05
    )
    context = zmq.Context()
    with IngestServer(settings) as server, context.socket(zmq.DEALER) as control:
        control.connect(urls["control_url"])
        worker = context.socket(zmq.DEALER)
        worker.connect(urls["workers_url"])
        worker.send(encode(Hello(name="w0", backend="cpu", device="cpu", pid=7, host="here", capacity=4)))
        turn_until(server, lambda: [one.up for one in server.snapshot().workers] == [True])
        peer = server._pool._peers["w0"]
        worker.close(linger=0)
        turn_until(server, lambda: peer.heard < 0)  # a message to it had nowhere to go
        control.send(msgspec.json.encode(Command(id="1", op="worker_lost", worker="w0", pid=7)))  # and its supervisor sees it end
        assert control.poll(0) == 0
        turn_until(server, lambda: not peer.up)
        turn_until(server, lambda: not server.snapshot().workers)
    context.term()
