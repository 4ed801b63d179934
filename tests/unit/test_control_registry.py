"""The control plane and its registry: counters of runs, restarts of control and ingest, a database that fails while data are taken."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hltfarm.proto.errors import BackendError
from hltfarm.proto.messages import RunConfig, Snapshot
from hltfarm.service.control.alone import run_control
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.link import FarmView, IngestView, UnreachableError, view_of
from hltfarm.service.control.merge import closed_books
from hltfarm.service.control.run_counters import RunCounters
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.registry import RunCounts
from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu
from tests.unit.farm_fake import ENDPOINT, SELECTOR, FakeLink, snapshot
from tests.unit.test_control_api import ended, run, serving

OTHER = "tcp://other:7402"


class CountingLink(FakeLink):
    """An ingest whose counters the test sets; they run since it started, over all its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[str, int] = {"HLT_A": 150, "HLT_B": 0}
        self.models = (SELECTOR,)

    def snapshot(self) -> Snapshot:
        return msgspec.structs.replace(super().snapshot(), path_accepts=dict(self.paths))


async def record(client: httpx.AsyncClient, number: int) -> dict[str, Any]:
    answer = await client.get(f"/v1/runs/{number}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def begin(client: httpx.AsyncClient) -> None:
    await ended(client, await client.post("/v1/control/configure"))
    assert (await client.post("/v1/control/start")).status_code == 200


async def until_counted(client: httpx.AsyncClient, number: int, paths: dict[str, int]) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            body = await record(client, number)
            if body["counters"].get("paths") == paths:
                return body
            await asyncio.sleep(0.01)


def test_counters_of_a_run_are_its_own_and_kept_up_to_date() -> None:
    link = CountingLink()

    async def test(client: httpx.AsyncClient) -> None:
        await begin(client)
        link.paths = {"HLT_A": 157, "HLT_B": 2}
        link.received = 9
        link.decide(1, [True] * 3 + [False] * 6)
        live = await until_counted(client, 1, {"HLT_A": 7, "HLT_B": 2})
        assert (live["outcome"], live["ledger"], live["counters"]["ledger"]["received"]) == ("running", None, 9)
        assert live["counters"]["failures"] == {"WORKER_LOST": 0, "WORKER_FAILED": 0}
        link.paths = {"HLT_A": 160, "HLT_B": 2, "HLT_C": 1}
        await ended(client, await client.post("/v1/control/stop"))
        end = await record(client, 1)
        assert end["counters"]["paths"] == {"HLT_A": 10, "HLT_B": 2, "HLT_C": 1}
        (activation,) = end["activations"]
        assert (activation["menu_hash"], activation["models"][0]["hash"]) == (Menu.parse(DEFAULT_MENU).hash, SELECTOR.hash)
        assert (activation["first_lumi"], activation["accepted"], activation["rejected"]) == (0, 3, 6)
        link.received = 0
        assert (await client.post("/v1/control/start")).json()["run"] == 2
        await until_counted(client, 2, {"HLT_A": 0, "HLT_B": 0, "HLT_C": 0})

    run(link, test, counters_s=0.01)


class LateLink(CountingLink):
    """An ingest that is slow: it carries a reset out, and its answer comes when nobody waits for it any more."""

    async def command(self, op: str, config: RunConfig | None = None, worker: str | None = None) -> FarmView:
        view = await super().command(op, config, worker)
        if op == "reset":
            raise UnreachableError("ingest did not answer 'reset' within 2 s")
        return view


def test_the_ledger_of_a_run_whose_reset_was_answered_too_late_is_that_of_its_end() -> None:
    link = LateLink()

    async def test(client: httpx.AsyncClient) -> None:
        await begin(client)
        link.received, link.in_flight = 9, 4
        await until_counted(client, 1, {"HLT_A": 0, "HLT_B": 0})
        async with asyncio.timeout(10):
            while (await client.get("/v1/status")).json()["ledger"]["in_flight"] != 4:
                await asyncio.sleep(0.01)
        assert (await client.post("/v1/control/reset")).status_code == 503
        async with asyncio.timeout(10):
            while (end := await record(client, 1))["outcome"] == "running":
                await asyncio.sleep(0.01)
        assert (end["outcome"], end["ledger"]["received"], end["ledger"]["in_flight"], end["ledger"]["mismatch"]) == ("reset", 9, 0, 0)

    run(link, test)


def test_a_control_that_restarts_goes_on_counting(tmp_path: Path) -> None:
    link = CountingLink()
    database = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        async with serving(link, database=database, counters_s=0.01) as client:
            await begin(client)
            link.paths = {"HLT_A": 151, "HLT_B": 0}
            await until_counted(client, 1, {"HLT_A": 1, "HLT_B": 0})
        link.paths = {"HLT_A": 155, "HLT_B": 3}  # while nobody watches
        async with serving(link, database=database, counters_s=0.01) as client:
            await until_counted(client, 1, {"HLT_A": 5, "HLT_B": 3})
            await ended(client, await client.post("/v1/control/stop"))
            assert (await record(client, 1))["outcome"] == "stopped"

    asyncio.run(main())


def test_an_ingest_that_restarts_counts_from_nothing() -> None:
    counters = RunCounters(RunCounts())
    for paths, received in (({"HLT_A": 10}, 100), ({"HLT_A": 15}, 120), ({"HLT_A": 2}, 7), ({"HLT_A": 3}, 9)):
        totals = msgspec.structs.replace(snapshot().totals, received=received)
        counters.observe(view_of([IngestView(ENDPOINT, snapshot(path_accepts=paths, totals=totals))]))
        counters.observe(view_of([IngestView(ENDPOINT, None, "gone")]))
    assert counters.counts.values["paths"] == {"HLT_A": 5 + 3}


def test_an_ingest_that_restarts_and_soon_counts_more_counts_from_nothing_as_well() -> None:
    counters = RunCounters(RunCounts())
    for started, value in ((1.0, 10), (1.0, 15), (2.0, 40)):
        totals = msgspec.structs.replace(snapshot().totals, received=value)
        told = snapshot(path_accepts={"HLT_A": value}, totals=totals, started=started, path_prescaled={}, failures={}, frames_refused={})
        counters.observe(view_of([IngestView(ENDPOINT, told)]))
    assert counters.counts.values["paths"] == {"HLT_A": 5 + 40}


class TwoIngests(CountingLink):
    """Another ingest beside it, which does all that it does until it leaves, or is gone without a word. `seen`: a look saw it leave."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Snapshot | None = None
        self.leaves = self.seen = False

    async def look(self) -> FarmView:
        (first,) = (await super().look()).ingests
        if not self.leaves:
            self.other = first.snapshot
            return view_of([first, IngestView(OTHER, self.other)])
        assert self.other is not None
        left = [IngestView(OTHER, self.other)] if self.seen else []
        return view_of([first], left, [closed_books(self.other)] if self.seen else [])


@pytest.mark.parametrize(
    ("seen", "restarted", "outcome"),
    [(True, False, "stopped"), (True, True, "interrupted"), (False, True, "interrupted")],
    ids=["its books are known", "they were", "it left while no control was there"],
)
def test_a_control_that_restarts_does_not_know_the_books_of_who_left(tmp_path: Path, seen: bool, restarted: bool, outcome: str) -> None:
    link = TwoIngests()
    database = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        async with serving(link, database=database, counters_s=0.01) as client:
            await begin(client)
            link.received = 40
            await until_counted(client, 1, {"HLT_A": 0, "HLT_B": 0})
            if seen:
                link.leaves = link.seen = True
                await link.looked(2)
            if not restarted:
                await ended(client, await client.post("/v1/control/stop"))
                assert (await record(client, 1))["outcome"] == outcome
                return
        link.leaves, link.seen = True, False
        async with serving(link, database=database, counters_s=0.01) as client:
            await link.looked(2)
            await ended(client, await client.post("/v1/control/stop"))
            told = await record(client, 1)
            assert (told["outcome"], told["ledger"]["received"]) == (outcome, 40), "of the one that is left alone"

    asyncio.run(main())


class OnlyIngest(CountingLink):
    """It leaves the farm with closed books, which a look sees."""

    leaves = False

    async def look(self) -> FarmView:
        view = await super().look()
        if not self.leaves:
            return view
        last = self.snapshot()
        return view_of([IngestView(ENDPOINT, None, "it has left")], [IngestView(ENDPOINT, last)], [closed_books(last)])


@pytest.mark.parametrize(("in_order", "outcome"), [(True, "stopped"), (False, "interrupted")])
def test_a_farm_that_went_down_in_order_has_ended_its_run(tmp_path: Path, in_order: bool, outcome: str) -> None:
    database = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        link = OnlyIngest()
        async with serving(link, database=database) as client:
            await begin(client)
            link.received = 40
            await link.looked(2)
            link.leaves, link.gone = in_order, not in_order
            await link.looked(2)
            assert (await record(client, 1))["outcome"] == "running", "it may come back and go on"
        link = OnlyIngest()
        async with serving(link, database=database) as client:
            await link.looked(2)
            told = await record(client, 1)
            assert (told["outcome"], (told["ledger"] or {}).get("received")) == (outcome, 40 if in_order else None)

    asyncio.run(main())


@pytest.mark.parametrize(("leaves", "outcome"), [(False, "stopped"), (True, "interrupted")])
def test_a_run_that_was_stopped_while_no_control_was_there_is_whole_if_all_are(tmp_path: Path, leaves: bool, outcome: str) -> None:
    link = TwoIngests()
    database = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        async with serving(link, database=database, counters_s=0.01) as client:
            await begin(client)
            link.received, link.in_flight = 40, 5
            await until_counted(client, 1, {"HLT_A": 0, "HLT_B": 0})
            assert (await client.post("/v1/control/stop")).status_code == 202
        link.in_flight = 0
        link.settle()
        link.leaves = leaves
        async with serving(link, database=database) as client:
            await link.looked(2)
            async with asyncio.timeout(10):
                while (told := await record(client, 1))["outcome"] == "running":
                    await asyncio.sleep(0.01)
            assert told["outcome"] == outcome
            link.leaves = False  # it answered late
            async with asyncio.timeout(10):
                while (told := await record(client, 1))["outcome"] != "stopped":
                    await asyncio.sleep(0.01)
            assert told["ledger"]["received"] == 80, "of both"

    asyncio.run(main())


def rename(file: Path, table: str, to: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO {to}")


def test_a_database_that_fails_does_not_stop_the_run_and_gets_everything_later(tmp_path: Path) -> None:
    link = CountingLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))
        rename(tmp_path / "runs.db", "runs", "away")
        assert (await client.post("/v1/control/start")).json()["state"] == "Running"
        link.received, link.in_flight, link.paths = 12, 2, {"HLT_A": 153, "HLT_B": 0}
        async with asyncio.timeout(10):
            while not any("no such table: runs" in problem for problem in (await client.get("/v1/status")).json()["problems"]):
                await asyncio.sleep(0.01)
        assert (await client.post("/v1/control/pause")).json()["state"] == "Paused"
        assert (await client.post("/v1/control/resume")).json()["state"] == "Running"
        asked = await client.get("/v1/runs/1")
        assert (asked.status_code, asked.json()["retryable"]) == (503, True)
        link.finish_events()
        assert (await ended(client, await client.post("/v1/control/stop")))["progress"] == "done"
        refused = await client.post("/v1/control/start")
        assert (refused.status_code, (await client.get("/v1/status")).json()["state"]) == (503, "Configured")
        rename(tmp_path / "runs.db", "away", "runs")
        async with asyncio.timeout(10):
            while (await client.get("/v1/status")).json()["problems"]:
                await asyncio.sleep(0.01)
        end = await record(client, 1)
        assert (end["outcome"], end["ledger"]["received"], end["ledger"]["in_flight"]) == ("stopped", 12, 0)
        assert end["counters"]["paths"] == {"HLT_A": 3, "HLT_B": 0}
        assert (await client.post("/v1/control/start")).json()["run"] == 2

    run(link, test, database=f"sqlite:///{tmp_path}/runs.db", counters_s=0.01)


def test_transitions_outlive_the_control(tmp_path: Path) -> None:
    link = FakeLink()
    database = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        async with serving(link, database=database) as client:
            done = await ended(client, await client.post("/v1/control/configure"))
            await client.post("/v1/control/start")
            link.received = link.in_flight = 1
            pending = (await client.post("/v1/control/drain")).json()
            assert pending["progress"] == "pending"
        async with serving(link, database=database) as client:
            assert (await client.get(f"/v1/transitions/{done['id']}")).json()["progress"] == "done"
            async with asyncio.timeout(10):
                while (left := (await client.get(f"/v1/transitions/{pending['id']}")).json())["progress"] == "pending":
                    await asyncio.sleep(0.01)  # until the control has seen what its predecessor left
            assert (left["progress"], left["error"], left["run"]) == ("failed", "the control was restarted", 1)
            assert (await client.get("/v1/transitions/none")).status_code == 404

    asyncio.run(main())


@pytest.mark.parametrize(
    ("database", "code", "said"), [("sqlite:////proc/no/runs.db", 2, "cannot create the folder"), ("junk", 1, "not a database")]
)
def test_a_control_without_a_registry_says_so_and_does_not_begin(
    database: str, code: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from hltfarm.service import cli

    (tmp_path / "junk").write_text("no database at all, whatever its name")
    url = database if "://" in database else f"sqlite:///{tmp_path}/junk"
    assert cli.run(["control", "--http", "127.0.0.1:0", "--database", url]) == code
    told = capfd.readouterr()
    assert (told.out, told.err.count("\n"), said in told.err) == ("", 1, True), told


def test_a_control_whose_monitor_fails_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(_farm: FarmControl) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(FarmControl, "watch", fails)
    with pytest.raises(BackendError, match="monitor of the farm failed: ValueError: a fault"):
        asyncio.run(run_control(ControlSettings(ingests=("ipc:///tmp/hltfarm-nobody",)), "127.0.0.1:0", lambda _url: None))


@pytest.mark.parametrize("name", ["a b", "x" * 65])
def test_the_name_of_a_farm_is_checked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hltfarm.service import cli

    assert cli.run(["control", "--farm", name]) == 2
    assert "--farm" in capsys.readouterr().err
