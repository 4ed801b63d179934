"""The HTTP API with a fake link: every command in every state, transitions, the run registry, errors, an ingest that is gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hltfarm.proto.messages import RunState
from hltfarm.service.control.app import create_app
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.runcontrol import COMMANDS, legal
from tests.unit.farm_fake import ENDPOINT, FakeLink

MENU = "version: 1\npaths:\n  - {name: HLT_All}\n"


@asynccontextmanager
async def serving(link: FakeLink, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ControlSettings(ingests=(ENDPOINT,), poll_s=0.05, **changes), link)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://farm") as client:
        yield client


def run(link: FakeLink, test: Callable[[httpx.AsyncClient], Awaitable[None]], **changes: Any) -> None:
    async def main() -> None:
        async with serving(link, **changes) as client:
            await test(client)

    asyncio.run(main())
    assert link.closed


async def state(client: httpx.AsyncClient) -> str:
    return str((await client.get("/v1/status")).json()["state"])


async def ended(client: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    """Follow a transition to its end."""
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(10):
        while True:
            body: dict[str, Any] = (await client.get(answer.headers["Location"])).json()
            if body["progress"] != "pending":
                return body
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("before", list(RunState))
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_every_state(before: RunState, command: str) -> None:
    link = FakeLink(RunState.HALTED)

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))  # so that there is a run to start
        link.machine = type(link.machine)(before)
        link.sent.clear()
        answer = await client.post(f"/v1/control/{command}")
        if command in legal(before):
            assert answer.status_code == (202 if command in ("configure", "drain", "stop") else 200), answer.text
            assert [op for op, _config, _worker in link.sent] == [command]
            return
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["legal"] == list(legal(before))
        assert answer.json()["retryable"] is True
        assert not link.sent
        assert (await client.get("/v1/status")).json()["legal"] == list(legal(before))

    run(link, test)


def test_a_run_over_http() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        done = await ended(client, await client.post("/v1/control/configure", json={"menu": MENU}))
        assert (done["progress"], done["run"]) == ("done", 1)
        assert (await client.get("/v1/runs/1")).json()["outcome"] == "configured"
        assert (await client.post("/v1/control/start")).json()["state"] == "Running"
        link.received, link.in_flight = 100, 3
        drain = await client.post("/v1/control/drain")
        assert (drain.json()["progress"], drain.json()["command"]) == ("pending", "drain")
        assert (await client.get("/v1/status")).json()["ledger"]["in_flight"] == 3
        link.finish_events()
        assert (await ended(client, drain))["progress"] == "done"
        assert await state(client) == "Draining"
        assert (await ended(client, await client.post("/v1/control/stop")))["progress"] == "done"
        assert await state(client) == "Configured"
        record = (await client.get("/v1/runs/1")).json()
        assert (record["outcome"], record["menu"]) == ("stopped", MENU)
        assert record["ledger"] == {
            "received": 100,
            "accepted": 0,
            "rejected": 100,
            "error": 0,
            "in_flight": 0,
            "duplicates": 0,
            "mismatch": 0,
        }
        assert record["created"] <= record["started"] <= record["stopped"]

    run(link, test)


def test_starting_again_takes_the_next_number() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure", json={"menu": MENU, "run": 41}))
        await client.post("/v1/control/start")
        await ended(client, await client.post("/v1/control/stop"))
        assert (await client.post("/v1/control/start")).json()["run"] == 42
        assert [op for op, _config, _worker in link.sent] == ["configure", "start", "stop", "configure", "start"]
        assert link.sent[3][1] is not None
        assert link.sent[3][1].menu == MENU
        page = (await client.get("/v1/runs", params={"limit": 1})).json()
        assert ([entry["number"] for entry in page["runs"]], page["next"]) == ([42], 42)
        rest = (await client.get("/v1/runs", params={"before": 42})).json()
        assert ([entry["number"] for entry in rest["runs"]], rest["next"]) == ([41], None)

    run(link, test)


def test_run_numbers_survive_a_restart_and_increase(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/deep/runs.db"

    async def first(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure", json={"run": 7}))
        await client.post("/v1/control/start")

    async def second(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/control/configure", json={"run": 7})
        assert answer.status_code == 422
        assert "the last was 7; leave it out to get 8" in answer.json()["detail"]
        assert (await ended(client, await client.post("/v1/control/configure")))["run"] == 8
        assert (await client.get("/v1/runs/7")).json()["outcome"] == "interrupted", "its ingest no longer knows it"

    run(FakeLink(), first, database=database)
    run(FakeLink(), second, database=database)


def test_a_restarted_control_adopts_the_run_that_goes_on(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/runs.db"
    link = FakeLink()

    async def first(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        await client.post("/v1/control/start")

    async def second(client: httpx.AsyncClient) -> None:
        assert await state(client) == "Running"
        assert (await client.get("/v1/runs/1")).json()["outcome"] == "running"
        await ended(client, await client.post("/v1/control/stop"))
        assert (await client.get("/v1/runs/1")).json()["outcome"] == "stopped"
        assert (await client.post("/v1/control/start")).json()["run"] == 2

    run(link, first, database=database)
    run(link, second, database=database)


def test_a_new_control_starts_the_next_run_with_the_configuration_of_the_last(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/runs.db"
    link = FakeLink()

    async def first(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure", json={"menu": MENU}))
        await client.post("/v1/control/start")
        await ended(client, await client.post("/v1/control/stop"))

    async def second(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/control/start")).json()["run"] == 2
        assert (await client.get("/v1/runs/2")).json()["menu"] == MENU

    run(link, first, database=database)
    run(link, second, database=database)


def test_a_run_that_ended_while_no_control_watched_has_all_its_counts(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/runs.db"
    link = FakeLink()

    async def first(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        await client.post("/v1/control/start")
        link.received, link.in_flight = 20, 5
        assert (await client.post("/v1/control/stop")).json()["progress"] == "pending"

    async def second(client: httpx.AsyncClient) -> None:
        async with asyncio.timeout(10):
            while (record := (await client.get("/v1/runs/1")).json())["outcome"] == "running":
                await asyncio.sleep(0.01)
        assert record["outcome"] == "stopped"
        assert (record["ledger"]["received"], record["ledger"]["in_flight"]) == (20, 0)
        assert record["counters"]["ledger"]["rejected"] == 20
        assert record["counters"]["paths"] == {"HLT_A": 7, "HLT_B": 0}, "since the run began"

    run(link, first, database=database)
    link.finish_events()
    link.path_accepts = {"HLT_A": 157, "HLT_B": 0}
    run(link, second, database=database)


def test_a_run_that_somebody_else_has_ended_is_interrupted() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        await client.post("/v1/control/start")
        link.received = 12
        async with asyncio.timeout(10):
            while (await client.get("/v1/status")).json()["ledger"]["received"] != 12:
                await asyncio.sleep(0.01)
        link.machine, link.run = type(link.machine)(), None  # the same process, without its run
        async with asyncio.timeout(10):
            while (await client.get("/v1/runs/1")).json()["outcome"] == "running":
                await client.get("/v1/status")
        record = (await client.get("/v1/runs/1")).json()
        assert (record["outcome"], record["ledger"]["received"]) == ("interrupted", 12)

    run(link, test)


@pytest.mark.parametrize("before", [(), ("pause",), ("drain",), ("pause", "resume")])
@pytest.mark.parametrize("autostart", [False, True])
def test_the_only_ingest_joins_its_run_again_after_a_restart(before: tuple[str, ...], autostart: bool) -> None:
    """Its clients keep events of that run, which no other run could take."""
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        if not autostart:
            await ended(client, await client.post("/v1/control/configure", json={"menu": MENU}))
            await client.post("/v1/control/start")
        async with asyncio.timeout(10):
            while await state(client) != "Running":
                await asyncio.sleep(0.01)
        for op in before:
            assert (await client.post(f"/v1/control/{op}")).status_code < 300
        present, held = await state(client), before[-1:] if before[-1:] != ("resume",) else ()
        configured = [config for op, config, _ in link.sent if op == "configure"]
        link.sent.clear()
        link.deaf["start"] = 1  # the first attempt ends half-way
        link.kill()
        async with asyncio.timeout(10):
            while link.run != 1 or await state(client) != present:
                await asyncio.sleep(0.01)
        assert [op for op, _, _ in link.sent] == ["configure", "start", *held]
        assert [config for _, config, _ in link.sent if config is not None] == configured
        assert (await client.get("/v1/runs/1")).json()["outcome"] == "running"
        await ended(client, await client.post("/v1/control/stop"))
        async with asyncio.timeout(10):
            while (outcome := (await client.get("/v1/runs/1")).json()["outcome"]) == "running":
                await asyncio.sleep(0.01)
        assert outcome == "interrupted", "what the killed one had counted is gone"

    run(link, test, autostart=autostart)


def test_a_run_that_lost_its_ingest_can_be_given_up() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        await client.post("/v1/control/start")
        link.deaf["configure"] = 1 << 30  # it never joins again
        link.kill()
        async with asyncio.timeout(10):
            while await state(client) != "Halted":
                await asyncio.sleep(0.01)
        assert (await client.get("/v1/runs/1")).json()["outcome"] == "running"
        assert (await client.post("/v1/control/reset")).json()["state"] == "Halted"
        async with asyncio.timeout(10):
            while (await client.get("/v1/runs/1")).json()["outcome"] == "running":
                await asyncio.sleep(0.01)

    run(link, test)


def test_autostart_begins_a_run_and_reset_ends_that() -> None:
    link = FakeLink()

    async def outcome(client: httpx.AsyncClient, number: int, expected: str) -> None:
        async with asyncio.timeout(10):
            while (await client.get(f"/v1/runs/{number}")).json().get("outcome") != expected:
                await asyncio.sleep(0.01)

    async def test(client: httpx.AsyncClient) -> None:
        await outcome(client, 5, "running")
        await ended(client, await client.post("/v1/control/stop"))
        await ended(client, await client.post("/v1/control/configure", json={"menu": MENU}))
        await client.post("/v1/control/start")
        link.machine, link.run = type(link.machine)(), None  # somebody else has ended the run
        await outcome(client, 7, "running")
        await outcome(client, 6, "interrupted")
        assert (await client.get("/v1/runs/7")).json()["menu"] == MENU, "the operator's configuration, not the default"
        assert (await client.post("/v1/control/reset")).json()["state"] == "Halted"
        await outcome(client, 7, "reset")
        await link.looked(6)  # by the monitor: nobody else asks now
        assert await state(client) == "Halted"

    run(link, test, autostart=True, first_run=5)


def test_a_transition_that_takes_too_long_fails() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        await client.post("/v1/control/start")
        link.in_flight = 1
        failed = await ended(client, await client.post("/v1/control/stop"))
        assert failed["progress"] == "failed"
        assert failed["error"] == "not completed within 0.2 s; the farm is Draining"

    run(link, test, transition_timeout_s=0.2)


def test_a_gone_ingest_is_503_and_error_at_once() -> None:
    link = FakeLink()
    link.gone = True

    async def test(client: httpx.AsyncClient) -> None:
        status = (await client.get("/v1/status")).json()
        assert (status["state"], status["ledger"], status["ready"]) == ("Error", None, False)
        assert status["problems"] == [f"ingest {ENDPOINT} did not answer"]
        answer = await client.post("/v1/control/configure")
        assert (answer.status_code, answer.headers["Retry-After"], answer.json()["retryable"]) == (503, "1", True)
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/metrics")).status_code == 200

    run(link, test)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"menu": "version: 1"}, "paths"),
        ({"menu": "][", "run": 3}, "not valid YAML"),
        ({"run": 0}, "body.run"),
        ({"colour": "red"}, "body.colour"),
    ],
)
def test_a_bad_configuration_is_422_and_costs_no_run_number(body: dict[str, Any], said: str) -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/control/configure", json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert said in answer.json()["detail"]
        assert not link.sent
        assert (await client.get("/v1/runs")).json()["runs"] == []

    run(link, test)


def test_what_an_ingest_refuses_is_502() -> None:
    link = FakeLink()
    link.refusal = "detector /nowhere: no such folder"

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/control/configure", json={"detector": "/nowhere"})
        assert (answer.status_code, answer.json()["detail"]) == (502, link.refusal)

    run(link, test)


@pytest.mark.parametrize(
    "path", ["/v1/runs/99", "/v1/transitions/none", "/v1/workers/none", "/v2/models/none", "/v2/models/none/ready", "/v1/nothing"]
)
def test_unknown_things_are_404(path: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")

    run(FakeLink(), test)


def test_workers_models_and_metadata() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        workers = (await client.get("/v1/workers")).json()["workers"]
        assert [(worker["name"], worker["up"], worker["process"]) for worker in workers] == [("w0", True, None), ("w1", False, None)]
        assert (await client.get("/v1/workers/w0")).json()["credit_events"] == 12
        assert (await client.post("/v1/workers/w0/release")).status_code == 409, "it is not quarantined"
        assert (await client.post("/v1/workers/w7/release")).status_code == 404
        assert (await client.get("/v2/models")).json() == {"models": []}
        assert (await client.get("/v2")).json()["name"] == "hltfarm"

    run(FakeLink(), test)


def test_ready_only_in_states_that_take_events() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        for before in RunState:
            link.machine = type(link.machine)(before)
            async with asyncio.timeout(10):
                while await state(client) != before:
                    await asyncio.sleep(0.01)
            answer = await client.get("/v2/health/ready")
            expected = before in (RunState.RUNNING, RunState.RUNNING_DEGRADED)
            assert (answer.status_code == 200, answer.json()["ready"]) == (expected, expected), (before, answer.text)

    run(link, test)


def test_openapi_names_every_command() -> None:
    app = create_app(ControlSettings(ingests=(ENDPOINT,)), FakeLink())
    paths = app.openapi()["paths"]
    assert {f"/v1/control/{command}" for command in COMMANDS} <= set(paths)
    assert "409" in paths["/v1/control/start"]["post"]["responses"]


def test_control_plane_imports_neither_torch_nor_cupy() -> None:
    program = (
        "import sys\n"
        "import hltfarm.service.control.app, hltfarm.service.control.link, hltfarm.service.supervisor.processes\n"
        "import hltfarm.service.cli.serve, hltfarm.service.cli.roles\n"
        "from hltfarm.proto.messages import RunConfig\n"
        "hltfarm.service.cli.serve.check_models(RunConfig(run=0, model='none'))\n"
        "print(sorted({'torch', 'cupy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
