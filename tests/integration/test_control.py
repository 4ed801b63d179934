"""Control plane, link and a real ingest process, with a worker whose reconstruction is simple."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.client import Client
from hltfarm.service.control.app import create_app
from hltfarm.service.control.link import FarmLink
from hltfarm.service.control.settings import ControlSettings

MENU = '{"version": 1, "paths": [{"name": "odd"}]}'  # JSON is YAML, and the simple worker reads JSON
HLTFARM = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()"]
EMPTY_TABLE = np.zeros(4, dtype=np.uint8)  # a payload without FEDs


class Farm:
    """An ingest and a worker as processes, and where they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clients, self.workers, self.control = (f"ipc://{folder}/{name}" for name in ("clients", "workers", "control"))
        self.processes: list[subprocess.Popen[bytes]] = []

    def ingest(self) -> subprocess.Popen[bytes]:
        ring = f"/dev/shm/hltfarm-test-{os.getpid()}-{self.folder.name}"
        return self._start(
            *HLTFARM, "ingest", "--clients", self.clients, "--workers", self.workers, "--control", self.control,
            "--ring", ring, "--slots", "64", "--errors", str(self.folder / "errors"),
        )  # fmt: skip

    def worker(self, name: str = "w0") -> subprocess.Popen[bytes]:
        return self._start(sys.executable, str(Path(__file__).with_name("fake_worker.py")), self.workers, name, "16")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with stopping(Farm(tmp_path)) as running:
        yield running


@contextmanager
def stopping(farm: Farm) -> Iterator[Farm]:
    try:
        yield farm
    finally:
        for process in reversed(farm.processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@asynccontextmanager
async def control(farm: Farm, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = ControlSettings(ingests=(farm.control,), poll_s=0.05, request_timeout_s=0.5, menu=MENU, **changes)
    app = create_app(settings, FarmLink(settings.ingests, settings.request_timeout_s))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://farm") as client:
        yield client


async def until(client: httpx.AsyncClient, path: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask until the answer fulfils the condition."""
    body: dict[str, Any] = {}
    try:
        async with asyncio.timeout(30):
            while True:
                body = (await client.get(path)).json()
                if condition(body):
                    return body
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{path} stayed at {body}")


async def done(client: httpx.AsyncClient, command: str, **body: object) -> None:
    answer = await client.post(f"/v1/control/{command}", json=body or None)
    assert answer.status_code == 202, answer.text
    end = await until(client, answer.headers["Location"], lambda transition: transition["progress"] != "pending")
    assert end["progress"] == "done", end


def send(url: str, run: int, count: int) -> int:
    """Send events and wait for all decisions; returns how many were accepted."""
    accepted = 0
    with Client(url) as client:
        client.wait_open(20)
        for number in range(count):
            client.send(RawEvent(EventId(run, 1, number), EMPTY_TABLE), timeout=20)
        for decision in client.flush(20):
            accepted += decision.accepted
    return accepted


def test_a_run_from_configure_to_final_ledger(farm: Farm) -> None:
    async def main() -> None:
        async with control(farm) as client:
            farm.ingest(), farm.worker()
            await until(client, "/v1/status", lambda status: status["state"] == "Halted" and status["workers"] == 1)
            assert (await client.get("/v2/health/ready")).status_code == 503
            await done(client, "configure")
            assert (await client.post("/v1/control/start")).json()["run"] == 1
            await until(client, "/v2/health/ready", lambda answer: bool(answer["ready"]))
            assert await asyncio.to_thread(send, farm.clients, 1, 101) == 50
            await done(client, "drain")
            await done(client, "stop")
            record = (await client.get("/v1/runs/1")).json()
            assert record["outcome"] == "stopped"
            assert record["ledger"] == {
                "received": 101,
                "accepted": 50,
                "rejected": 51,
                "error": 0,
                "in_flight": 0,
                "duplicates": 0,
                "mismatch": 0,
            }
            metrics = (await client.get("/metrics")).text.splitlines()
            assert 'hlt_events_decided_total{decision="accept"} 50.0' in metrics
            assert 'hlt_path_accepts_total{path="odd"} 50.0' in metrics
            assert 'hlt_path_events_total{path="odd"} 101.0' in metrics
            assert "hlt_lumisection 1.0" in metrics
            assert "hlt_workers_ready 1.0" in metrics
            assert "hlt_event_latency_seconds_count 101.0" in metrics
            assert 'hlt_run_state{state="Configured"} 1.0' in metrics

    asyncio.run(main())


def test_the_ledger_of_a_run_that_was_reset_is_closed(farm: Farm) -> None:
    def offer(run: int) -> None:
        with Client(farm.clients) as client:
            client.wait_open(20)
            for number in range(40):
                client.send(RawEvent(EventId(run, 1, number), EMPTY_TABLE), timeout=20)

    async def main() -> None:
        async with control(farm) as client:
            farm.ingest()
            worker = farm.worker()
            await until(client, "/v1/status", lambda status: status["workers"] == 1)
            await done(client, "configure")
            await client.post("/v1/control/start")
            await until(client, "/v2/health/ready", lambda answer: bool(answer["ready"]))
            worker.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(offer, 1)
            await until(client, "/v1/status", lambda status: status["totals"]["received"] == 40)
            await client.post("/v1/control/reset")  # the answer may be late where the machine is busy; the state tells
            await until(client, "/v1/status", lambda status: status["state"] == "Halted")
            worker.send_signal(signal.SIGCONT)
            record = (await client.get("/v1/runs/1")).json()
            ledger = record["ledger"]
            assert (record["outcome"], ledger["received"], ledger["error"], ledger["in_flight"]) == ("reset", 40, 40, 0)

    asyncio.run(main())


def test_an_ingest_that_dies_and_comes_back(farm: Farm) -> None:
    async def main() -> None:
        async with control(farm, autostart=True) as client:
            ingest = farm.ingest()
            farm.worker()
            await until(client, "/v2/health/ready", lambda answer: bool(answer["ready"]))
            ingest.send_signal(signal.SIGKILL)
            ingest.wait()
            status = await until(client, "/v1/status", lambda status: status["state"] == "Error")
            assert status["problems"][0].startswith(f"ingest {farm.control} did not answer")
            assert (await client.post("/v1/control/drain")).status_code == 503
            assert 'hlt_run_state{state="Error"} 1.0' in (await client.get("/metrics")).text
            farm.ingest()
            await until(client, "/v2/health/ready", lambda answer: bool(answer["ready"]))
            assert (await client.get("/v1/status")).json()["run"] == 1, "its clients keep events of that run"
            assert await asyncio.to_thread(send, farm.clients, 1, 11) == 5
            await done(client, "stop")
            assert (await client.get("/v1/runs/1")).json()["outcome"] == "interrupted", "what the killed one had counted is gone"
            assert (await client.post("/v1/control/start")).json()["run"] == 2

    asyncio.run(main())


def test_what_the_workers_cannot_do_is_an_error_of_the_farm(farm: Farm) -> None:
    async def main() -> None:
        async with control(farm) as client:
            farm.ingest(), farm.worker()
            await until(client, "/v1/status", lambda status: status["workers"] == 1)
            answer = await client.post("/v1/control/configure", json={"menu": "version: 1\npaths:\n  - {name: not_json}\n"})
            assert answer.status_code == 202
            status = await until(client, "/v1/status", lambda status: bool(status["problems"]) or status["state"] == "Error")
            assert (await client.get("/v2/health/ready")).status_code == 503, status
            assert (await client.post("/v1/control/reset")).json()["state"] == "Halted"

    asyncio.run(main())
