"""Who gave which command: an ASGI middleware that enters every request that changes something into the registry, and the page of it.

It stands behind the door (`access.py`), which says who asks: what the door refuses reaches no handler, and is in the log. An entry is
written when the answer is given; a database that fails delays the entry, never the command.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hltfarm.service.control.context import Context, ContextDep
from hltfarm.service.registry import AuditEntry, Registry

router = APIRouter(prefix="/v1/audit", tags=["audit"])

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
#: Requests of those methods that change nothing.
READING = frozenset({"/v1/menus/validate"})
#: Longest part of a body that is looked at, and longest text that an entry quotes.
_LOOKED_BYTES, _QUOTED = 1 << 18, 200
_SECRET = ("token", "password", "secret")


def arguments(body: bytes, total: int, headers: Mapping[str, str], query: str) -> dict[str, Any]:
    """What was asked for, in short: fields of a JSON object, long texts by length and digest, any other body by its size. Pure."""
    found: dict[str, Any] = {"query": query[:_QUOTED]} if query else {}
    if not total:
        return found
    kind = headers.get("content-type", "").partition(";")[0].strip()
    try:
        given = json.loads(body) if total == len(body) and kind in ("application/json", "") else None
    except (ValueError, RecursionError):
        given = None
    if isinstance(given, dict):
        return found | {str(key)[:_QUOTED]: _short(str(key), value) for key, value in list(given.items())[:64]}
    return found | {"body": {"bytes": total, "type": kind[:_QUOTED], "blake2b": hashlib.blake2b(body, digest_size=8).hexdigest()}}


def _short(key: str, value: Any) -> Any:
    if any(word in key.lower() for word in _SECRET):
        return "(not kept)"
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= _QUOTED:
        return value
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
    return {"characters": len(text), "blake2b": digest, "begins": text[:80]}


def outcome(status: int) -> str:
    """What an HTTP status says of a command."""
    if status < 300:
        return "accepted" if status == 202 else "done"
    return "refused" if status < 500 else "failed"


class _Exchange:
    """Body and answer of one request as they pass."""

    def __init__(self) -> None:
        self.body, self.total = bytearray(), 0
        self.answer = bytearray()
        self.status = 500  # of a handler that raised

    async def receiving(self, receive: Receive) -> Message:
        message = await receive()
        part = message.get("body", b"")
        self.total += len(part)
        self.body += part[: max(0, _LOOKED_BYTES - len(self.body))]
        return message

    async def sending(self, send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.answer += message.get("body", b"")[: max(0, _LOOKED_BYTES - len(self.answer))]
        await send(message)

    def told(self) -> dict[str, Any]:
        """The answer, if it is a JSON object."""
        try:
            answer = json.loads(bytes(self.answer))
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}


class Audit:
    """The middleware. It finds the registry in the context of the app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] not in CHANGING or scope["path"] in READING:
            await self._app(scope, receive, send)
            return
        exchange, began = _Exchange(), datetime.now(UTC)
        try:
            await self._app(scope, partial(exchange.receiving, receive), partial(exchange.sending, send))
        finally:
            if "endpoint" in scope and exchange.status != 405:  # else no such command
                _enter(scope, exchange, began)


def _enter(scope: Scope, exchange: _Exchange, began: datetime) -> None:
    answer, status = exchange.told(), exchange.status
    detail, transition = answer.get("detail"), answer.get("id")
    entry = AuditEntry(
        time=began,
        who=str(scope.get("state", {}).get("who", "anonymous")),
        address=scope["client"][0] if scope.get("client") else "",
        command=f"{scope['method']} {scope['path']}",
        arguments=arguments(
            bytes(exchange.body), exchange.total, Headers(scope=scope), scope.get("query_string", b"").decode("ascii", "replace")
        ),
        status=status,
        outcome=outcome(status),
        detail=str(detail) if status >= 400 and detail is not None else None,
        transition=str(transition)[:32] if status == 202 and transition is not None else None,
    )
    context: Context = scope["app"].state.context
    context.farm.recorder.write(f"audit {entry}", partial(_write, entry))


def _write(entry: AuditEntry, registry: Registry) -> None:
    registry.journal.audit(entry)


class AuditModel(BaseModel):
    """A command that changes something."""

    model_config = ConfigDict(from_attributes=True)
    id: int
    time: datetime
    who: str = Field(description="name of the token; anonymous where none is asked for")
    address: str
    command: str = Field(description="method and path")
    arguments: dict[str, Any] = Field(description="fields of the body; long texts by length and digest")
    status: int = Field(description="of the HTTP answer")
    outcome: str = Field(description="done, accepted (see the transition), refused or failed")
    detail: str | None = Field(description="why it was not done")
    transition: str | None


class AuditPage(BaseModel):
    """A page of commands, newest first; `next` continues it (`?before=next`)."""

    entries: list[AuditModel]
    next: int | None


@router.get("")
async def audit(
    context: ContextDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=1 << 63, description="only entries below this id")] = None,
) -> AuditPage:
    """Commands that changed something, or were to: who, when, from where, with what outcome."""
    entries = await context.farm.registry(lambda registry: registry.journal.audited(limit, before))
    more = entries[-1].id if len(entries) == limit and entries[-1].id > 1 else None
    return AuditPage(entries=[AuditModel.model_validate(entry) for entry in entries], next=more)
