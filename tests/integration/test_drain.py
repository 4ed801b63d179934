"""Ingests that come and go while a run is open: found by name, drained under load, back again. Roles are processes of their own."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import httpx
import pytest

from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.status_file import UnhealthyError, check
from hltfarm.service.client import Client
from hltfarm.service.control.app import create_app
from hltfarm.service.control.discovery import LookupFailedError, resolve
from hltfarm.service.control.open_farm import OpenFarmLink
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.farm_process import free_ports
from tests.integration.ingest_farm import payload
from tests.unit.kubernetes_manifests import written

HLTFARM = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()"]
WORKER = Path(__file__).with_name("fake_worker.py")
DEADLINE_S = 30.0
MANIFEST_CONTROL = "tcp://127.0.0.1:7402"
MENU = '{"version": 1, "paths": [{"name": "odd"}]}'  # JSON is YAML, and the simple worker reads JSON
RUN = 1


class Node:
    """What a pod has: an ingest, and a worker beside it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.folder = name, folder / name
        self.folder.mkdir()
        self.control_port, self.client_port = free_ports(2)
        self.control, self.clients = f"tcp://127.0.0.1:{self.control_port}", f"tcp://127.0.0.1:{self.client_port}"
        self.status = self.folder / "status.json"
        self.ring = Path(f"/dev/shm/hltfarm-drain-{os.getpid()}-{name}")

    def start(self) -> None:
        places = ("--clients", self.clients, "--control", self.control, "--workers", f"ipc://{self.folder}/workers")
        more = ("--ring", str(self.ring), "--slots", "32", "--errors", str(self.folder / "errors"), "--status", str(self.status))
        with (self.folder / "ingest.log").open("a") as log:
            self.ingest = subprocess.Popen([*HLTFARM, "ingest", *places, *more], stderr=log)
        self.worker = subprocess.Popen(
            [sys.executable, str(WORKER), f"ipc://{self.folder}/workers", f"w-{self.name}", "8"], env=os.environ | {"FAKE_DELAY_S": "0.05"}
        )

    def until_ready(self) -> None:
        """What the readiness probe sees; it is written once a second."""
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                check(self.status, "ingest", True, time.monotonic())
                return
            except UnhealthyError:
                assert time.monotonic() < end
                time.sleep(0.05)

    def drain(self) -> subprocess.CompletedProcess[str]:
        """The preStop hook of the Kubernetes manifests, word for word but for the port."""
        (node,) = [document for _, document in written() if document["kind"] == "StatefulSet"]
        (ingest,) = node["spec"]["template"]["spec"]["containers"]
        program, *arguments = ingest["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "hltfarm"
        assert MANIFEST_CONTROL in arguments
        line = [*HLTFARM, *(self.control if part == MANIFEST_CONTROL else part for part in arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=90)

    def end(self) -> tuple[int, int]:
        """What is done to the containers after the hook: the ingest is ended, then the sidecar."""
        codes = []
        for process in (self.ingest, self.worker):
            process.send_signal(signal.SIGTERM)
            codes.append(process.wait(DEADLINE_S))
        return codes[0], codes[1]

    def kill(self) -> None:
        for process in (self.ingest, self.worker):
            process.kill()
            process.wait()
        self.ring.unlink(missing_ok=True)


class Source(threading.Thread):
    """Sends events to one ingest, as fast as it may, until it is told to end; keeps count."""

    def __init__(self, url: str, first: int) -> None:
        super().__init__(name=f"source {first}", daemon=True)
        self._url, self._numbers = url, itertools.count(first)
        self.ended, self.sent, self.decided, self.fault = threading.Event(), 0, list[int](), ""
        self.start()

    def run(self) -> None:
        try:
            with Client(self._url, self.name) as client:
                client.wait_open(DEADLINE_S)
                while not self.ended.is_set():
                    self._take(client.poll(0.0))
                    if self._offer(client):
                        self.sent += 1
                self._take(client.flush(DEADLINE_S))
        except HltfarmError as error:
            self.fault = repr(error)

    def _offer(self, client: Client) -> bool:
        event = getattr(self, "_next", None) or RawEvent(EventId(RUN, 1, number := next(self._numbers), 3), payload(number))
        sent = client.try_send(event)
        self._next = None if sent else event
        if not sent:
            self._take(client.poll(0.05))
        return sent

    def _take(self, decisions: list[Any]) -> None:
        self.decided += [decision.id.event for decision in decisions]

    def more(self, count: int) -> bool:
        """Whether so many events were decided; a fault ends the test."""
        assert not self.fault, self.fault
        return len(self.decided) >= count


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    found = [Node(tmp_path, "a"), Node(tmp_path, "b")]
    for node in found:
        node.start()
    try:
        yield found
    finally:
        for node in found:
            node.kill()


@asynccontextmanager
async def control(known: set[str], **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A control plane that finds its ingests in `known`, whatever it holds at the moment."""

    async def resolving(name: str) -> set[str]:
        assert name == "_control._tcp.ingests"
        return set(known)

    settings = ControlSettings(ingests=(), ingest_names=("_control._tcp.ingests",), poll_s=0.05, menu=MENU, autostart=True, **changes)
    link = OpenFarmLink((), 2.0, names=settings.ingest_names, forget_s=settings.forget_ingest_s, resolving=resolving)
    app = create_app(settings, link)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://farm") as client:
        yield client


async def until(client: httpx.AsyncClient, condition: Any, path: str = "/v1/status") -> dict[str, Any]:
    body: dict[str, Any] = {}
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition(body := (await client.get(path)).json()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{path} stayed at {body}")
    return body


def test_a_node_is_drained_under_load_and_comes_back(nodes: list[Node]) -> None:
    known = {node.control for node in nodes}
    stays, goes = nodes

    async def main() -> None:
        async with control(known) as client:
            await until(client, lambda s: s["state"] == "Running" and len(s["ingests"]) == 2 and s["workers"] == 2)
            await asyncio.to_thread(goes.until_ready)
            sources = [Source(stays.clients, 0), Source(goes.clients, 1_000_000)]
            await until(client, lambda s: all(source.more(50) for source in sources))
            drained = await asyncio.to_thread(goes.drain)
            assert drained.returncode == 0, drained.stderr
            assert "run 1 is closed here" in drained.stdout
            assert "error 0, in flight 0" in drained.stdout
            assert await asyncio.to_thread(goes.end) == (0, 0)
            assert not goes.status.exists()
            known.discard(goes.control)
            status = await until(client, lambda s: len(s["ingests"]) == 1)
            assert (status["state"], status["problems"]) == ("Running", [])
            before = len(sources[0].decided)
            await until(client, lambda s: sources[0].more(before + 20))  # the others go on
            goes.start()
            known.add(goes.control)
            seen = len(sources[1].decided)
            await until(client, lambda s: len(s["ingests"]) == 2 and sources[1].more(seen + 20))
            for source in sources:
                source.ended.set()
                await asyncio.to_thread(source.join, DEADLINE_S)
                assert (source.fault, len(source.decided), len(set(source.decided))) == ("", source.sent, source.sent)
            await client.post("/v1/control/stop")
            run = await until(client, lambda r: r["outcome"] != "running", "/v1/runs/1")
            ledger = run["ledger"]
            counts = [ledger[name] for name in ("received", "error", "in_flight")]
            assert (run["outcome"], counts) == ("stopped", [sum(source.sent for source in sources), 0, 0])
            assert ledger["duplicates"] == 0, "nothing was sent again"
            metrics = (await client.get("/metrics")).text
            assert f"hlt_events_received_total {float(ledger['received'])}" in metrics
            assert f'hlt_ingest_restarts_total{{ingest="{goes.control}"}} 0.0' in metrics

    asyncio.run(main())


def test_a_node_that_is_killed_is_forgotten_and_the_run_says_so(nodes: list[Node]) -> None:
    known = {node.control for node in nodes}

    async def main() -> None:
        async with control(known, forget_ingest_s=5.0) as client:
            await until(client, lambda s: s["state"] == "Running" and len(s["ingests"]) == 2)
            nodes[1].kill()
            known.discard(nodes[1].control)
            await until(client, lambda s: s["state"] == "RunningDegraded")
            assert [i["up"] for i in (await until(client, lambda s: s["state"] == "Running"))["ingests"]] == [True]
            await client.post("/v1/control/stop")
            run = await until(client, lambda r: r["outcome"] != "running", "/v1/runs/1")
            assert run["outcome"] == "interrupted", "what the killed one had counted is gone"

    asyncio.run(main())


def test_an_ingest_that_is_not_there_cannot_be_drained(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    ended = subprocess.run([*HLTFARM, "drain", "--ingest", f"tcp://127.0.0.1:{port}"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "did not answer within 5 s" in ended.stderr


class _NameServer(asyncio.DatagramProtocol):
    """Answers questions for SRV records: with two of them, with one that says that there is no such service, with no name of a host."""

    RECORDS = {  # noqa: RUF012 nobody changes it
        "farm": ("0 50 7402 node-0.farm.test.", "0 50 7412 node-1.farm.test."),
        "closed": ("0 0 0 .",),
        "odd": ("0 50 7402 node\\0320.farm.test.",),
    }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        name = question.question[0].name
        if (records := self.RECORDS.get(str(name).split(".")[2])) is not None:
            answer.answer.append(dns.rrset.from_text(name, 5, "IN", "SRV", *records))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), address)  # type: ignore[attr-defined]


def test_names_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(_NameServer, ("127.0.0.1", 0))
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
        resolver.search = [dns.name.from_text("test.")]
        monkeypatch.setattr(dns.asyncresolver, "Resolver", lambda: resolver)
        try:
            assert await resolve("_control._tcp.farm") == {"tcp://node-0.farm.test:7402", "tcp://node-1.farm.test:7412"}
            assert await resolve("_control._tcp.nobody") == set()
            assert await resolve("_control._tcp.closed") == set()
            with pytest.raises(LookupFailedError, match="no host"):
                await resolve("_control._tcp.odd")
            assert await resolve("localhost:7402") == {"tcp://127.0.0.1:7402"}
        finally:
            transport.close()
        with pytest.raises(LookupFailedError, match="cannot be looked up"):
            await resolve("_control._tcp.farm")

    asyncio.run(main())
