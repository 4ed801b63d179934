"""The door of the HTTP API, an ASGI middleware: who asks, whether he may, how much he may send; headers for browsers.

It stands in front of routing and of the reading of bodies, so that a stranger's request costs next to nothing. Handlers find the
caller's name in `request.state.who` and his role in `request.state.role`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hltfarm.service.control.problems import problem
from hltfarm.service.control.roles import BODY_BYTES, OPEN, Rule, rule_for
from hltfarm.service.security.binds import loopback
from hltfarm.service.security.log_limit import LogLimit
from hltfarm.service.security.tokens import Role, Tokens, TokensFile

log = logging.getLogger(__name__)
ANONYMOUS = "anonymous"  #: the caller's name where no tokens are asked for, and of open paths without one
REALM = 'Bearer realm="hltfarm"'
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: For a browser: no guessing of types, no frames, nothing kept, nothing loaded by an answer that is no page.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"


class AccessSettings(BaseModel):
    """Who may use the API. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Path | None = None
    """File of the tokens; None: nobody is asked for one."""
    open_metrics: bool = False
    """Whether /metrics is for everybody."""
    local_only: bool = False
    """Without tokens on the loopback interface: the name by which the farm is addressed must be a loopback one. A web page of somebody
    else, open in a browser of this machine, could otherwise reach the API by a name of its own (DNS rebinding)."""
    body_s: float = Field(default=60.0, gt=0)
    """Time to send a body; one that may be large gets a second more for each MiB."""


class Caller(NamedTuple):
    """Who asks. `role` is None for somebody without a token."""

    who: str
    role: Role | None


class Refusal(NamedTuple):
    """Why somebody may not."""

    status: HTTPStatus
    detail: str


def bearer(headers: Headers) -> str | None:
    """The token of a request; None without one. Two Authorization headers are none: which of them would count?"""
    given = headers.getlist("authorization")
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def decide(rule: Rule, token: str | None, tokens: Tokens | None, now: datetime) -> Caller | Refusal:
    """Whether a request with this token may be made. `tokens` None: nobody is asked. Pure."""
    if tokens is None:
        return Caller(ANONYMOUS, Role.ADMIN)
    entry = tokens.find(token) if token is not None else None
    known = entry is not None and (entry.end is None or now < entry.end)
    if rule.role is None:
        return Caller(entry.name, Role.of(entry.role)) if entry is not None and known else Caller(ANONYMOUS, None)
    if token is None:
        return Refusal(HTTPStatus.UNAUTHORIZED, "this needs a token: send the header `Authorization: Bearer TOKEN`")
    if entry is None:
        return Refusal(HTTPStatus.UNAUTHORIZED, "the token is not known here")
    if not known:
        return Refusal(HTTPStatus.UNAUTHORIZED, f"the token of {entry.name!r} has expired at {entry.end:%Y-%m-%dT%H:%M:%SZ}")
    role = Role.of(entry.role)
    if role < rule.role:
        return Refusal(HTTPStatus.FORBIDDEN, f"{entry.name!r} has the role {role.label}; this needs {rule.role.label}")
    return Caller(entry.name, role)


def foreign(method: str, headers: Headers, *, local_only: bool) -> Refusal | None:
    """Why a request is one that a browser was made to send by somebody else's page; None if it is not. Pure."""
    host = headers.get("host", "")
    if local_only and not loopback(host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host):
        return Refusal(HTTPStatus.FORBIDDEN, f"this farm has no tokens and answers on loopback names alone, not as {host!r}")
    origin = headers.get("origin")
    if origin is not None and method not in SAFE_METHODS and urlsplit_host(origin) != host.lower():
        return Refusal(HTTPStatus.FORBIDDEN, f"a page of {origin!r} may not send commands")
    return None


def urlsplit_host(origin: str) -> str:
    """Host and port of an Origin header; empty for one that is none (`null`, garbage)."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


class Access:
    """The middleware. `refused` counts refusals by HTTP status, in the counter of the caller if it gives one.

    `pages`: whether a method and a path are those of a file that is for everybody. Raises ConfigError if the tokens file cannot be used.
    """

    def __init__(
        self, app: ASGIApp, settings: AccessSettings, file: TokensFile | None, clock: Callable[[], float] = time.time,
        refused: Counter[int] | None = None, pages: Callable[[str, str], bool] = lambda method, path: False,
    ) -> None:  # fmt: skip
        self._pages = pages
        self.refused: Counter[int] = Counter() if refused is None else refused
        self._app = app
        self._settings = settings
        self._file = file
        self._clock = clock
        self._limit = LogLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        rule = rule_for(method, path)
        if self._settings.open_metrics and path == "/metrics":
            rule = Rule(None, rule.body_bytes)
        elif self._pages(method, path):
            rule = OPEN
        send = _with_headers(send)
        answer = self._check(method, headers, rule)
        if isinstance(answer, Refusal):
            self._tell(answer, method, path, scope)
            refusal = problem(answer.status, answer.status.phrase.title().replace(" ", ""), answer.detail)
            refusal.headers["Connection"] = "close"  # nobody waits for the rest of a body that is not wanted
            if answer.status == HTTPStatus.UNAUTHORIZED:
                refusal.headers["WWW-Authenticate"] = REALM
            await refusal(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["who"], state["role"] = answer.who, answer.role
        await self._app(
            scope, _Bounded(receive, rule.body_bytes, self._settings.body_s + max(0, rule.body_bytes - BODY_BYTES) / 2**20), send
        )

    def _check(self, method: str, headers: Headers, rule: Rule) -> Caller | Refusal:
        strange = foreign(method, headers, local_only=self._settings.local_only and rule.role is not None)
        if strange is not None:
            return strange
        tokens = None if self._file is None else self._file.current()
        answer = decide(rule, bearer(headers), tokens, datetime.fromtimestamp(self._clock(), UTC))
        if isinstance(answer, Refusal):
            return answer
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > rule.body_bytes):
            return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(rule.body_bytes))
        return answer

    def _tell(self, refusal: Refusal, method: str, path: str, scope: Scope) -> None:
        self.refused[refusal.status] += 1
        left_out = self._limit.ask(self._clock())
        if left_out is not None:
            peer = scope["client"][0] if scope.get("client") else "somebody"
            more = f" ({left_out} more before)" if left_out else ""
            log.warning("refused %s %.200s from %s: %s%s", method, path, peer, refusal.detail, more)


def _too_large(limit: int) -> str:
    return f"the body is larger than the {limit} bytes that are taken here"


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            page = headers.get("content-type", "").startswith("text/html")
            headers.setdefault("Content-Security-Policy", "frame-ancestors 'none'" if page else DATA_POLICY)
        await send(message)

    return sending


class _Bounded:
    """`receive` of one request, with an end to the size of the body and to the time that it takes."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._deadline: float | None = None
        self._bytes = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:  # what follows is a wait for the client to go
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise _rude(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {self._seconds:g} s") from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limit:
            raise _rude(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(self._limit))
        self._complete = not message.get("more_body", False)
        return message


def _rude(status: HTTPStatus, detail: str) -> HTTPException:
    return HTTPException(status, detail, {"Connection": "close"})
