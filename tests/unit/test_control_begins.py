"""Runs that begin by half: an ingest, the database or the control plane fails while a run is started. With fake links."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import httpx
import pytest

from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.link import FarmView, UnreachableError
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.registry import Registry
from hltfarm.service.registry.recorder import Recorder
from hltfarm.service.runcontrol import RunControl
from tests.unit.farm_fake import ENDPOINT, FakeLink
from tests.unit.test_control_api import ended, run, serving
from tests.unit.test_control_registry import rename
from tests.unit.test_exchange import Farm
from tests.unit.test_exchange import serving as serving_two


async def outcome(client: httpx.AsyncClient, number: int, expected: str) -> None:
    async with asyncio.timeout(10):
        while (await client.get(f"/v1/runs/{number}")).json().get("outcome") != expected:
            await asyncio.sleep(0.01)


async def state(client: httpx.AsyncClient, expected: str) -> None:
    async with asyncio.timeout(10):
        while (await client.get("/v1/status")).json()["state"] != expected:
            await asyncio.sleep(0.01)


def test_a_run_that_began_in_one_ingest_of_two_is_a_run() -> None:
    link = Farm()

    async def main() -> None:
        async with serving_two(link) as client:
            await ended(client, await client.post("/v1/control/configure"))
            link.second.deaf["start"] = 1
            answer = await client.post("/v1/control/start")
            assert answer.status_code == 503, answer.text
            await outcome(client, 1, "running")
            await state(client, "Running")  # the other one joins
            assert (link.first.run, link.second.run) == (1, 1)
            link.first.received = 5
            await ended(client, await client.post("/v1/control/stop"))
            await outcome(client, 1, "stopped")
            assert (await client.get("/v1/runs/1")).json()["ledger"]["received"] == 5
            assert (await client.post("/v1/control/start")).json()["run"] == 2, "a number is used once"

    asyncio.run(main())


def test_ingests_that_are_configured_for_different_runs_are_not_started() -> None:
    """One of them would take events in a run that is over."""
    link = Farm()

    async def main() -> None:
        async with serving_two(link) as client:
            await ended(client, await client.post("/v1/control/configure"))
            await client.post("/v1/control/start")
            await ended(client, await client.post("/v1/control/stop"))
            link.second.deaf["configure"] = 1
            assert (await client.post("/v1/control/configure")).status_code == 503
            refused = await client.post("/v1/control/start")
            assert (refused.status_code, "different runs: 1, 2" in refused.text) == (409, True), refused.text
            assert refused.json()["legal"] == ["configure", "reset"]
            await ended(client, await client.post("/v1/control/configure"))
            assert (await client.post("/v1/control/start")).json()["run"] == 3
            assert (link.first.run, link.second.run) == (3, 3)

    asyncio.run(main())


class SlowLink(FakeLink):
    """An ingest that carries commands out after the control has given it up. `late`: these."""

    def __init__(self) -> None:
        super().__init__()
        self.late: set[str] = set()

    async def command(self, op: str, config: RunConfig | None = None, worker: str | None = None) -> FarmView:
        view = await super().command(op, config, worker)
        if op in self.late:
            raise UnreachableError(f"ingest {ENDPOINT} did not answer {op!r}")
        return view


def test_a_start_that_is_answered_too_late_begins_the_run() -> None:
    link = SlowLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        link.late = {"start"}
        assert (await client.post("/v1/control/start")).status_code == 503
        link.late.clear()
        await outcome(client, 1, "running")
        await ended(client, await client.post("/v1/control/stop"))
        await outcome(client, 1, "stopped")
        assert (await client.post("/v1/control/start")).json()["run"] == 2

    run(link, test)


@pytest.mark.parametrize(("op", "expected"), [("stop", "stopped"), ("reset", "reset")])
def test_an_end_that_is_answered_too_late_ended_the_run(op: str, expected: str) -> None:
    link = SlowLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        await client.post("/v1/control/start")
        link.late = {op}
        assert (await client.post(f"/v1/control/{op}")).status_code == 503
        await outcome(client, 1, expected)

    run(link, test)


def test_a_control_takes_over_a_run_whose_start_the_database_did_not_hear_of(tmp_path: Path) -> None:
    link = FakeLink()
    file = tmp_path / "runs.db"

    async def main() -> None:
        async with serving(link, database=f"sqlite:///{file}") as client:
            await ended(client, await client.post("/v1/control/configure"))
            rename(file, "runs", "away")  # what waits for the database ends with the process
            assert (await client.post("/v1/control/start")).status_code == 200
        rename(file, "away", "runs")
        async with serving(link, database=f"sqlite:///{file}") as client:
            await outcome(client, 1, "running")
            link.received = 3
            await ended(client, await client.post("/v1/control/stop"))
            await outcome(client, 1, "stopped")
            assert (await client.get("/v1/runs/1")).json()["ledger"]["received"] == 3
            assert (await client.post("/v1/control/start")).json()["run"] == 2

    asyncio.run(main())


def test_a_run_that_an_operator_stopped_is_not_followed_by_another_one_by_itself() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        await outcome(client, 1, "running")
        await ended(client, await client.post("/v1/control/stop"))
        link.kill()
        async with asyncio.timeout(10):
            while link.run != 2:
                await link.looked(1)
        await link.looked(6)  # by the monitor: nobody else asks now
        assert link.machine.state is RunState.CONFIGURED, "ready for the operator, who is to start it"
        assert (await client.post("/v1/control/start")).json()["run"] == 2
        link.machine, link.run = RunControl(), None  # somebody else has ended the run
        await outcome(client, 3, "running")

    run(link, test, autostart=True)


def test_the_number_of_the_first_run_is_in_nobodys_way_later(tmp_path: Path) -> None:
    async def main() -> None:
        for number in (5, 6):  # the second one with the command line of the first, as whatever restarts it does
            async with serving(FakeLink(), database=f"sqlite:///{tmp_path}/runs.db", autostart=True, first_run=5) as client:
                await outcome(client, number, "running")

    asyncio.run(main())


def test_a_database_that_hangs_takes_no_command_away(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    async def main() -> None:
        registry = Registry("sqlite://", time.time)
        monkeypatch.setattr(registry.runs, "begin", lambda *_: free.wait(60))
        farm = FarmControl(ControlSettings(ingests=(ENDPOINT,)), FakeLink(), registry, time.monotonic)
        farm.recorder = Recorder(registry, answer_s=0.05, close_s=0.05)
        try:
            async with asyncio.timeout(10):
                await farm.configure(farm.settings.defaults)
                await farm.command("start")
                assert "does not answer" in "".join(farm.problems)
                for op in ("pause", "resume", "stop"):
                    await farm.command(op)
                assert farm.view.state is RunState.CONFIGURED
        finally:
            free.set()
            await farm.close()
        registry.close()

    asyncio.run(main())
