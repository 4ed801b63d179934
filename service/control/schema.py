"""The OpenAPI document with what the door of the API adds to every operation: the role it needs, and how it refuses."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from hltfarm.service.control.models import Problem
from hltfarm.service.control.roles import rule_for

_SCHEME = {"bearer": {"type": "http", "scheme": "bearer", "description": "A token that `hltfarm token new` made."}}
_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "The body cannot be read.",
    HTTPStatus.UNAUTHORIZED: "No token, or one that is not valid (any more).",
    HTTPStatus.FORBIDDEN: "The token's role may not do this, or a browser was sent by another site.",
    HTTPStatus.REQUEST_TIMEOUT: "The body took too long.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
}


def install(app: FastAPI) -> None:
    """Let the app describe itself with roles and refusals. Operations say nothing of them by themselves."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = plain()
            described.setdefault("components", {})["securitySchemes"] = _SCHEME
            for path, item in described["paths"].items():
                for method, operation in item.items():
                    _describe(operation, method.upper(), path)
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's documented way to extend the document


def _describe(operation: dict[str, Any], method: str, path: str) -> None:
    role = rule_for(method, path).role
    operation["security"] = [] if role is None else [{"bearer": []}]
    operation["x-role"] = "everybody" if role is None else role.label
    media = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):  # FastAPI's own form, which `problems` replaces
        responses["422"] = {"description": "Something in the request is not what it should be.", "content": media}
    if "{" in path:
        responses.setdefault("404", {"description": "Not known.", "content": media})
    for status, description in _REFUSALS.items():
        if role is not None or status is not HTTPStatus.UNAUTHORIZED:
            responses.setdefault(str(status.value), {"description": description, "content": media})
