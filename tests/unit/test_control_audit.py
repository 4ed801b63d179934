"""The audit: every command that changes something is entered once, with who, what and what came of it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from hltfarm.service.control.audit import arguments, outcome
from tests.unit.farm_fake import FakeLink
from tests.unit.test_control_api import ended, run

MENU = "version: 1\nname: collisions\npaths:\n  - {name: HLT_All}\n"


async def entries(client: httpx.AsyncClient, **query: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get("/v1/audit", params=query)).json()["entries"]
    return found


def test_commands_are_entered_with_their_outcome() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        done = await ended(client, await client.post("/v1/control/configure", json={"menu": MENU + "#" * 300, "run": 7}))
        await client.post("/v1/control/start")
        await client.post("/v1/control/start")
        link.gone = True
        await client.post("/v1/control/pause")
        for request in (("GET", "/v1/status"), ("POST", "/v1/menus/validate"), ("POST", "/v1/nothing"), ("PUT", "/v1/status")):
            await client.request(*request)
        found = (await entries(client))[::-1]
        assert [(entry["command"], entry["status"], entry["outcome"]) for entry in found] == [
            ("POST /v1/control/configure", 202, "accepted"),
            ("POST /v1/control/start", 200, "done"),
            ("POST /v1/control/start", 409, "refused"),
            ("POST /v1/control/pause", 503, "failed"),
        ]
        assert {(entry["who"], entry["address"]) for entry in found} == {("anonymous", "127.0.0.1")}
        assert (found[0]["transition"], found[0]["arguments"]["run"], found[0]["detail"]) == (done["id"], 7, None)
        assert found[0]["arguments"]["menu"]["characters"] == len(MENU) + 300
        assert "illegal" in found[2]["detail"]
        page = (await client.get("/v1/audit", params={"limit": 1})).json()
        assert ([entry["id"] for entry in page["entries"]], page["next"]) == ([found[3]["id"]], found[3]["id"])
        assert [entry["id"] for entry in await entries(client, before=page["next"], limit=1)] == [found[2]["id"]]

    run(link, test)


def test_uploads_are_entered_by_their_size_and_digest() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        await client.post("/v1/menus", content=MENU, headers={"content-type": "application/yaml"})
        await client.post("/v1/menus", content=b"[", headers={"content-type": "application/yaml"})
        (refused, stored) = await entries(client)
        assert stored["arguments"]["body"]["bytes"] == len(MENU)
        assert (stored["status"], stored["outcome"], refused["status"], refused["outcome"]) == (201, "done", 422, "refused")
        assert "not valid YAML" in refused["detail"]

    run(FakeLink(), test)


def test_a_command_whose_caller_went_away_is_entered() -> None:
    """The handler is cancelled half way: the entry says that it failed, not nothing."""
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        await ended(client, await client.post("/v1/control/configure"))

        async def never(op: str, config: object = None, worker: object = None) -> None:
            await asyncio.Event().wait()

        link.command = never  # type: ignore[assignment,method-assign]
        asked = asyncio.create_task(client.post("/v1/control/start"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked, 0.1)
        (last, _) = await entries(client)
        assert (last["command"], last["outcome"]) == ("POST /v1/control/start", "failed")

    run(link, test)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"", "", {}),
        (b'{"a": 1, "token": "x"}', "application/json", {"a": 1, "token": "(not kept)"}),
        (b'{"a": 1}', "application/json; charset=utf-8", {"a": 1}),
        (b"[" * 5000, "application/json", {"body": {"bytes": 5000, "type": "application/json"}}),
        (b"[1]", "application/json", {"body": {"bytes": 3, "type": "application/json"}}),
        (b"\xff", "text/yaml", {"body": {"bytes": 1, "type": "text/yaml"}}),
    ],
)
def test_arguments_are_short_and_without_secrets(body: bytes, kind: str, said: dict[str, Any]) -> None:
    found = arguments(body, len(body), {"content-type": kind}, "")
    found.get("body", {}).pop("blake2b", None)
    assert found == said


def test_what_was_not_kept_of_a_body_is_not_taken_for_the_whole() -> None:
    assert arguments(b'{"a": 1}', 9000, {"content-type": "application/json"}, "x=1") == {
        "query": "x=1",
        "body": {"bytes": 9000, "type": "application/json", "blake2b": arguments(b'{"a": 1}', 9000, {}, "")["body"]["blake2b"]},
    }


@pytest.mark.parametrize(
    ("status", "said"), [(200, "done"), (201, "done"), (202, "accepted"), (204, "done"), (409, "refused"), (503, "failed")]
)
def test_outcomes(status: int, said: str) -> None:
    assert outcome(status) == said
