"""The ingest as a process of its own: ends on SIGTERM with closed books and bundles that replay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import zmq

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import Command, CommandReply, RunConfig
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.service.client import Client

WORKER = Path(__file__).with_name("fake_worker.py")
INGEST = """
import sys
from pathlib import Path
from hltfarm.service.ingest.main import run_ingest
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.proto.limits import Limits
folder = Path(sys.argv[1])
run_ingest(IngestSettings(
    clients_url=f"ipc://{folder}/clients", workers_url=f"ipc://{folder}/workers", control_url=f"ipc://{folder}/control",
    ring=Path(sys.argv[2]), slots=64, limits=Limits(max_payload_bytes=65536), error_dir=folder / "errors",
    stop_timeout_s=float(sys.argv[3]),
), started=lambda server: print("up", flush=True))
"""
DEADLINE_S = 20.0


def ask(folder: Path, menu: str, run: int) -> None:
    """Configure and start a run."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as control:
        control.setsockopt(zmq.LINGER, 0)
        control.connect(f"ipc://{folder}/control")
        for command in (Command(id="c", op="configure", config=RunConfig(run=run, menu=menu)), Command(id="s", op="start")):
            control.send(msgspec.json.encode(command))
            assert control.poll(DEADLINE_S * 1000)
            assert msgspec.json.decode(control.recv(), type=CommandReply).error is None


def test_sigterm_decides_or_forces_everything_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ring = Path(f"/dev/shm/hltfarm-process-{os.getpid()}")
    ingest = subprocess.Popen([sys.executable, "-c", INGEST, str(tmp_path), str(ring), "0.5"], stdout=subprocess.PIPE, text=True)
    worker = subprocess.Popen([sys.executable, str(WORKER), f"ipc://{tmp_path}/workers", "w0", "8"])
    payload = np.array([1, 40, 8, 1, 2], dtype="<u4").view(np.uint8)
    try:
        assert ingest.stdout is not None
        assert ingest.stdout.readline() == "up\n"
        ask(tmp_path, json.dumps({"hang": [2]}), run=3)
        with Client(f"ipc://{tmp_path}/clients") as client:
            client.wait_open(DEADLINE_S)
            client.send(RawEvent(EventId(3, 1, 1), payload), timeout=DEADLINE_S)
            first = client.flush(DEADLINE_S)
            client.send(RawEvent(EventId(3, 1, 2, 77), payload), timeout=DEADLINE_S)
            ingest.send_signal(signal.SIGTERM)
            rest = client.flush(DEADLINE_S)
        assert ingest.wait(DEADLINE_S) == 0
        assert [decision.outcome for decision in first] == [Outcome.ACCEPT]
        assert [(decision.outcome, decision.reason) for decision in rest] == [(Outcome.ERROR, Reason.STOPPED)]
    finally:
        for process in (ingest, worker):
            process.kill()
            process.wait(DEADLINE_S)
        if ingest.stdout is not None:
            ingest.stdout.close()
    assert not ring.exists()
    (bundle,) = (tmp_path / "errors" / "run000003").iterdir()
    (event,) = list(Sample(bundle / "events.hlt"))
    assert event.id == EventId(3, 1, 2, 77)
    assert event.payload.tobytes() == payload.tobytes()
