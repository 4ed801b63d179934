"""The reference of the HTTP interface, from the OpenAPI document of the control plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from hltfarm.service.control.app import DESCRIPTION, create_app
from hltfarm.service.control.link import Link
from hltfarm.service.control.models import Problem
from hltfarm.service.control.settings import ControlSettings

INTRO = """---
title: HTTP interface
---

# HTTP interface

{description}
A control plane has this as OpenAPI document at `/openapi.json` and as a page to try at `/docs`; [its document](openapi.json).
[operating.md](../operating.md#http-api) tells how it is used, [security.md](../security.md) about tokens and roles.

"""
#: Refusals that every operation has; told once.
COMMON = {"400", "401", "403", "408", "413", "422", "404"}


def document() -> dict[str, Any]:
    """The OpenAPI document. Nothing is started for it."""
    app = create_app(ControlSettings(ingests=("tcp://127.0.0.1:7403",)), cast(Link, None))
    described: dict[str, Any] = app.openapi()
    return described


def openapi_json() -> str:
    """The document as a file."""
    return json.dumps(document(), indent=1, sort_keys=True) + "\n"


def cell(text: str) -> str:
    """A text in a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def name_of(schema: dict[str, Any]) -> str:
    """A type in a few words, with links to the schemas below."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(name_of(one) for one in schema[union]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        if "prefixItems" in schema:
            return f"({', '.join(name_of(item) for item in schema['prefixItems'])})"
        return f"list of {name_of(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {name_of(schema['additionalProperties'])}"
    return str(schema.get("title", kind)) if kind == "object" and "properties" in schema else str(kind)


def bounds(schema: dict[str, Any]) -> str:
    """What a value is held to, and its default."""
    words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than", "exclusiveMaximum": "less than"}
    words |= {"minLength": "length at least", "maxLength": "length at most", "maxItems": "entries at most"}
    parts = [f"{text} {schema[key]}" for key, text in words.items() if key in schema]
    if schema.get("default") not in (None, "", [], {}):
        parts.append(f"default `{schema['default']}`")
    return f" ({', '.join(parts)})" if parts else ""


def operation(method: str, path: str, about: dict[str, Any]) -> Iterator[str]:
    """One operation: what it does, who may, what goes in and comes out."""
    yield f"### `{method.upper()} {path}`\n"
    yield f"{about.get('description') or about['summary'] + '.'}\n\nRole: **{about['x-role']}**.\n"
    if about.get("parameters"):
        yield "| parameter | in | type | is |\n|---|---|---|---|"
        for one in about["parameters"]:
            schema = one["schema"]
            need = "" if one.get("required") else "optional; "
            text = one.get("description", "")
            yield f"| `{one['name']}` | {one['in']} | {cell(name_of(schema))} | {cell(need + text + bounds(schema)).strip('; ')} |"
        yield ""
    body = about.get("requestBody")
    if body:
        kinds = [f"{name_of(content.get('schema', {}))} as `{media}`" for media, content in body["content"].items()]
        yield f"Body: {', or '.join(kinds)}{'' if body.get('required') else ' (optional)'}.\n"
    yield "| answer | is |\n|---|---|"
    for status, response in sorted(about["responses"].items()):
        if status in COMMON:
            continue
        kinds = [f"{name_of(c['schema'])} (`{m}`)" for m, c in response.get("content", {}).items() if c.get("schema")]
        text = response["description"].replace("Successful Response", "")
        yield f"| {status} | {cell(': '.join(part for part in (text.rstrip('.') if kinds else text, ', '.join(kinds)) if part))} |"
    yield ""


def schema(name: str, about: dict[str, Any]) -> Iterator[str]:
    """One schema with its fields."""
    yield f"### {name}\n"
    if about.get("description"):
        yield f"{about['description']}\n"
    if not about.get("properties"):
        yield f"{name_of(about)}\n"
        return
    yield "| field | type | is |\n|---|---|---|"
    for field, one in about["properties"].items():
        need = "" if field in about.get("required", []) else "optional; "
        yield f"| `{field}` | {cell(name_of(one))} | {cell(need + one.get('description', '') + bounds(one)).strip('; ')} |"
    yield ""


def http_page() -> str:
    """The whole page: operations by their tag, then the schemas."""
    described = document()
    groups: dict[str, list[str]] = {}
    for path, item in described["paths"].items():
        for method, about in item.items():
            groups.setdefault((about.get("tags") or ["others"])[0], []).extend(operation(method, path, about))
    parts = [INTRO.format(description=DESCRIPTION)]
    responses = described["paths"]["/v1/status"]["get"]["responses"]
    parts.append("Besides what each operation names, any of them may be refused, with a [Problem](#problem):\n\n| answer | is |\n|---|---|")
    parts += [f"| {status} | {responses[status]['description']} |" for status in ("400", "401", "403", "408", "413") if status in responses]
    parts += ["| 404 | What the path names is not known. |", "| 422 | Something in the request is not what it should be. |", ""]
    for tag, lines in groups.items():
        parts += [f"## {tag[0].upper() + tag[1:]}\n", *lines]
    parts.append("## Schemas\n")
    problem = Problem.model_json_schema()
    schemas = problem.get("$defs", {}) | described["components"]["schemas"] | {"Problem": problem}
    for name, about in sorted(schemas.items(), key=lambda entry: entry[0].lower()):
        parts += list(schema(name, about))
    return "\n".join(parts) + "\n"
