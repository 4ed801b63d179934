"""`hltfarm ctl models`: the farm's models, and which of them decide."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from hltfarm.service.cli.ctl.menus import Lumisection
from hltfarm.service.cli.ctl.runs import Engine, EventModel, WorkingPoint
from hltfarm.service.cli.ctl.session import TIMEOUT_S, NoWait, Partial, Timeout, session_of, table

Reference = Annotated[str, typer.Argument(metavar="NAME|HASH", help="An uploaded model; NAME@VERSION for one of its versions.")]


def packed(source: Path) -> bytes:
    """The zip of a model package, from its folder or from a zip. Raises ConfigError."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.models import load
    from hltfarm.workers.models.manifest import FILES, MANIFEST, read_file
    from hltfarm.workers.models.package import MAX_FILE_BYTES

    if source.is_file():
        return read_file(source, MAX_FILE_BYTES)
    if not source.is_dir():
        raise ConfigError(f"{source}: neither the folder of a model package nor a zip of one")
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *FILES[load(source).kind]):
            archive.writestr(name, read_file(source / name, MAX_FILE_BYTES))
    return body.getvalue()


def _path(reference: str) -> str:
    return f"/v1/models/{quote(reference, safe='')}"


def list_models(context: typer.Context) -> None:
    """Models that a run can be given by name: shipped and uploaded."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", "/v1/models"), _table)


def _table(answer: dict[str, Any]) -> str:
    rows = [
        (model["name"], model["version"], model["hash"], model["kind"], model["target"], model.get("who", "(shipped)"))
        for model in [*answer["models"], *answer["uploaded"]]
    ]
    return table(("NAME", "VERSION", "HASH", "KIND", "TARGET", "WHO"), rows)


def show(context: typer.Context, reference: Reference) -> None:
    """One uploaded model."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", _path(reference)), lambda model: "\n".join(f"{key}: {value}" for key, value in model.items()))


def upload(context: typer.Context, source: Annotated[Path, typer.Argument(help="Folder of a model package, or a zip of one.")]) -> None:
    """Check a model package and store it."""
    session = session_of(context)
    content = packed(source)
    with session.farm() as farm:
        answer = farm.ask("POST", "/v1/models", content=content, kind="application/zip")
        session.show(answer, lambda model: f"stored model {model['name']} version {model['version']}, hash {model['hash']}")


def activate(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Selector of tracks: name or hash, a folder over there, or none.")] = None,
    working_point: WorkingPoint = None,
    engine: Engine = None,
    event_model: EventModel = None,
    lumisection: Lumisection = None,
    partial: Partial = False,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Let other models (or another working point) decide, from a lumisection of the running run on; the menu stays."""
    from hltfarm.proto.errors import ConfigError

    session = session_of(context)
    asked = {"model": model, "working_point": working_point, "engine": engine, "event_model": event_model}
    body: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if not body:
        raise ConfigError("name a model, or what is to change: --working-point, --engine, --event-model")
    with session.farm() as farm:
        answer = farm.ask("POST", "/v1/control/activate", body | {"lumisection": lumisection, "partial": partial})
        session.wait(farm, answer, no_wait, timeout)


def delete(context: typer.Context, reference: Reference) -> None:
    """Take an uploaded model away that is not in use."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("DELETE", _path(reference)), lambda _answer: f"{reference}: deleted")


def register(group: Any) -> None:
    """Add the command group."""
    models: Any = typer.Typer(help="Models: list, show, upload, activate, delete.", no_args_is_help=True)
    models.command("list")(list_models)
    for command in (show, upload, activate, delete):
        models.command()(command)
    group.add_typer(models, name="models")
