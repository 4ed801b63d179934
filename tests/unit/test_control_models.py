"""Models over HTTP, with a fake link: what a run asks for, what takes part in it, what it could be configured with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hltfarm.proto.messages import Snapshot
from hltfarm.workers import run_models
from hltfarm.workers.configuration import DEFAULT, SelectionConfig
from hltfarm.workers.models import registry, save
from tests.reference import model_samples
from tests.unit.farm_fake import CLASSIFIER, SELECTOR, FakeLink
from tests.unit.test_control_api import ended, run

Client = httpx.AsyncClient


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with a selector of tracks and a classifier of events, neither of them in the configuration."""
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    monkeypatch.setattr(run_models, "DEFAULT", replace(DEFAULT, selection=SelectionConfig()))
    save(tmp_path / "sample", model_samples.perceptron(), **model_samples.TRACK, description="for tests")
    save(tmp_path / "events", model_samples.perceptron(), **{**model_samples.EVENT, "name": "events"})


async def configured(client: Client, link: FakeLink, **body: Any) -> tuple[str, str, str, str]:
    """What the ingest is told."""
    assert (await ended(client, await client.post("/v1/control/configure", json=body)))["progress"] == "done"
    config = link.sent[-1][1]
    assert config is not None
    return config.model, config.working_point, config.engine, config.event_model


@pytest.mark.usefixtures("shipped")
def test_a_run_names_its_models_and_the_registry_keeps_them() -> None:
    link = FakeLink()

    async def test(client: Client) -> None:
        asked = {"model": "sample", "working_point": "0.9", "engine": "eager", "event_model": "events@2"}
        assert await configured(client, link, **asked) == tuple(asked.values())
        link.models = (SELECTOR, CLASSIFIER)
        assert (await client.get("/v1/runs/1")).json()["models"] is None, "nothing was decided yet"
        await client.post("/v1/control/start")
        await client.get("/v1/status")
        record = (await client.get("/v1/runs/1")).json()
        assert {name: record[name] for name in asked} == asked
        assert record["models"] == [
            {
                "name": "tiny",
                "version": 3,
                "hash": "fedcba9876543210",
                "kind": "mlp",
                "target": "track",
                "engine": "fused",
                "working_point": "0.98",
            },
            {
                "name": "busy",
                "version": 1,
                "hash": "0011223344556677",
                "kind": "mlp",
                "target": "event",
                "engine": "fused",
                "working_point": None,
            },
        ]
        await ended(client, await client.post("/v1/control/stop"))
        await client.post("/v1/control/start")  # the next run of the same configuration
        assert {name: (await client.get("/v1/runs/2")).json()[name] for name in asked} == asked

    run(link, test)


@pytest.mark.usefixtures("shipped")
def test_what_a_request_leaves_out_is_as_the_control_was_started() -> None:
    link = FakeLink()

    async def test(client: Client) -> None:
        assert await configured(client, link) == ("sample", "0.9", "eager", "events")
        assert await configured(client, link, model="/models/other") == ("/models/other", "", "eager", "events")
        assert await configured(client, link, model="sample@2", working_point="0.99") == ("sample@2", "0.99", "eager", "events")
        assert await configured(client, link, model="none", event_model="none") == ("none", "", "eager", "none")
        assert await configured(client, link, model="", engine="") == ("", "", "", "events")

    run(link, test, model="sample", working_point="0.9", engine="eager", event_model="events")


def test_an_adopted_run_starts_again_with_its_models(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/runs.db"
    link = FakeLink()

    async def first(client: Client) -> None:
        await configured(client, link, model="/models/new", working_point="0.98")
        await client.post("/v1/control/start")

    async def second(client: Client) -> None:
        await client.get("/v1/status")
        await ended(client, await client.post("/v1/control/stop"))
        await client.post("/v1/control/start")
        config = link.sent[-2][1]
        assert config is not None
        assert (config.run, config.model, config.working_point) == (2, "/models/new", "0.98")

    run(link, first, database=database)
    run(link, second, database=database)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "smaple"}, "model 'smaple' is not shipped (shipped are events, sample)"),
        ({"model": "relative/folder"}, "absolute path"),
        ({"model": "sample@7"}, "model 'sample' is there in version 2, not '7'"),
        ({"model": "events"}, "model events scores events, not tracks"),
        ({"event_model": "sample"}, "model sample scores tracks, not events"),
        ({"model": "sample", "working_point": "0.5"}, "working point '0.5' is unknown; known are 0.99, 0.9"),
        ({"model": "/some/folder", "working_point": "tight"}, "working point 'tight' is none"),
        ({"model": "none", "working_point": "0.99"}, "without a selector"),
        ({"engine": "warp"}, "engine 'warp' is unknown; use fused, eager, compile, aot"),
        ({"model": 3}, "body.model"),
    ],
)
def test_models_that_cannot_be_meant_are_422_and_cost_no_run_number(body: dict[str, Any], said: str) -> None:
    link = FakeLink()

    async def test(client: Client) -> None:
        answer = await client.post("/v1/control/configure", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert said in answer.json()["detail"]
        assert not link.sent
        assert (await client.get("/v1/runs")).json()["runs"] == []

    run(link, test)


def test_configure_waits_for_a_worker_and_says_why_there_is_none() -> None:
    link = FakeLink()
    link.built = False

    async def test(client: Client) -> None:
        failed = await ended(client, await client.post("/v1/control/configure"))
        assert failed["progress"] == "failed"
        assert failed["error"] == "not completed within 0.2 s; the farm is Configured; worker w0: configuring"
        link.built = True
        assert (await ended(client, await client.post("/v1/control/configure")))["progress"] == "done"

    run(link, test, transition_timeout_s=0.2)


def test_status_and_v2_tell_what_the_workers_loaded() -> None:
    link = FakeLink()
    link.models = (SELECTOR, CLASSIFIER)

    async def test(client: Client) -> None:
        assert (await client.get("/v2/models")).json() == {"models": []}
        await configured(client, link)
        status = (await client.get("/v1/status")).json()
        assert (status["selector"]["name"], status["selector"]["hash"], status["selector"]["working_point"]) == (
            "tiny",
            "fedcba9876543210",
            "0.98",
        )
        assert (status["event_model"]["name"], status["event_model"]["working_point"]) == ("busy", None)
        assert (await client.get("/v2/models")).json() == {"models": ["tiny", "busy"]}
        metadata = (await client.get("/v2/models/tiny")).json()
        assert metadata == {
            "name": "tiny",
            "versions": ["3"],
            "platform": "hltfarm_mlp",
            "inputs": [{"name": name, "datatype": "FP32", "shape": [-1]} for name in ("log_pt", "tip")],
            "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1]}],
            "hash": "fedcba9876543210",
            "target": "track",
            "engine": "fused",
            "working_point": "0.98",
            "thresholds": {"triplets": 0.75, "longer": 0.5},
            "working_points": SELECTOR.working_points,
        }
        assert (await client.get("/v2/models/tiny/versions/3")).json() == metadata
        assert (await client.get("/v2/models/busy")).json()["thresholds"] is None
        missing = await client.get("/v2/models/tiny/versions/4")
        assert missing.status_code == 404
        assert "loaded: 'tiny' version 3, 'busy' version 1" in missing.json()["detail"]
        await client.post("/v1/control/reset")
        assert (await client.get("/v2/models")).json() == {"models": []}
        assert (await client.get("/v1/status")).json()["selector"] is None

    run(link, test)


class WithWorker(FakeLink):
    """Its one worker is not quite as usual."""

    def __init__(self, changes: dict[str, Any]) -> None:
        super().__init__()
        self._changes = changes

    def snapshot(self) -> Snapshot:
        given = super().snapshot()
        return msgspec.structs.replace(given, workers=[msgspec.structs.replace(given.workers[0], **self._changes)])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 200), ({"up": False}, 503), ({"ready": False}, 503), ({"credit_events": 0}, 200), ({"credit_events": 0, "in_flight": 0}, 503)],
)
def test_a_model_is_ready_with_a_worker_that_holds_credit(changes: dict[str, Any], expected: int) -> None:
    link = WithWorker(changes)
    link.models = (SELECTOR,)

    async def test(client: Client) -> None:
        await configured(client, link)
        for path in ("/v2/models/tiny/ready", "/v2/models/tiny/versions/3/ready"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (expected, {"name": "tiny", "ready": expected == 200})

    run(link, test)


@pytest.mark.usefixtures("shipped")
def test_shipped_models_can_be_configured() -> None:
    async def test(client: Client) -> None:
        events, sample = (await client.get("/v1/models")).json()["models"]
        assert (events["name"], events["target"]) == ("events", "event")
        described = registry.manifest.read(registry.find("sample"))
        assert sample == {
            "name": "sample",
            "version": 2,
            "hash": described.hash,
            "kind": "mlp",
            "target": "track",
            "description": "for tests",
            "features": list(model_samples.FEATURES),
            "working_points": model_samples.TRACK["working_points"],
            "default_working_point": "0.99",
        }

    run(FakeLink(), test)
