"""The stores of menus and models over HTTP, and runs that name what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu
from tests.unit.farm_fake import FakeLink
from tests.unit.test_control_api import ended, run
from tests.unit.test_model_store import files, package, zipped

MENU = "version: 1\nname: collisions\npaths:\n  - {name: HLT_All}\n"
OTHER = "version: 1\nname: collisions\npaths:\n  - {name: HLT_All, prescale: 2}\n"
ZIP = {"content-type": "application/zip"}
YAML = {"content-type": "application/yaml"}


async def put(client: httpx.AsyncClient, text: str) -> httpx.Response:
    return await client.post("/v1/menus", content=text, headers=YAML)


def test_menus_are_stored_listed_compared_and_forgotten() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        first = await put(client, MENU)
        menu_hash = Menu.parse(MENU).hash
        assert (first.status_code, first.headers["Location"]) == (201, f"/v1/menus/{menu_hash}")
        assert (first.json()["name"], first.json()["hash"], first.json()["stored"]["who"]) == ("collisions", menu_hash, "anonymous")
        assert (await put(client, MENU)).status_code == 200
        assert (await put(client, OTHER)).status_code == 201
        listed = (await client.get("/v1/menus")).json()["menus"]
        assert {entry["hash"] for entry in listed} == {menu_hash, Menu.parse(OTHER).hash}
        for reference in (menu_hash, Menu.parse(OTHER).hash):
            assert (await client.get(f"/v1/menus/{reference}")).json()["hash"] == reference
        assert (await client.get("/v1/menus/collisions")).json()["text"] == OTHER
        assert (await client.get("/v1/menus/default")).json()["text"] == DEFAULT_MENU
        found = (await client.get(f"/v1/menus/{menu_hash}/diff/collisions")).json()
        assert found["changed"] == {"HLT_All": [{"what": "prescale", "before": 1, "after": 2}]}
        assert (found["same_decisions"], "+  - {name: HLT_All, prescale: 2}" in found["text"]) == (False, True)
        several = await client.delete("/v1/menus/collisions")
        assert (several.status_code, menu_hash in several.json()["detail"]) == (409, True)
        assert (await client.delete(f"/v1/menus/{menu_hash}")).status_code == 204
        assert (await client.delete("/v1/menus/collisions")).status_code == 204
        assert (await client.get("/v1/menus")).json()["menus"] == []
        for method, path in (("GET", "/v1/menus/collisions"), ("DELETE", "/v1/menus/collisions"), ("GET", "/v1/menus/active")):
            assert (await client.request(method, path)).status_code == 404

    run(FakeLink(), test)


@pytest.mark.parametrize("path", ["/v1/menus", "/v1/menus/validate"])
def test_every_fault_of_a_menu_is_told_with_its_line(path: str) -> None:
    bad = "version: 1\npaths:\n  - {name: HLT_A, require: {trakcs: {min: 1}}}\n  - {name: HLT_B, prescale: -1}\n"

    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post(path, content=bad, headers=YAML)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert [fault["line"] for fault in answer.json()["faults"]] == [3, 4]
        assert "did you mean 'tracks'?" in answer.json()["faults"][0]["text"]
        for body in (b"", b"\xff\xfe", b"[" * 1000, b"x" * (1 << 18)):
            assert (await client.post(path, content=body, headers=YAML)).status_code == 422
        assert (await client.get("/v1/menus")).json()["menus"] == []

    run(FakeLink(), test)


def test_a_menu_that_is_only_checked_is_not_stored() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/menus/validate", content=MENU, headers=YAML)
        assert (answer.status_code, answer.json()["stored"]) == (200, None)
        assert (await client.get("/v1/menus")).json()["menus"] == []
        reserved = await put(client, MENU.replace("collisions", "active"))
        assert (reserved.status_code, "always stands for another menu" in reserved.json()["detail"]) == (422, True)

    run(FakeLink(), test)


def test_a_run_with_a_menu_of_the_store() -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        await put(client, MENU)
        done = await ended(client, await client.post("/v1/control/configure", json={"menu_ref": "collisions"}))
        assert done["progress"] == "done"
        assert link.sent[-1][1] is not None
        assert link.sent[-1][1].menu == MENU
        assert (await client.get("/v1/menus/active/diff/collisions")).json()["same_decisions"] is True
        used = await client.delete("/v1/menus/collisions")
        assert (used.status_code, "in use by run 1" in used.json()["detail"]) == (409, True)
        await client.post("/v1/control/reset")
        assert (await client.delete("/v1/menus/collisions")).status_code == 204
        bodies: list[dict[str, Any]] = [{"menu_ref": "collisions"}, {"menu_ref": "x", "menu": MENU}, {"menu_ref": "../x"}]
        for body in bodies:
            assert (await client.post("/v1/control/configure", json=body)).status_code == 422
        assert (await client.get("/v1/runs/1")).json()["menu"] == MENU

    run(link, test)


def test_models_are_uploaded_used_and_deleted(tmp_path: Path) -> None:
    link = FakeLink()

    async def test(client: httpx.AsyncClient) -> None:
        body = zipped(files(package(tmp_path))).getvalue()
        first = await client.post("/v1/models", content=body, headers=ZIP)
        assert first.status_code == 201, first.text
        model = first.json()
        assert (model["name"], model["target"], first.headers["Location"]) == ("mine", "track", f"/v1/models/{model['hash']}")
        assert (await client.post("/v1/models", content=body, headers=ZIP)).status_code == 200
        listed = (await client.get("/v1/models")).json()
        assert ([entry["hash"] for entry in listed["uploaded"]], "track-mlp" in str(listed["models"])) == ([model["hash"]], True)
        for reference in ("mine", "mine@1", model["hash"]):
            assert (await client.get(f"/v1/models/{reference}")).json() == model
            await ended(client, await client.post("/v1/control/configure", json={"model": reference}))
            assert link.sent[-1][1] is not None
            assert link.sent[-1][1].model == model["folder"] == str(tmp_path / "models" / "mine" / model["hash"])
        for bad, said in (
            ({"model": "mine@2"}, "not shipped"),
            ({"model": "mine", "working_point": "0.5"}, "working point '0.5' is unknown; known are 0.99"),
            ({"event_model": "mine"}, "scores tracks, not events"),
        ):
            refused = await client.post("/v1/control/configure", json=bad)
            assert (refused.status_code, said in refused.json()["detail"]) == (422, True), refused.text
        used = await client.delete("/v1/models/mine")
        assert (used.status_code, "in use by run 3" in used.json()["detail"]) == (409, True)
        await client.post("/v1/control/reset")
        assert (await client.delete("/v1/models/mine")).status_code == 204
        assert not Path(model["folder"]).exists()
        assert (await client.get("/v1/models/mine")).status_code == 404
        assert (await client.delete("/v1/models/track-mlp")).status_code == 404

    run(link, test, models=tmp_path / "models")


def test_a_package_that_vanished_is_told(tmp_path: Path) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        body = zipped(files(package(tmp_path))).getvalue()
        model = (await client.post("/v1/models", content=body, headers=ZIP)).json()
        Path(model["folder"]).rename(tmp_path / "elsewhere")
        refused = await client.post("/v1/control/configure", json={"model": "mine"})
        assert (refused.status_code, "upload it again" in refused.json()["detail"]) == (422, True)
        assert (await client.post("/v1/models", content=body, headers=ZIP)).status_code == 200
        await ended(client, await client.post("/v1/control/configure", json={"model": "mine"}))

    run(FakeLink(), test, models=tmp_path / "models")


def test_uploads_that_are_no_models_are_422_and_without_a_store_409(tmp_path: Path) -> None:
    async def refused(client: httpx.AsyncClient) -> None:
        for body in (b"", b"no zip", zipped({"model.json": b"{}"}).getvalue()):
            answer = await client.post("/v1/models", content=body, headers=ZIP)
            assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")

    async def absent(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/models", content=b"", headers=ZIP)
        assert (answer.status_code, "--models" in answer.json()["detail"]) == (409, True)

    run(FakeLink(), refused, models=tmp_path / "models")
    run(FakeLink(), absent)
