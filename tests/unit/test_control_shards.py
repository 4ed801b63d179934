"""A farm of several ingests over HTTP, with fake links: one that comes back joins the run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.messages import LedgerCounts, RunConfig, RunState, WorkerStatus
from hltfarm.service.control.app import create_app
from hltfarm.service.control.link import FarmView, IngestView, refusal, view_of
from hltfarm.service.control.merge import merge
from hltfarm.service.control.metrics import ControlNumbers, MetricsInput, registry_of
from hltfarm.service.control.readiness import Readiness
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.control.strays import Strays, commands_to_join
from tests.unit.farm_fake import ENDPOINT as FAKE
from tests.unit.farm_fake import FakeLink, snapshot

ENDPOINTS = ("ipc:///a", "ipc:///b")


class TwoIngests:
    """Two fake ingests behind one link."""

    def __init__(self) -> None:
        self.parts = {endpoint: FakeLink() for endpoint in ENDPOINTS}

    async def look(self) -> FarmView:
        views = [(endpoint, (await part.look()).ingests[0]) for endpoint, part in self.parts.items()]
        return view_of([IngestView(endpoint, view.snapshot, view.error) for endpoint, view in views])

    async def command(self, op: str, config: RunConfig | None = None, worker: str | None = None) -> FarmView:
        errors: list[HltfarmError] = []
        for part in self.parts.values():
            try:
                await part.command(op, config, worker)
            except HltfarmError as error:
                errors.append(error)
        if (error := refusal(op, errors, len(self.parts))) is not None:
            raise error
        return await self.look()

    async def worker_command(self, op: str, worker: str, *, pid: int = 0, reason: str = "") -> None:
        for part in self.parts.values():
            await part.worker_command(op, worker, pid=pid, reason=reason)

    async def tell(self, endpoint: str, op: str, config: RunConfig | None = None, worker: str | None = None, reason: str = "") -> None:
        await self.parts[endpoint].tell(FAKE, op, config, worker, reason)

    async def detach(self, endpoint: str, consumer: str) -> None:
        await self.parts[endpoint].detach(FAKE, consumer)

    async def change_programme(
        self, endpoint: str, op: str, config: RunConfig | None = None, *, lumi: int = 0, fraction: float = 0.0
    ) -> None:
        await self.parts[endpoint].change_programme(FAKE, op, config, lumi=lumi, fraction=fraction)

    async def close(self) -> None:
        for part in self.parts.values():
            await part.close()


@asynccontextmanager
async def serving(link: TwoIngests) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ControlSettings(ingests=ENDPOINTS, poll_s=0.02, autostart=True), link)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://farm") as client:
        yield client


async def status(client: httpx.AsyncClient, expected: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (body := (await client.get("/v1/status")).json())["state"] != expected:
            await asyncio.sleep(0.01)
    return dict(body)


@pytest.mark.parametrize("paused", [False, True])
def test_an_ingest_that_comes_back_joins_the_run(paused: bool) -> None:
    link = TwoIngests()

    async def main() -> None:
        async with serving(link) as client:
            await status(client, "Running")
            if paused:
                await client.post("/v1/control/pause")
            second = link.parts[ENDPOINTS[1]]
            second.machine, second.run = type(second.machine)(), None  # it was killed, and started again
            second.sent.clear()
            async with asyncio.timeout(10):
                while second.run is None or (second.machine.state is RunState.RUNNING and paused):
                    await second.looked(1)
            body = await status(client, "Paused" if paused else "Running")
            assert [ingest["state"] for ingest in body["ingests"]] == [body["state"]] * 2
            assert [op for op, _, _ in second.sent] == ["configure", "start", *(["pause"] if paused else [])]
            assert (second.run, body["run"]) == (1, 1)
            await client.post("/v1/control/stop")
            async with asyncio.timeout(10):
                while (await client.get("/v1/runs/1")).json()["outcome"] == "running":
                    await asyncio.sleep(0.01)
            assert (await client.get("/v1/runs/1")).json()["outcome"] == "interrupted", "what the killed one had counted is gone"

    asyncio.run(main())


def look(*ingests: tuple[RunState, int | None, float] | None) -> FarmView:
    """A look at ingests by state, run and start time; None for one that does not answer."""
    parts = [None if part is None else snapshot(state=part[0], run=part[1], started=part[2]) for part in ingests]
    return view_of([IngestView(str(i), part, "gone" if part is None else None) for i, part in enumerate(parts)])


def test_who_has_lost_the_run() -> None:
    def found(*states: RunState) -> list[str]:
        return Strays().of(look(*((state, None, 1.0) for state in states)))

    assert found(RunState.RUNNING, RunState.HALTED, RunState.CONFIGURED) == ["1", "2"]
    assert found(RunState.PAUSED, RunState.HALTED) == ["1"]
    assert found(RunState.DRAINING, RunState.HALTED) == [], "that run ends"
    assert found(RunState.HALTED, RunState.CONFIGURED) == []
    assert found(RunState.RUNNING, RunState.RUNNING_DEGRADED) == []


@pytest.mark.parametrize(
    ("now", "lost"),
    [
        ([(RunState.HALTED, None, 2.0)], True),
        ([(RunState.CONFIGURED, 7, 2.0)], True),  # it was configured for the run, and not started yet
        ([(RunState.HALTED, None, 1.0)], False),  # the same process: somebody has reset it
        ([(RunState.CONFIGURED, 7, 1.0)], False),  # it ended the run
        ([(RunState.CONFIGURED, 8, 2.0)], False),  # somebody gave it another run
        ([(RunState.RUNNING, 7, 2.0)], False),  # it is back
        ([None], False),
    ],
)
def test_a_run_that_all_its_ingests_have_lost(now: list[tuple[RunState, int | None, float] | None], lost: bool) -> None:
    strays = Strays()
    strays.observe(look((RunState.RUNNING, 7, 1.0)), 7)
    assert strays.all_lost(look(*now)) is lost
    assert strays.of(look(*now)) == (["0"] if lost else [])
    strays.observe(look((RunState.HALTED, None, 1.0)), 8)
    assert not strays.all_lost(look(*now)), "of another run"


@pytest.mark.parametrize(
    ("states", "last", "commands"),
    [
        ([RunState.RUNNING, RunState.HALTED], "pause", ("configure", "start")),
        ([RunState.PAUSED, RunState.HALTED], None, ("configure", "start", "pause")),
        ([RunState.HALTED], None, ("configure", "start")),
        ([RunState.HALTED], "resume", ("configure", "start")),
        ([RunState.HALTED], "pause", ("configure", "start", "pause")),
        ([RunState.HALTED], "drain", ("configure", "start", "drain")),
    ],
)
def test_how_an_ingest_joins(states: list[RunState], last: str | None, commands: tuple[str, ...]) -> None:
    assert commands_to_join(look(*((state, None, 1.0) for state in states)), last) == commands


def worker(**changes: Any) -> WorkerStatus:
    given = {"name": "w", "backend": "cpu", "device": "cpu", "up": True, "ready": True, "pid": 7, "host": "here"}
    return WorkerStatus(**(given | {"credit_events": 5, "in_flight": 2, "processed": 10} | changes))


def test_a_worker_of_several_ingests_is_one_worker() -> None:
    lost = worker(up=False, ready=False, credit_events=0, in_flight=0)
    (both,) = merge([snapshot(workers=[worker()]), snapshot(workers=[worker(restarts=1)])]).workers
    assert (both.name, both.credit_events, both.in_flight, both.processed, both.restarts) == ("w", 10, 4, 20, 1)
    (half,) = merge([snapshot(workers=[lost]), snapshot(workers=[worker()])]).workers
    assert (half.up, half.ready, half.credit_events) == (True, True, 5)
    parts = [snapshot(workers=[worker()]), snapshot(workers=[worker(host="there", pid=8)])]
    assert [w.name for w in merge(parts).workers] == ["w@0", "w@1"]


def test_a_worker_that_was_restarted_keeps_its_name_while_one_ingest_does_not_know_it_yet() -> None:
    successor = worker(pid=8, restarts=1, processed=3, credit_events=9)
    for old in (worker(up=False, ready=False, credit_events=0, in_flight=0), worker()):
        (one,) = merge([snapshot(workers=[old]), snapshot(workers=[successor])]).workers
        assert (one.name, one.up, one.restarts) == ("w", True, 1)
    lost = worker(up=False, ready=False)
    (elsewhere,) = merge([snapshot(workers=[lost]), snapshot(workers=[worker(host="there", pid=8)])]).workers
    assert (elsewhere.name, elsewhere.host) == ("w", "there")


def test_every_ingest_needs_a_worker() -> None:
    readiness = Readiness(10.0)
    view = view_of([IngestView("a", snapshot(workers=[worker()])), IngestView("b", snapshot(workers=[]))])
    readiness.observe(view, 0.0)
    assert readiness.reasons(view, 0.0) == ["no worker is ready for the ingest b"]


@pytest.mark.parametrize(
    ("canary_s", "age_s", "ready"),
    [(5.0, 29.0, True), (5.0, 31.0, False), (5.0, -1.0, False), (20.0, 79.0, True), (20.0, 81.0, False), (0.0, -1.0, True)],
)
def test_ready_needs_a_canary_where_there_are_any(canary_s: float, age_s: float, ready: bool) -> None:
    readiness = Readiness(10.0)
    silent = msgspec.structs.replace(worker(), canary_age_s=age_s)
    broken = msgspec.structs.replace(worker(pid=8), name="v", ready=False, canary_age_s=0.5)
    view = view_of([IngestView("a", snapshot(workers=[silent, broken], canary_s=canary_s))])
    readiness.observe(view, 0.0)
    expected = [] if ready else [f"no worker has reconstructed a canary event within {max(30, 4 * canary_s):g} s"]
    assert readiness.reasons(view, 0.0) == expected


def test_mismatches_of_two_ingests_do_not_cancel() -> None:
    more, less = LedgerCounts(received=10, accepted=9), LedgerCounts(received=10, accepted=11)
    view = view_of([IngestView("a", snapshot(totals=more)), IngestView("b", snapshot(totals=less))])
    registry = registry_of(lambda: MetricsInput(view, "0", None, ControlNumbers(0.0, False, {}, {}, {})))
    assert registry.get_sample_value("hlt_accounting_mismatch_events") == 2
