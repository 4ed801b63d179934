"""Runs with different models on one farm of real processes, and workers that do not agree on theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.events import RawEvent
from hltfarm.service.client import Client
from hltfarm.workers.models import Cut, Cuts, save
from tests.integration import ingest_farm, test_control
from tests.integration.test_control import HLTFARM, Farm, control, done, until

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
MENU = json.dumps({"version": 1, "paths": [{"name": "HLT_Selected", "require": {"tracks_high_purity": {"min": 1}}}]})
POINTS = {"0.99": {"triplets": 0.5, "longer": 0.5}, "0.9": {"triplets": 0.75, "longer": 0.75}}


class RealFarm(Farm):
    """Its worker reconstructs."""

    def start(self) -> None:
        self.ingest()
        self._start(*HLTFARM, "worker", "--ingest", self.workers, "--name", "w0", "--backend", "cpu", "--threads", "1")


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[RealFarm]:
    with test_control.stopping(RealFarm(tmp_path)) as running:
        assert isinstance(running, RealFarm)
        yield running


def cuts(folder: Path, name: str, min_hits: float) -> str:
    """A model that selects tracks with so many hits."""
    content = Cuts((Cut(feature="n_hits", min=min_hits),))
    known: dict[str, Any] = {"target": "track", "features": ("n_hits",), "working_points": POINTS, "default_working_point": "0.99"}
    save(folder / name, content, name=name, version=1, **known)
    return str(folder / name)


def decide(url: str, run: int) -> np.ndarray[Any, Any]:
    """Result records of the sample's first events, in their order."""
    sample = open_source(DEMO)
    with Client(url) as client:
        client.wait_open(20)
        for i in range(6):
            client.send(RawEvent(sample[i].id._replace(run=run), sample[i].payload), timeout=20)
        decisions = {decision.id.event: decision.result for decision in client.flush(20)}
    return np.array([decisions[sample[i].id.event] for i in range(6)])


async def run_with(client: httpx.AsyncClient, farm: Farm, **models: str) -> np.ndarray[Any, Any]:
    await done(client, "configure", menu=MENU, **models)
    run = (await client.post("/v1/control/start")).json()["run"]
    await until(client, "/v2/health/ready", lambda answer: bool(answer["ready"]))
    return await asyncio.to_thread(decide, farm.clients, run)


def test_the_models_of_a_run_decide_and_are_named(farm: RealFarm, tmp_path: Path) -> None:
    every, nothing = cuts(tmp_path, "every", 0), cuts(tmp_path, "nothing", 1000)

    async def named(client: httpx.AsyncClient) -> list[str]:
        models: list[str] = (await client.get("/v2/models")).json()["models"]
        return models

    async def main() -> None:
        async with control(farm) as client:
            farm.start()
            await until(client, "/v1/status", lambda status: status["state"] == "Halted" and status["workers"] == 1)

            first = await run_with(client, farm, model=every, working_point="0.9", event_model="none")
            assert first["tracks_high_purity"].all()
            assert first["accept"].all()
            assert await named(client) == ["every"]
            metadata = (await client.get("/v2/models/every")).json()
            assert (metadata["platform"], metadata["working_point"], metadata["thresholds"]) == ("hltfarm_cuts", "0.9", POINTS["0.9"])
            assert (await client.get("/v2/models/every/ready")).status_code == 200
            assert f'model="every:{metadata["hash"]}"' in (await client.get("/metrics")).text
            await done(client, "stop")
            record = (await client.get("/v1/runs/1")).json()
            assert (record["model"], record["models"][0]["hash"]) == (every, metadata["hash"])

            second = await run_with(client, farm, model=nothing, event_model="none")
            assert not second["tracks_high_purity"].any()
            assert not second["sum_pt"].any()
            assert not second["accept"].any()
            assert second["tracks"].tolist() == first["tracks"].tolist()
            assert await named(client) == ["nothing"]
            await done(client, "stop")

            third = await run_with(client, farm, model="none", event_model="none")
            assert third["sum_pt"].all(), "without a selector loose tracks count"
            assert await named(client) == []
            assert 'model="none"' in (await client.get("/metrics")).text
            await done(client, "stop")

            await bad_models(client, str(tmp_path / "missing"))

    asyncio.run(main())


async def bad_models(client: httpx.AsyncClient, missing: str) -> None:
    """A name that nobody ships is refused at once; a folder that no worker has fails the transition, and a reset mends it."""
    answer = await client.post("/v1/control/configure", json={"model": "smaple"})
    assert answer.status_code == 422
    assert "model 'smaple' is not shipped" in answer.json()["detail"]
    answer = await client.post("/v1/control/configure", json={"model": missing})
    end = await until(client, answer.headers["Location"], lambda transition: transition["progress"] != "pending")
    assert end["progress"] == "failed"
    assert "ConfigError: model" in end["error"]
    assert missing in end["error"]
    assert (await client.get("/v1/status")).json()["state"] == "Error"
    await client.post("/v1/control/reset")
    await done(client, "configure", model="none")


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[ingest_farm.Farm]:
    farm = ingest_farm.Farm(tmp_path)
    yield farm
    farm.close()


def test_a_worker_with_other_models_gets_no_work(plain: ingest_farm.Farm) -> None:
    farm = plain
    farm.worker("w0")
    farm.command("configure", config=ingest_farm.RunConfig(run=ingest_farm.RUN, menu=json.dumps({"models": {"w0": "a", "w1": "b"}})))
    snapshot = farm.wait(lambda s: bool(s.menu_hash))
    assert [model.label for model in snapshot.models] == ["a:0"]
    farm.worker("w1")
    snapshot = farm.wait(lambda s: len(s.workers) == 2 and any("loaded the models" in problem for problem in s.problems))
    assert snapshot.problems == ["worker w1: loaded the models b:0 at 0.99 (fused), the others a:0 at 0.99 (fused)"]
    assert {worker.name: worker.ready for worker in snapshot.workers} == {"w0": True, "w1": False}
