"""Errors as HTTP answers: the exception tree mapped to status codes, bodies as application/problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hltfarm.proto.errors import AccessError, BackendError, HltfarmError, InputError, LimitError, StateError
from hltfarm.service.control.display import ShowingTookTooLongError
from hltfarm.service.control.link import RefusedError, UnreachableError
from hltfarm.service.control.models import FaultModel, Problem
from hltfarm.service.control.references import MenuError, UnknownError

#: The first class that fits decides.
STATUS: tuple[tuple[type[HltfarmError], HTTPStatus], ...] = (
    (AccessError, HTTPStatus.FORBIDDEN),
    (StateError, HTTPStatus.CONFLICT),
    (UnknownError, HTTPStatus.NOT_FOUND),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (LimitError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UnreachableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RefusedError, HTTPStatus.BAD_GATEWAY),
    (ShowingTookTooLongError, HTTPStatus.GATEWAY_TIMEOUT),
    (BackendError, HTTPStatus.SERVICE_UNAVAILABLE),
    (HltfarmError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


def problem(
    status: int,
    name: str,
    detail: str,
    *,
    retryable: bool = False,
    legal: list[str] | None = None,
    faults: list[FaultModel] | None = None,
) -> Response:
    """One problem+json answer. `name`: the error's class."""
    body = Problem(
        type=f"urn:hltfarm:error:{name}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        retryable=retryable,
        legal=legal,
        faults=faults,
    )
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(body.model_dump(exclude_none=True), status, headers, media_type="application/problem+json")


def status_of(error: HltfarmError) -> HTTPStatus:
    """The HTTP status of an error of the tree."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


async def _farm_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HltfarmError)
    legal = list(error.legal) if isinstance(error, StateError) else None
    faults = [FaultModel(line=fault.line, text=fault.text) for fault in error.faults] if isinstance(error, MenuError) else None
    return problem(status_of(error), type(error).__name__, str(error), retryable=error.retryable, legal=legal, faults=faults)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "InputError", f"{where}: {first['msg']}")


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, "HTTPException", str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


def install(app: FastAPI) -> None:
    """Give the app the handlers."""
    app.add_exception_handler(HltfarmError, _farm_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
