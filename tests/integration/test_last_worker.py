"""The last worker of an ingest stays until nothing in flight needs it; others leave at once. Nothing is lost, nothing is decided twice."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.proto.wire import Reason
from hltfarm.proto.worker_link import (
    Configure,
    Configured,
    Dismissed,
    Goodbye,
    Hello,
    Leaving,
    PathInfo,
    Stay,
    ToWorker,
    Welcome,
    Work,
    decode_to_worker,
    encode,
)
from hltfarm.service.client import Client
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, event, stream
from tests.integration.test_ingest_process import INGEST, WORKER, ask
from tests.unit.test_lost_workers import turn_until

STAYS = "is the last one: it stays"


def test_it_decides_what_is_in_flight_and_the_run_goes_on_with_the_next_one(
    make_farm: Callable[..., Farm], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    farm = make_farm(stop_timeout_s=20.0)
    farm.run(workers=1, delay_s=0.02)
    decided: dict[int, object] = {}
    with farm.client(timeout_s=20.0) as client:
        client.wait_open(DEADLINE_S)
        source = threading.Thread(target=lambda: decided.update(stream(client, range(600))))
        source.start()
        farm.wait(lambda s: s.ledger.received > 60 and s.ledger.in_flight > 16)  # more than it has in hand
        farm.workers["w0"].send_signal(signal.SIGTERM)
        assert farm.workers["w0"].wait(DEADLINE_S) == 0
        left = farm.wait(lambda s: not s.workers)
        assert (left.ledger.in_flight, left.ledger.error) == (0, 0)
        assert left.state is RunState.RUNNING_DEGRADED
        assert 60 < left.ledger.received < 600  # the source was held back
        farm.worker("w1")
        source.join(DEADLINE_S)
        assert not source.is_alive()
    assert len(decided) == 600
    assert STAYS in caplog.text
    done = farm.snapshot()
    assert (done.ledger.received, done.ledger.error, done.ledger.duplicates) == (600, 0, 0)


def test_one_of_two_leaves_at_once(make_farm: Callable[..., Farm], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    farm = make_farm(stop_timeout_s=20.0)
    farm.run(workers=2, delay_s=0.02)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for number in range(60):
            client.send(event(number), timeout=DEADLINE_S)
        farm.workers["w0"].send_signal(signal.SIGTERM)
        assert farm.workers["w0"].wait(DEADLINE_S) == 0
        assert len(client.flush(DEADLINE_S)) == 60
    assert farm.snapshot().ledger.error == 0
    assert STAYS not in caplog.text


def test_it_is_dismissed_after_the_time_of_a_stop(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(stop_timeout_s=0.2)
    with zmq.Context() as context, context.socket(zmq.DEALER) as worker:

        def hear(kind: type[ToWorker]) -> ToWorker:
            while worker.poll(DEADLINE_S * 1000):
                message = decode_to_worker(worker.recv_multipart()[0])
                if isinstance(message, kind):
                    return message
            raise AssertionError(f"no {kind.__name__}")

        worker.connect(farm.settings.workers_url)
        worker.send(encode(Hello(name="idle", backend="cpu", device="cpu", pid=1, host="here", capacity=1)))
        hear(Welcome)
        farm.command("configure", config=RunConfig(run=RUN))
        told = hear(Configure)
        assert isinstance(told, Configure)
        worker.send(encode(Configured(generation=told.generation, menu_hash="0", paths=(PathInfo("a", "b"),))))
        farm.command("start")
        with farm.client() as client:
            client.wait_open(DEADLINE_S)
            for number in range(3):
                client.send(event(number), timeout=DEADLINE_S)
            hear(Work)
            worker.send(encode(Leaving()))
            hear(Stay)
            assert [one.leaving for one in farm.snapshot().workers] == [True]
            hear(Dismissed)
            worker.send(encode(Goodbye()))
            farm.wait(lambda s: not s.workers)
            farm.command("stop")
            assert {decision.reason for decision in client.flush(DEADLINE_S)} == {Reason.STOPPED}


def test_ingest_and_its_only_worker_may_be_told_to_end_at_the_same_time(tmp_path: Path) -> None:
    ring = Path(f"/dev/shm/hltfarm-last-{os.getpid()}")
    ingest = subprocess.Popen([sys.executable, "-c", INGEST, str(tmp_path), str(ring), "20"], stdout=subprocess.PIPE, text=True)
    worker = subprocess.Popen([sys.executable, str(WORKER), f"ipc://{tmp_path}/workers", "w0", "4"])
    try:
        assert ingest.stdout is not None
        assert ingest.stdout.readline() == "up\n"
        ask(tmp_path, json.dumps({"delay_s": 0.05}), run=RUN)
        with Client(f"ipc://{tmp_path}/clients") as client:
            client.wait_open(DEADLINE_S)
            for number in range(50):
                client.send(event(number), timeout=DEADLINE_S)
            worker.send_signal(signal.SIGTERM)
            ingest.send_signal(signal.SIGTERM)
            decisions = client.flush(DEADLINE_S)
        assert (ingest.wait(DEADLINE_S), worker.wait(DEADLINE_S)) == (0, 0)
        assert sorted(decision.id.event for decision in decisions) == list(range(50))
        assert {decision.outcome.name for decision in decisions} == {"ACCEPT", "REJECT"}
    finally:
        for process in (ingest, worker):
            process.kill()
            process.wait(DEADLINE_S)
        if ingest.stdout is not None:
            ingest.stdout.close()
    assert not ring.exists()


def test_a_successor_of_the_same_pid_is_another_process(tmp_path: Path) -> None:
    urls = {f"{peers}_url": f"ipc://{tmp_path}/{peers}" for peers in ("clients", "workers", "control")}
    ring = Path(f"/dev/shm/hltfarm-pid-{os.getpid()}")
    with IngestServer(IngestSettings(**urls, ring=ring, slots=4, error_dir=tmp_path / "errors")) as server, zmq.Context() as context:

        def hello(process: int) -> None:
            with context.socket(zmq.DEALER) as worker:
                worker.connect(urls["workers_url"])
                worker.send(encode(Hello(name="w", backend="cpu", device="cpu", pid=1, host="here", capacity=4, process=process)))
                turn_until(server, lambda: worker.poll(0) > 0)  # it was welcomed

        for process, restarts in ((11, 0), (11, 0), (12, 1), (13, 2)):
            hello(process)
            assert [one.restarts for one in server.snapshot().workers] == [restarts]
