"""Events of a real farm, drawn: the ingest is elsewhere (tcp, no shared files), workers reconstruct, and some do it wrong on order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.events import RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.wire import Outcome
from hltfarm.service.cli import run
from hltfarm.service.client import Decision
from hltfarm.service.control.app import create_app
from hltfarm.service.control.link import FarmLink
from hltfarm.service.control.settings import ControlSettings
from hltfarm.workers.faults import VARIABLE, Act, Order, give
from tests.integration.ingest_farm import DEADLINE_S, RUN
from tests.integration.test_replay import RealFarm

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
POISON = 2
ALL = "version: 1\npaths:\n  - {name: HLT_All, stream: physics, description: everything}\n"
Test = Callable[[httpx.AsyncClient], Awaitable[None]]


def asked(farm: RealFarm, test: Test) -> None:
    """Requests to a control plane of this farm."""

    async def whole() -> None:
        settings = ControlSettings(ingests=(farm.server.control_url,), poll_s=0.1)
        app = create_app(settings, FarmLink(settings.ingests, DEADLINE_S))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as http,
        ):
            await test(http)

    asyncio.run(whole())


class TcpFarm(RealFarm):
    """Its ingest is asked over tcp."""

    decisions: dict[int, Decision]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("farm")
    sample = Sample(DEMO)
    give(folder / "faults.json", [Order(number=1, act=Act.FAIL, events=(sample[POISON].id.event,))])
    farm = TcpFarm(
        folder, limits=Limits(), canary_s=0.0, worker_timeout_s=10.0, worker_heartbeat_s=0.5, control_url="tcp://127.0.0.1:*"
    )  # fmt: skip
    try:
        for name in ("w0", "w1"):
            farm.worker(name)
        farm.command("configure", config=RunConfig(run=RUN, menu=ALL))
        farm.command("start")
        farm.wait(lambda snapshot: sum(worker.ready for worker in snapshot.workers) == 2)
        with farm.client() as client:
            client.wait_open(DEADLINE_S)
            for i in range(6):
                client.send(RawEvent(sample[i].id._replace(run=RUN), sample[i].payload), timeout=DEADLINE_S)
            farm.decisions = {decision.id.event: decision for decision in client.flush(DEADLINE_S)}
        yield farm
    finally:
        farm.close()


def test_an_accepted_event_has_the_same_bits_here(farm: TcpFarm, tmp_path: Path) -> None:
    async def test(http: httpx.AsyncClient) -> None:
        listed = (await http.get("/v1/events?kind=accepted")).json()["events"]
        assert listed
        for event in listed:
            decision = farm.decisions[event["event"]]
            assert decision.outcome is Outcome.ACCEPT
            assert (event["digest"], event["paths"], event["run"]) == (f"{decision.digest:016x}", ["HLT_All"], RUN)
            assert event["ingest"] == farm.server.control_url
            shown = (await http.get(f"/v1/events/{event['id']}")).json()
            assert shown["meta"]["digest_equal"] is True
            assert shown["meta"]["differences"] == []
            assert shown["meta"]["models"] == [model.label for model in farm.snapshot().models]
            assert len(shown["hits"]["x"]) == shown["counts"]["hits"] > 1000
            assert len(shown["tracks"]["pt"]) == shown["counts"]["tracks"] > 50
            assert shown["counts"]["tracks_high_purity"] == shown["tracks"]["quality"].count(3)
        raw = await http.get(f"/v1/events/{listed[0]['id']}/raw")
        (tmp_path / "one.hlt").write_bytes(raw.content)
        document = tmp_path / "one.json"
        (tmp_path / "menu.yaml").write_text(ALL)
        options = ["--backend", "cpu", "--threads", "1", "--menu", str(tmp_path / "menu.yaml"), "--json", str(document)]
        assert await asyncio.to_thread(run, ["reco", str(tmp_path / "one.hlt"), *options]) == 0
        assert f'"digest": "{listed[0]["digest"]}"' in document.read_text()
        (path,) = (await http.get("/v1/paths")).json()["paths"]
        assert (path["name"], path["description"], path["events"], path["accepted"], path["fraction"]) == (
            "HLT_All",
            "everything",
            5,
            5,
            1.0,
        )

    asked(farm, test)


def test_a_poisonous_event_is_told_with_its_reason_and_shown(farm: TcpFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    number = Sample(DEMO)[POISON].id.event

    async def healthy(http: httpx.AsyncClient) -> None:
        (error,) = (await http.get("/v1/errors")).json()["errors"]
        assert (error["event"], error["reason"], error["error"]) == (number, "WORKER_FAILED", "RuntimeError: this batch fails on order")
        assert error["worker"] in ("w0", "w1")
        assert (farm.folder / "errors" / error["bundle"] / "bundle.json").is_file()
        (listed,) = (await http.get("/v1/events?kind=error")).json()["events"]
        assert listed["id"] == error["id"]
        shown = (await http.get(f"/v1/events/{error['id']}")).json()
        assert (shown["meta"]["error"], shown["meta"]["digest_equal"], shown["meta"]["reason"]) == (None, None, "WORKER_FAILED")
        assert len(shown["hits"]["x"]) > 1000, "nothing is wrong with the event itself"

    async def deadly(http: httpx.AsyncClient) -> None:
        (error,) = (await http.get("/v1/errors")).json()["errors"]
        shown = (await http.get(f"/v1/events/{error['id']}")).json()
        assert "SIGKILL" in shown["meta"]["error"]
        assert shown["hits"]["x"] == []
        assert sum(shown["occupancy"]["pixels"]) > 1000
        accepted = (await http.get("/v1/events?kind=accepted")).json()["events"][0]
        again = (await http.get(f"/v1/events/{accepted['id']}")).json()
        assert again["meta"]["digest_equal"] is True, "the next event has a process of its own"

    asked(farm, healthy)
    orders = farm.folder / "here.json"
    give(orders, [Order(number=2, act=Act.DIE, events=(number,))])
    monkeypatch.setitem(os.environ, VARIABLE, str(orders))
    asked(farm, deadly)
