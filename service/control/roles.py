"""Who may call what: one row for every method and path of the API. What has no row is for admins alone, and fails a test."""

from __future__ import annotations

from typing import NamedTuple

from starlette.routing import compile_path

from hltfarm.service.model_store import MAX_UPLOAD_BYTES
from hltfarm.service.security.tokens import Role

BODY_BYTES = 2 << 20  # a configuration with its menu; too low refuses large menus, too high lets anybody with a token fill the memory


class Rule(NamedTuple):
    """`role`: the least that is needed, None for everybody, without a token too. `body_bytes`: largest body of a request."""

    role: Role | None
    body_bytes: int = BODY_BYTES


OPEN = Rule(None)
_VIEWER, _OPERATOR, _ADMIN = (Rule(role) for role in Role)

RULES: dict[tuple[str, str], Rule] = {
    # Probes of the machinery around the farm, and pages that are the same everywhere.
    ("GET", "/v2/health/live"): OPEN,
    ("GET", "/v2/health/ready"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/docs/{file}"): OPEN,
    # Looking.
    ("GET", "/metrics"): _VIEWER,
    ("GET", "/v1/access"): _VIEWER,
    ("GET", "/v1/programmes"): _VIEWER,
    ("GET", "/v1/shadow"): _VIEWER,
    ("GET", "/v1/events"): _VIEWER,
    ("GET", "/v1/events/{event_id}"): _VIEWER,
    ("GET", "/v1/errors"): _VIEWER,
    ("GET", "/v1/geometry"): _VIEWER,
    ("GET", "/v1/history"): _VIEWER,
    ("GET", "/v1/paths"): _VIEWER,
    ("GET", "/v1/menus"): _VIEWER,
    ("GET", "/v1/menus/{reference}"): _VIEWER,
    ("GET", "/v1/menus/{reference}/diff/{other}"): _VIEWER,
    ("GET", "/v1/models"): _VIEWER,
    ("GET", "/v1/models/{reference}"): _VIEWER,
    ("GET", "/v1/outputs"): _VIEWER,
    ("GET", "/v1/runs"): _VIEWER,
    ("GET", "/v1/runs/{number}"): _VIEWER,
    ("GET", "/v1/status"): _VIEWER,
    ("GET", "/v1/transitions/{transition_id}"): _VIEWER,
    ("GET", "/v1/workers"): _VIEWER,
    ("GET", "/v1/workers/{name}"): _VIEWER,
    ("GET", "/v2"): _VIEWER,
    ("GET", "/v2/models"): _VIEWER,
    ("GET", "/v2/models/{name}"): _VIEWER,
    ("GET", "/v2/models/{name}/ready"): _VIEWER,
    ("GET", "/v2/models/{name}/versions/{version}"): _VIEWER,
    ("GET", "/v2/models/{name}/versions/{version}/ready"): _VIEWER,
    # Run control and workers.
    ("POST", "/v1/control/configure"): _OPERATOR,
    ("POST", "/v1/control/start"): _OPERATOR,
    ("POST", "/v1/control/pause"): _OPERATOR,
    ("POST", "/v1/control/resume"): _OPERATOR,
    ("POST", "/v1/control/reset"): _OPERATOR,
    ("POST", "/v1/control/drain"): _OPERATOR,
    ("POST", "/v1/control/stop"): _OPERATOR,
    ("POST", "/v1/workers"): _OPERATOR,
    ("POST", "/v1/workers/{name}/drain"): _OPERATOR,
    ("POST", "/v1/workers/{name}/quarantine"): _OPERATOR,
    ("POST", "/v1/workers/{name}/release"): _OPERATOR,
    ("POST", "/v1/workers/{name}/restart"): _OPERATOR,
    ("DELETE", "/v1/workers/{name}"): _OPERATOR,
    ("POST", "/v1/outputs/consumers/{name}/detach"): _OPERATOR,
    # Detector data, which leave the farm with it.
    ("GET", "/v1/events/{event_id}/raw"): _OPERATOR,
    # Who did what.
    ("GET", "/v1/audit"): _OPERATOR,
    # Menus and models.
    ("POST", "/v1/control/activate"): _OPERATOR,
    ("POST", "/v1/control/rollback"): _OPERATOR,
    ("PUT", "/v1/shadow"): _OPERATOR,
    ("DELETE", "/v1/shadow"): _OPERATOR,
    ("POST", "/v1/menus"): _OPERATOR,
    ("POST", "/v1/menus/validate"): _OPERATOR,
    ("DELETE", "/v1/menus/{reference}"): _OPERATOR,
    ("POST", "/v1/models"): Rule(Role.ADMIN, MAX_UPLOAD_BYTES),  # it brings in arithmetic that workers carry out
    ("DELETE", "/v1/models/{reference}"): _ADMIN,
    # Who may do what.
    ("POST", "/v1/access/reload"): _ADMIN,
}

_PATTERNS = [(method, compile_path(path)[0], rule) for (method, path), rule in RULES.items()]


def has_row(method: str, path: str) -> bool:
    """Whether a row is about a request; HEAD is as GET."""
    return any(known == ("GET" if method == "HEAD" else method) and pattern.match(path) for known, pattern, _ in _PATTERNS)


def rule_for(method: str, path: str) -> Rule:
    """The rule of a request. Where a path fits several rows, the highest role and the smallest body count, whichever the router takes."""
    method = "GET" if method == "HEAD" else method
    found = [rule for known, pattern, rule in _PATTERNS if known == method and pattern.match(path)]
    if not found:
        return _ADMIN
    role = None if any(rule.role is None for rule in found) and len(found) == 1 else max((rule.role or Role.VIEWER) for rule in found)
    return Rule(role, min(rule.body_bytes for rule in found))
