"""Shadows over HTTP in a farm of two fake ingests, and what the open run needs of the stores."""

from __future__ import annotations

import httpx
import pytest

from hltfarm.service.control.exchange_routes import wilson
from tests.unit.exchange_farm import FIRST, LOOSE, TIGHT, Farm, activate, menu_hash, run, until
from tests.unit.test_control_shards import status


def test_a_shadow_is_started_shown_and_ended_in_all_ingests() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/shadow")).status_code == 404
        started = await client.put("/v1/shadow", json={"menu": TIGHT, "fraction": 0.5})
        assert started.status_code == 200, started.text
        body = started.json()
        assert (body["events_fraction"], body["menu_hash"], body["events"]) == (0.5, menu_hash(TIGHT), 0)
        assert (body["active"]["low"], body["active"]["high"]) == (0, 1), "nothing is known yet"
        assert farm.programmes() == [[(0, FIRST)]] * 2
        for part in (farm.first, farm.second):
            assert part.programmes.shadow is not None
        assert (await client.put("/v1/shadow", json={"menu": TIGHT, "fraction": 0})).status_code == 422
        assert (await client.delete("/v1/shadow")).json()["menu_hash"] == menu_hash(TIGHT)
        assert (farm.first.programmes.shadow, farm.second.programmes.shadow) == (None, None)
        assert (await client.delete("/v1/shadow")).status_code == 404

    run(farm, test)


def test_an_ingest_that_was_away_gets_the_shadow_and_its_end() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.second.gone = True
        await client.put("/v1/shadow", json={"menu": TIGHT})
        assert farm.first.programmes.shadow is not None
        farm.second.gone = False
        await until(lambda: farm.second.programmes.shadow is not None)
        farm.second.gone = True
        assert (await client.delete("/v1/shadow")).status_code == 200
        farm.second.gone = False
        await until(lambda: farm.second.programmes.shadow is None)

    run(farm, test)


def test_a_shadow_that_one_ingest_does_not_hear_of_at_once_is_cast_in_the_others() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        farm.first.deaf["shadow"] = 1
        answer = await client.put("/v1/shadow", json={"menu": TIGHT})
        assert answer.status_code == 200, answer.text
        await until(lambda: farm.first.programmes.shadow is not None)

    run(farm, test)


def test_what_the_run_needs_stays_while_its_ingests_are_away() -> None:
    farm = Farm()

    async def test(client: httpx.AsyncClient) -> None:
        for text in (TIGHT, LOOSE):
            await client.post("/v1/menus", content=text, headers={"content-type": "application/yaml"})
        await activate(client, menu_ref="tight")
        farm.lumi(2, 2)
        await activate(client, menu_ref="loose")
        farm.first.gone = farm.second.gone = True
        await status(client, "Error")
        for name in ("tight", "loose"):
            used = await client.delete(f"/v1/menus/{name}")
            assert (used.status_code, "in use by run 1" in used.text) == (409, True), used.text
        farm.first.gone = farm.second.gone = False
        await client.post("/v1/control/reset")
        await status(client, "Halted")
        assert (await client.delete("/v1/menus/tight")).status_code == 204

    run(farm, test)


def test_intervals_of_shares() -> None:
    """Against the score test itself: the ends are where the observed share is one standard deviation away."""
    for count, events in ((0, 10), (3, 10), (10, 10), (500, 1000), (1, 100000)):
        low, high = wilson(count, events)
        share = count / events
        assert 0 <= low <= share <= high <= 1
        for end in {low, high} - {share}:
            assert (share - end) ** 2 == pytest.approx(end * (1 - end) / events, rel=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)
