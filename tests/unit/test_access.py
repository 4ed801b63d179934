"""The door of the HTTP API: tokens, roles, sizes, browsers. With the fake farm, in process."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import re
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from hltfarm.proto.errors import AccessError, ConfigError, HltfarmError
from hltfarm.proto.messages import RunState
from hltfarm.service import cli
from hltfarm.service.api import FarmApi
from hltfarm.service.control.access import AccessSettings, Caller, Refusal, bearer, decide, foreign
from hltfarm.service.control.app import create_app
from hltfarm.service.control.roles import BODY_BYTES, RULES, Rule, rule_for
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.logs import LineFormatter
from hltfarm.service.security.log_limit import LogLimit
from hltfarm.service.security.tokens import Role, Tokens, parse_tokens
from tests.unit.farm_fake import ENDPOINT, FakeLink

TOKENS = {"viewer": "hlt_look", "operator": "hlt_steer", "admin": "hlt_rule", "expired": "hlt_gone"}


def tokens_text() -> str:
    digests = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in TOKENS.items()}
    lines = [f'  - {{name: the-{name}, role: {name}, sha256: "{digests[name]}"}}' for name in ("viewer", "operator", "admin")]
    lines.append(f'  - {{name: old, role: admin, sha256: "{digests["expired"]}", expires: 2020-01-01}}')
    return "tokens:\n" + "\n".join(lines) + "\n"


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.yaml"
    path.write_text(tokens_text())
    path.chmod(0o600)
    return path


def app_of(link: FakeLink | None = None, **access: object) -> FastAPI:
    settings = ControlSettings(ingests=(ENDPOINT,), poll_s=0.05, access=AccessSettings.model_validate(access))
    return create_app(settings, link or FakeLink(RunState.HALTED))


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def run(app: FastAPI, test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with serving(app) as client:
            await test(client)

    asyncio.run(whole())


def operations(app: FastAPI) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item}


def test_every_operation_has_a_role_and_every_role_an_operation() -> None:
    """A new route without a row in roles.py fails here; until it has one it is for admins alone."""
    pages = {("GET", path) for path in ("/openapi.json", "/docs", "/docs/{file}")}
    assert set(RULES) - pages == operations(app_of())


def test_what_has_no_row_is_for_admins() -> None:
    assert rule_for("POST", "/v1/new").role is Role.ADMIN
    assert rule_for("DELETE", "/v1/status").role is Role.ADMIN
    assert rule_for("GET", "/v2/health/live/more").role is Role.ADMIN
    assert rule_for("HEAD", "/docs").role is None
    assert rule_for("GET", "/v1/runs/7") == Rule(Role.VIEWER)


def test_no_command_is_open_and_no_viewer_steers() -> None:
    for (method, path), rule in RULES.items():
        if method != "GET":
            assert rule.role is not None, path
            assert rule.role >= Role.OPERATOR, path


def test_openapi_says_who_may_what(tokens_file: Path) -> None:
    document = app_of(tokens=tokens_file).openapi()
    start = document["paths"]["/v1/control/start"]["post"]
    assert (start["x-role"], start["security"]) == ("operator", [{"bearer": []}])
    assert {"401", "403", "413"} <= set(start["responses"])
    live = document["paths"]["/v2/health/live"]["get"]
    assert (live["x-role"], live["security"]) == ("everybody", [])
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


NOW = datetime(2026, 6, 1, tzinfo=UTC)
PARSED = parse_tokens(tokens_text(), "f")
VIEW, STEER, RULE, OPEN = (Rule(role) for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN, None))


@pytest.mark.parametrize(
    ("rule", "token", "expected"),
    [
        (VIEW, "viewer", Caller("the-viewer", Role.VIEWER)),
        (STEER, "viewer", 403),
        (RULE, "operator", 403),
        (STEER, "operator", Caller("the-operator", Role.OPERATOR)),
        (STEER, "admin", Caller("the-admin", Role.ADMIN)),
        (VIEW, "expired", 401),
        (VIEW, None, 401),
        (OPEN, None, Caller("anonymous", None)),
        (OPEN, "viewer", Caller("the-viewer", Role.VIEWER)),
        (OPEN, "expired", Caller("anonymous", None)),
    ],
)
def test_decisions(rule: Rule, token: str | None, expected: Caller | int) -> None:
    answer = decide(rule, TOKENS[token] if token else None, PARSED, NOW)
    assert (answer.status if isinstance(answer, Refusal) else answer) == expected


def test_a_token_ends_at_its_moment() -> None:
    until = Tokens([entry.model_copy(update={"expires": NOW}) for entry in PARSED.entries])
    assert isinstance(decide(VIEW, TOKENS["admin"], until, NOW), Refusal)
    assert isinstance(decide(VIEW, TOKENS["admin"], until, datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)), Caller)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Bearer abc"], "abc"),
        (["bearer  abc "], "abc"),
        (["Basic abc"], None),
        (["Bearer"], ""),
        ([], None),
        (["Bearer abc", "Bearer def"], None),
    ],
)
def test_the_header(values: list[str], expected: str | None) -> None:
    assert bearer(Headers(raw=[(b"authorization", value.encode()) for value in values])) == expected


def test_every_operation_refuses_strangers_and_lower_roles(tokens_file: Path) -> None:
    link = FakeLink(RunState.HALTED)
    app = app_of(link, tokens=tokens_file)

    async def test(client: httpx.AsyncClient) -> None:
        for method, path in sorted(operations(app)):
            rule = rule_for(method, path)
            for name, token in (("nobody", None), ("nonsense", "hlt_x"), *TOKENS.items()):
                headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                role = None if name in ("nobody", "nonsense", "expired") else Role.of(name)
                if rule.role is None or (role is not None and role >= rule.role):
                    continue
                answer = await client.request(method, path, headers=headers)
                assert answer.status_code == (401 if role is None else 403), (method, path, name)
                assert answer.headers["content-type"] == "application/problem+json"
                assert ("www-authenticate" in answer.headers) == (role is None)

    run(app, test)
    assert link.sent == [], "no refused command has reached the farm"


def test_a_caller_has_a_name(tokens_file: Path) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v1/nothing", headers={"Authorization": f"Bearer {TOKENS['admin']}"})).status_code == 404
        client.headers["Authorization"] = f"Bearer {TOKENS['operator']}"
        assert (await client.get("/v1/access")).json() == {"who": "the-operator", "role": "operator", "tokens": True, "problem": None}
        assert (await client.post("/v1/control/configure")).status_code == 202
        assert (await client.post("/v1/access/reload")).status_code == 403

    run(app_of(tokens=tokens_file), test)


def test_without_tokens_everybody_is_an_admin() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/access")).json() == {"who": "anonymous", "role": "admin", "tokens": False, "problem": None}
        assert (await client.post("/v1/access/reload")).status_code == 404

    run(app_of(), test)


def test_the_tokens_file_is_read_again(tokens_file: Path) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        admin = {"Authorization": f"Bearer {TOKENS['admin']}"}
        assert (await client.post("/v1/access/reload", headers=admin)).json() == {"tokens": 4}
        tokens_file.write_text(tokens_text() + "nonsense: 1\n")
        answer = await client.post("/v1/access/reload", headers=admin)
        assert answer.status_code == 422
        assert "nonsense" in answer.json()["detail"]
        assert "nonsense" in (await client.get("/v1/access", headers=admin)).json()["problem"]
        tokens_file.write_text("tokens: []\n")
        assert (await client.get("/v1/status", headers=admin)).status_code == 401

    run(app_of(tokens=tokens_file), test)


def test_metrics_may_be_open(tokens_file: Path) -> None:
    async def status(client: httpx.AsyncClient) -> None:
        seen.append((await client.get("/metrics")).status_code)
        assert (await client.get("/v1/status")).status_code == 401

    seen: list[int] = []
    run(app_of(tokens=tokens_file), status)
    run(app_of(tokens=tokens_file, open_metrics=True), status)
    assert seen == [401, 200]


def test_no_token_reaches_the_log(tokens_file: Path) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:

        async def test(client: httpx.AsyncClient) -> None:
            for token in (*TOKENS.values(), "hlt_unknown_secret"):
                client.headers["Authorization"] = f"Bearer {token}"
                for method, path in (("GET", "/v1/status"), ("POST", "/v1/control/configure"), ("POST", "/v1/access/reload")):
                    await client.request(method, path)

        app = app_of(tokens=tokens_file)
        run(app, test)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    text = stream.getvalue()
    assert "refused GET /v1/status" in text or "refused POST" in text, "the log was listened to"
    for token in (*TOKENS.values(), "hlt_unknown_secret"):
        assert token not in text
        assert hashlib.sha256(token.encode()).hexdigest() not in text


def test_refusals_are_logged_once_in_a_while() -> None:
    limit = LogLimit(1.0)
    assert [limit.ask(t) for t in (0.0, 0.1, 0.9, 1.0, 5.0)] == [0, None, None, 2, 0]


def test_large_bodies_are_refused_before_and_while_they_come() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async def drip() -> AsyncIterator[bytes]:
            for _ in range(BODY_BYTES // 65536 + 1):
                yield b" " * 65536

        for content in (b" " * (BODY_BYTES + 1), drip()):
            answer = await client.post("/v1/control/configure", content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
            assert answer.json()["type"].startswith("urn:hltfarm:error:")
        huge = await client.post("/v1/control/configure", content=b"", headers={"Content-Length": "9" * 30})
        assert huge.status_code == 413
        fits = b'{"menu": ""}'.ljust(BODY_BYTES)
        assert (await client.post("/v1/control/configure", content=fits, headers={"Content-Type": "application/json"})).status_code == 202

    run(app_of(), test)


def test_a_body_that_does_not_come_is_given_up() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        never = asyncio.Event()

        async def drip() -> AsyncIterator[bytes]:
            yield b"{"
            await never.wait()

        # httpx asks the source of a body for more while the application waits, so the wait is the application's.
        answer = await client.post("/v1/control/configure", content=drip(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 408
        assert "did not come within 0.05 s" in answer.json()["detail"]

    run(app_of(body_s=0.05), test)


@pytest.mark.parametrize(
    ("method", "host", "origin", "local_only", "refused"),
    [
        ("POST", "127.0.0.1:8080", None, True, False),
        ("POST", "localhost:9000", "http://localhost:9000", True, False),
        ("POST", "[::1]:8080", None, True, False),
        ("POST", "[::1]", None, True, False),
        ("GET", "evil.example.org", None, True, True),
        ("GET", "", None, True, True),
        ("POST", "127.0.0.1:8080", "http://evil.example.org", True, True),
        ("POST", "farm:8080", "http://evil.example.org", False, True),
        ("POST", "farm:8080", "null", False, True),
        ("POST", "farm:8080", "http://[", False, True),
        ("POST", "farm:8080", "https://farm:8080", False, False),
        ("GET", "farm:8080", "http://evil.example.org", False, False),
    ],
)
def test_pages_of_others(method: str, host: str, origin: str | None, local_only: bool, refused: bool) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert (foreign(method, Headers(headers), local_only=local_only) is not None) == refused


def test_answers_tell_browsers_what_they_may_do() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        for path in ("/v1/status", "/nothing", "/metrics"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
        page = await client.get("/docs")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "script-src 'self';" in page.headers["content-security-policy"]
        assert "//" not in page.text.replace("<!doctype", "")  # nothing of it comes from another server
        parts = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        assert len(parts) == 3
        for part in parts:
            answer = await client.get(part)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/css" if part.endswith("css") else "text/javascript")
            assert len(answer.content) > 100
        assert (await client.get("/docs/index.html")).status_code == 404
        assert (await client.get("/redoc")).status_code == 404

    run(app_of(), test)


def test_the_client_sends_its_token(tokens_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        status = 200 if seen[-1] == "Bearer hlt_look" else 401
        return httpx.Response(status, json={} if status == 200 else {"detail": "the token is not known here"})

    transport = httpx.MockTransport(answer)
    with FarmApi("http://farm", transport=transport, token="hlt_look") as farm:
        farm.status()
    monkeypatch.setenv("HLTFARM_TOKEN", "hlt_look")
    with FarmApi("http://farm", transport=transport) as farm:
        farm.status()
    monkeypatch.setenv("HLTFARM_TOKEN", "hlt_wrong")
    with FarmApi("http://farm", transport=transport) as farm, pytest.raises(AccessError, match=r"not known here.*HLTFARM_TOKEN") as caught:
        farm.status()
    assert "hlt_wrong" not in str(caught.value)
    monkeypatch.delenv("HLTFARM_TOKEN")
    with FarmApi("http://farm", transport=transport) as farm, pytest.raises(AccessError):
        farm.status()
    assert seen == ["Bearer hlt_look", "Bearer hlt_look", "Bearer hlt_wrong", None]
    with pytest.raises(ConfigError, match="characters") as refused:
        FarmApi("http://farm", transport=transport, token="hlt_x\nhlt_y")
    assert "hlt_x" not in str(refused.value)


def test_a_broken_file_keeps_the_farm_from_starting(tokens_file: Path) -> None:
    tokens_file.write_text("tokens: 7\n")
    with pytest.raises(ConfigError, match="tokens file"):
        app_of(tokens=tokens_file)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ({"detector": "/etc"}, 403),
        ({"detector": "conditions"}, 403),
        ({"model": "/tmp/mine"}, 403),
        ({"event_model": "/tmp/mine"}, 403),
        ({"detector": "phase1", "model": "track-mlp", "event_model": "none"}, 202),
        ({"detector": "/as/started", "model": "/shared/selector"}, 202),
    ],
)
def test_folders_of_the_machine_are_named_by_admins(tokens_file: Path, body: dict[str, str], operator: int) -> None:
    """But for those that the farm was started with."""
    settings = ControlSettings(
        ingests=(ENDPOINT,), detector="/as/started", model="/shared/selector", access=AccessSettings(tokens=tokens_file)
    )

    async def test(client: httpx.AsyncClient) -> None:
        for who, expected in (("operator", operator), ("admin", 202)):
            answer = await client.post("/v1/control/configure", json=body, headers={"Authorization": f"Bearer {TOKENS[who]}"})
            assert answer.status_code == expected, answer.text
            if expected == 403:
                assert answer.headers["content-type"] == "application/problem+json"
                assert "which admins may name" in answer.json()["detail"]

    run(create_app(settings, FakeLink(RunState.HALTED)), test)


def test_exchange_and_shadow_keep_the_rule(tokens_file: Path) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        headers = {"Authorization": f"Bearer {TOKENS['operator']}"}
        assert (await client.post("/v1/control/configure", headers=headers)).status_code == 202
        assert (await client.post("/v1/control/start", headers=headers)).status_code == 200
        for method, path in (("POST", "/v1/control/activate"), ("PUT", "/v1/shadow")):
            answer = await client.request(method, path, json={"model": "/tmp/mine"}, headers=headers)
            assert answer.status_code == 403, answer.text

    run(app_of(tokens=tokens_file), test)


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [["status"], ["--token", "hlt_of_the_argument", "status"], ["--token", "hlt_of the argument", "status"]]
)
def test_ctl_shows_no_token_when_it_fails(
    arguments: list[str], debug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HLTFARM_TOKEN", "hlt_of_the_environment")
    monkeypatch.setenv("HLTFARM_DEBUG", debug)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    said = ""
    try:
        assert cli.run(["ctl", "--url", f"http://127.0.0.1:{port}", *arguments]) != 0
    except HltfarmError as error:  # with HLTFARM_DEBUG it goes up
        said = "".join(traceback.format_exception(error))
    said += "".join(capsys.readouterr())
    assert said
    assert "hlt_of" not in said
