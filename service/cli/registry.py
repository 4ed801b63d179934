"""`hltfarm registry`: the database of runs, menus and who did what: its copy, and which version it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DATABASE = Annotated[
    str, typer.Option(help="SQLAlchemy URL of the registry, or the data folder of `hltfarm serve`.", envvar="HLTFARM_CONTROL_DATABASE")
]


def database_url(database: str) -> str:
    """A URL as it is; a folder means the registry in it."""
    from hltfarm.service.registry.database import sqlite_url

    return database if "://" in database else sqlite_url(Path(database).resolve() / "runs.db")


def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes; replaced if it exists.")],
    database: DATABASE = "hltfarm-data",
) -> None:
    """Copy an SQLite registry while its farm runs; the copy is consistent and complete."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.registry.database import copy_sqlite, file_of, parsed

    url = parsed(database_url(database))
    source = file_of(url)
    if source is None:
        raise ConfigError(f"registry {url.render_as_string()!r} is no SQLite file; use the tools of its database (pg_dump for PostgreSQL)")
    if not file.parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}; make it first")
    if file.is_dir() or (file.exists() and file.samefile(source)):
        raise ConfigError(f"{file}: {'is a folder' if file.is_dir() else 'is the registry itself'}; name another file")
    copy_sqlite(source, file)
    typer.echo(f"{file}: copy of {source}, {file.stat().st_size:,} bytes")


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group: Any = typer.Typer(help="The run registry: its copy.", no_args_is_help=True)
    group.callback()(lambda: None)  # a group, also with one command
    group.command()(backup)
    app.add_typer(group, name="registry")
