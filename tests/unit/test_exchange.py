"""Menus and models exchanged over HTTP in farms of fake ingests that keep real programmes: every way out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.service.control.library import Library
from hltfarm.service.control.models import ProgrammeRequest
from hltfarm.service.security.tokens import Role
from tests.unit.exchange_farm import FIRST, LOOSE, TIGHT, Farm, activate, menu_hash, run, running, serving, until
from tests.unit.farm_fake import FakeLink
from tests.unit.test_control_api import ended
from tests.unit.test_control_shards import ENDPOINTS


def test_a_menu_decides_from_one_lumisection_of_all_ingests_on() -> None:
    farm = Farm()
    farm.lumi(0, 0)

    async def test(client: httpx.AsyncClient) -> None:
        farm.lumi(7, 4)
        farm.second.decide(4, [True, False])
        done = await activate(client, menu=TIGHT)
        assert (done["progress"], done["command"], done["lumisection"], done["run"]) == ("done", "activate", 9, 1)
        assert farm.programmes() == [[(0, FIRST), (9, menu_hash(TIGHT))]] * 2
        assert farm.first.decide(9, [True]) == farm.second.decide(9, [True]) == menu_hash(TIGHT)
        assert farm.first.decide(8, [True]) == farm.second.decide(8, [False]) == FIRST
        async with asyncio.timeout(10):
            while (body := (await client.get("/v1/programmes")).json())["lumisection"] != 9:
                await asyncio.sleep(0.01)
        assert (body["run"], body["pending"]) == (1, None)
        assert [(p["first_lumi"], p["accepted"], p["rejected"], p["current"]) for p in body["programmes"]] == [
            (0, 2, 2, False),
            (9, 2, 0, True),
        ]
        await ended(client, await client.post("/v1/control/stop"))
        found = (await client.get("/v1/runs/1")).json()["activations"]
        assert [(part["first_lumi"], part["menu_hash"], part["accepted"] + part["rejected"]) for part in found] == [
            (0, FIRST, 4),
            (9, menu_hash(TIGHT), 2),
        ]

    run(farm, test, counters_s=0.01)


def test_a_lumisection_may_be_asked_for() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.lumi(3, 3)
        assert (await activate(client, menu=TIGHT, lumisection=20))["lumisection"] == 20
        refused = await client.post("/v1/control/activate", json={"menu": LOOSE, "lumisection": 3})
        assert (refused.status_code, "the present one is 3" in refused.json()["detail"]) == (422, True)
        assert (await activate(client, menu=LOOSE, lumisection=10))["lumisection"] == 10
        assert farm.programmes() == [[(0, FIRST), (10, menu_hash(LOOSE))]] * 2, "the later one was replaced"

    run(farm, test)


def test_what_cannot_be_built_changes_nothing() -> None:
    farm = Farm()
    farm.second.unable[TIGHT] = "no such column"

    async def test(client: httpx.AsyncClient) -> None:
        failed = await activate(client, menu=TIGHT)
        assert (failed["progress"], failed["lumisection"]) == ("failed", None)
        assert failed["error"] == "it cannot be built, nothing has changed: worker w0: no such column"
        assert farm.programmes() == [[(0, FIRST)]] * 2
        assert (farm.first.programmes.pending, farm.second.programmes.pending) == (None, None)
        for body, fault in (({"menu": "version: 1\n"}, "paths"), ({"menu_ref": "nobody"}, "nobody"), ({"model": "nobody"}, "nobody")):
            refused = await client.post("/v1/control/activate", json=body)
            assert (refused.status_code, fault in refused.text) == (422, True)
        same = await client.post("/v1/control/activate")
        assert (same.status_code, "already" in same.json()["detail"]) == (422, True)
        assert (await activate(client, menu=LOOSE))["progress"] == "done", "the way is free again"

    run(farm, test)


def test_workers_that_take_too_long_change_nothing() -> None:
    farm = Farm()
    farm.first.builds = False

    async def test(client: httpx.AsyncClient) -> None:
        failed = await activate(client, menu=TIGHT)
        assert failed["progress"] == "failed"
        assert failed["error"] == "not prepared within 0.2 s by w0; nothing has changed"
        assert farm.first.programmes.pending is None
        assert farm.programmes() == [[(0, FIRST)]] * 2

    run(farm, test, transition_timeout_s=0.2)


def test_one_exchange_at_a_time() -> None:
    farm = Farm()
    farm.first.builds = False

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/control/activate", json={"menu": TIGHT})
        await until(lambda: farm.first.programmes.pending is not None)
        async with asyncio.timeout(10):
            while (pending := (await client.get("/v1/programmes")).json()["pending"]) is None:
                await asyncio.sleep(0.01)
        assert (pending["menu"], pending["waits_for"]) == (TIGHT, ["w0"])
        for command, body in (("activate", {"menu": LOOSE}), ("activate", {"menu": TIGHT})):
            refused = await client.post(f"/v1/control/{command}", json=body)
            assert (refused.status_code, "on its way" in refused.json()["detail"]) == (409, True)
        farm.first.build()
        assert (await ended(client, answer))["progress"] == "done"

    run(farm, test)


@pytest.mark.parametrize("command", ["stop", "reset"])
def test_a_run_that_ends_takes_the_exchange_with_it(command: str) -> None:
    farm = Farm()
    farm.first.builds = False

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/control/activate", json={"menu": TIGHT})
        await until(lambda: farm.first.programmes.pending is not None)
        await client.post(f"/v1/control/{command}")
        failed = await ended(client, answer)
        assert failed["progress"] == "failed"
        assert failed["error"] in ("run 1 ended before the exchange", "the farm was reset")
        for path in ("activate", "rollback"):
            refused = await client.post(f"/v1/control/{path}", json={})
            assert (refused.status_code, "in an open run" in refused.json()["detail"]) == (409, True)

    run(farm, test)


def test_a_lumisection_that_begins_in_the_middle_makes_it_a_later_one_for_all() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.lumi(3, 3)
        tell = farm.second.change_programme

        async def late(endpoint: str, op: str, *arguments: Any, **options: Any) -> None:
            if op == "activate" and farm.second.programmes.lumi == 3:
                farm.second.programmes.lumi = 6  # a client jumped ahead
            await tell(endpoint, op, *arguments, **options)

        farm.second.change_programme = late  # type: ignore[method-assign]
        assert (await activate(client, menu=TIGHT))["lumisection"] == 8
        assert farm.programmes() == [[(0, FIRST), (8, menu_hash(TIGHT))]] * 2

    run(farm, test)


def test_a_lumisection_that_was_asked_for_and_begins_in_the_middle_is_taken_back() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        tell = farm.second.change_programme

        async def late(endpoint: str, op: str, *arguments: Any, **options: Any) -> None:
            if op == "activate":
                farm.second.programmes.lumi = 5
            await tell(endpoint, op, *arguments, **options)

        farm.second.change_programme = late  # type: ignore[method-assign]
        failed = await activate(client, menu=TIGHT, lumisection=5)
        assert (failed["progress"], "lumisection 5 has begun" in failed["error"]) == ("failed", True)
        assert farm.programmes() == [[(0, FIRST)]] * 2

    run(farm, test)


def test_what_cannot_be_taken_back_any_more_is_said_and_the_others_follow() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        tell = farm.second.change_programme

        async def late(endpoint: str, op: str, *arguments: Any, **options: Any) -> None:
            if op == "activate" and farm.first.programmes.lumi < 5:
                farm.lumi(5, 5)  # in the one that was told, too
            await tell(endpoint, op, *arguments, **options)

        farm.second.change_programme = late  # type: ignore[method-assign]
        failed = await activate(client, menu=TIGHT, lumisection=5)
        assert (failed["progress"], f"{ENDPOINTS[0]} decide with it already" in failed["error"]) == ("failed", True)
        await until(lambda: farm.programmes()[1] == [(0, FIRST), (6, menu_hash(TIGHT))])

    run(farm, test)


def test_an_ingest_that_is_away_is_waited_for() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.second.gone = True
        answer = await client.post("/v1/control/activate", json={"menu": TIGHT})
        await until(lambda: farm.first.programmes.pending is not None)
        await farm.first.looked(3)
        assert len(farm.first.programmes.active) == 1, "it would decide otherwise than the one that is away"
        farm.second.gone = False
        assert (await ended(client, answer))["progress"] == "done"
        assert farm.programmes() == [[(0, FIRST), (2, menu_hash(TIGHT))]] * 2

    run(farm, test)


def test_without_one_that_stays_away_nothing_changes_unless_that_is_wanted() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.lumi(4, 4)
        farm.second.gone = True
        failed = await activate(client, menu=TIGHT)
        assert failed["error"] == f"not prepared within 0.2 s by ingest {ENDPOINTS[1]}; nothing has changed"
        done = await activate(client, menu=TIGHT, partial=True)
        assert (done["progress"], done["lumisection"]) == ("done", 5)
        farm.second.gone = False
        await until(lambda: len(farm.second.programmes.active) == 2)
        assert farm.programmes() == [[(0, FIRST), (5, menu_hash(TIGHT))]] * 2

    run(farm, test, transition_timeout_s=0.2)


def test_one_that_does_not_hear_the_activation_is_told_again() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.second.deaf["activate"] = 1
        assert (await activate(client, menu=TIGHT))["progress"] == "done"
        assert farm.programmes() == [[(0, FIRST), (2, menu_hash(TIGHT))]] * 2

    run(farm, test)


def test_one_that_is_restarted_joins_with_all_programmes() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.lumi(4, 4)
        await activate(client, menu=TIGHT)
        await activate(client, menu=LOOSE, lumisection=30)
        fresh = FakeLink()
        farm.parts[ENDPOINTS[1]] = farm.second = fresh
        await until(lambda: fresh.machine.state is RunState.RUNNING)
        assert farm.programmes() == [[(0, FIRST), (6, menu_hash(TIGHT)), (30, menu_hash(LOOSE))]] * 2

    run(farm, test)


def test_rollback_goes_back_and_forth() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        refused = await client.post("/v1/control/rollback")
        assert (refused.status_code, "nothing to go back to" in refused.json()["detail"]) == (409, True)
        await activate(client, menu=TIGHT)
        farm.lumi(4, 4)
        done = await ended(client, await client.post("/v1/control/rollback", json={"lumisection": 9}))
        assert (done["command"], done["lumisection"]) == ("rollback", 9)
        farm.lumi(10, 10)
        assert (await ended(client, await client.post("/v1/control/rollback")))["lumisection"] == 12
        tight = menu_hash(TIGHT)
        assert farm.programmes() == [[(0, FIRST), (2, tight), (9, FIRST), (12, tight)]] * 2

    run(farm, test)


def test_later_runs_have_the_newest_menu() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        await activate(client, menu=TIGHT, lumisection=50)
        await ended(client, await client.post("/v1/control/stop"))
        assert (await client.post("/v1/control/start")).json()["run"] == 2
        assert farm.programmes() == [[(0, menu_hash(TIGHT))]] * 2
        await ended(client, await client.post("/v1/control/stop"))
        await ended(client, await client.post("/v1/control/configure"))
        assert farm.programmes() == [[(0, menu_hash(TIGHT))]] * 2
        await ended(client, await client.post("/v1/control/configure", json={"menu_ref": "default"}))
        assert farm.programmes() == [[(0, FIRST)]] * 2

    run(farm, test)


def test_a_control_that_restarts_in_the_middle_leaves_nothing_half_done(tmp_path: Path) -> None:
    farm = Farm()
    database = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        async with running(farm, database=database) as client:
            await activate(client, menu=TIGHT)
            farm.first.builds = False
            answer = await client.post("/v1/control/activate", json={"menu": LOOSE})
            await until(lambda: farm.first.programmes.pending is not None and farm.second.programmes.pending is not None)
            transition = answer.json()["id"]
        farm.second.programmes.discard()
        farm.second.programmes.lumi = 7
        async with serving(farm, database=database) as client:
            await until(lambda: farm.first.programmes.pending is None)
            known = (await client.get(f"/v1/transitions/{transition}")).json()
            assert (known["progress"], known["error"]) == ("failed", "the control was restarted")
            assert farm.programmes() == [[(0, FIRST), (2, menu_hash(TIGHT))]] * 2
            farm.first.builds = True
            assert (await activate(client, menu=LOOSE))["lumisection"] == 9

    asyncio.run(main())


def test_a_control_that_restarts_between_two_ingests_completes_it(tmp_path: Path) -> None:
    """The first one was told to activate, the second was not."""
    farm = Farm()
    database = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        async with running(farm, database=database):
            pass
        config = RunConfig(run=1, menu=TIGHT)
        for link in (farm.first, farm.second):
            link.settle_programme(link.programmes.prepare(config))
        farm.first.programmes.activate(5, [])
        async with serving(farm, database=database) as client:
            await until(lambda: len(farm.second.programmes.active) == 2)
            assert farm.programmes() == [[(0, FIRST), (5, menu_hash(TIGHT))]] * 2
            await ended(client, await client.post("/v1/control/stop"))
            assert (await client.post("/v1/control/start")).json()["run"] == 2
            assert farm.programmes() == [[(0, menu_hash(TIGHT))]] * 2

    asyncio.run(main())


def test_an_exchange_that_was_asked_for_on_the_ground_of_another_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the engine that the second one asks for would bring the first menu back."""
    farm, here, slow, config = Farm(), asyncio.Event(), asyncio.Event(), Library.config

    async def hesitant(self: Library, asked: ProgrammeRequest, present: RunConfig, role: Role) -> RunConfig:
        if asked.working_point is not None:
            here.set()
            await slow.wait()
        return await config(self, asked, present, role)

    monkeypatch.setattr(Library, "config", hesitant)

    async def test(client: httpx.AsyncClient) -> None:
        second = asyncio.create_task(client.post("/v1/control/activate", json={"working_point": "0.98", "model": "track-mlp"}))
        await here.wait()
        assert (await activate(client, menu=TIGHT))["progress"] == "done"
        slow.set()
        answer = await second
        assert (answer.status_code, "has ended meanwhile" in answer.json()["detail"]) == (409, True), answer.text
        assert farm.programmes() == [[(0, FIRST), (2, menu_hash(TIGHT))]] * 2

    run(farm, test)
