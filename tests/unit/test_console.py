"""The files of the web console: what is served, to whom, with which headers. With the fake farm, in process."""

from __future__ import annotations

import gzip
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from hltfarm.proto.messages import RunState
from hltfarm.service.control.access import AccessSettings
from hltfarm.service.control.app import create_app
from hltfarm.service.control.console import ASKED, KEPT, POLICY
from hltfarm.service.control.settings import ControlSettings
from tests.unit.farm_fake import ENDPOINT, FakeLink
from tests.unit.test_access import TOKENS, run, tokens_text

SCRIPT = "export const words = '" + "many words " * 200 + "';\n"
HASHED = "/assets/index-B7xK2a9Q.js"


@pytest.fixture
def static(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "v1").mkdir()
    (folder / "index.html").write_text("<!doctype html><title>farm</title>")
    (folder / HASHED[1:]).write_text(SCRIPT)
    (folder / "favicon.svg").write_text("<svg/>")
    (folder / ".secret.js").write_text("no")
    (folder / "notes.py").write_text("no")
    (folder / "v1" / "status").write_text("no")
    (tmp_path / "outside.js").write_text("no")
    (folder / "link.js").symlink_to(tmp_path / "outside.js")
    return folder


@pytest.fixture
def app(static: Path, tmp_path: Path) -> FastAPI:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(tokens_text())
    tokens.chmod(0o600)
    settings = ControlSettings(ingests=(ENDPOINT,), poll_s=0.05, access=AccessSettings(tokens=tokens))
    return create_app(settings, FakeLink(RunState.HALTED), static=static)


def test_pages_are_for_everybody_and_the_api_is_not(app: FastAPI) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        assert (page.status_code, page.text) == (200, "<!doctype html><title>farm</title>")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"] == POLICY
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == ASKED
        assert (await client.get(HASHED)).headers["content-type"] == "text/javascript; charset=utf-8"
        assert (await client.get("/v1/status")).status_code == 401
        viewer = {"Authorization": f"Bearer {TOKENS['viewer']}"}
        assert (await client.get("/v1/status", headers=viewer)).json()["state"] == "Halted", "a file never stands for a path of the API"
        head = await client.head("/")
        assert (head.status_code, head.content) == (200, b"")

    run(app, test)


@pytest.mark.parametrize(
    "path",
    ["/.secret.js", "/notes.py", "/link.js", "/../outside.js", "/%2e%2e/outside.js", "/assets/../../outside.js", "/assets", "/assets/",
     "/assets//index-B7xK2a9Q.js", "/nothing.js", "/index.html%00.js", "/assets%5cindex.js",
     "/" + 300 * "a" + ".js"],
)  # fmt: skip
def test_what_is_no_page_is_as_any_unknown_path(app: FastAPI, path: str) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get(path)).status_code == 401
        admin = {"Authorization": f"Bearer {TOKENS['admin']}"}
        answer = await client.get(path, headers=admin)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")

    run(app, test)


def test_only_reading(app: FastAPI) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        admin = {"Authorization": f"Bearer {TOKENS['admin']}"}
        assert (await client.post("/", headers=admin)).status_code == 404
        assert (await client.put("/v1/status", headers=admin)).status_code == 405, "of a path that another method has"
        assert (await client.delete(HASHED)).status_code == 401

    run(app, test)


def test_browsers_ask_for_what_changed_alone(app: FastAPI, static: Path) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        page, script = await client.get("/"), await client.get(HASHED)
        assert script.headers["cache-control"] == KEPT, "its name changes with what is in it"
        same = await client.get("/", headers={"If-None-Match": f'"other", W/{page.headers["etag"]}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", page.headers["etag"])
        assert same.headers["content-security-policy"] == POLICY
        (static / "index.html").write_text("<!doctype html><title>built again</title>")
        anew = await client.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert (anew.status_code, anew.text) == (200, "<!doctype html><title>built again</title>")

    run(app, test)


@pytest.mark.parametrize(("accepts", "packed"), [("gzip, br", True), ("gzip;q=0.5", True), ("gzip;q=0", False), ("identity", False)])
def test_compressed_where_it_is_taken(app: FastAPI, accepts: str, packed: bool) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", HASHED, headers={"Accept-Encoding": accepts}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
        assert answer.headers["vary"] == "Accept-Encoding"
        assert int(answer.headers["content-length"]) == len(raw)
        assert (gzip.decompress(raw) if packed else raw) == SCRIPT.encode()
        assert len(raw) < len(SCRIPT) or not packed

    run(app, test)


def test_a_farm_without_the_files_says_how_to_get_them(app: FastAPI, static: Path) -> None:
    (static / "index.html").unlink()

    async def test(client: httpx.AsyncClient) -> None:
        page = await client.get("/")
        assert page.status_code == 404
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "make console" in page.text
        assert (await client.get("/v2/health/live")).status_code == 200

    run(app, test)
