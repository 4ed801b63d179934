"""Bring a database to the present schema, one step after the other; refuse one that a newer version wrote."""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from hltfarm.proto.errors import ConfigError
from hltfarm.service.registry.steps import FIRST_COLUMNS, STEPS

VERSION = len(STEPS)
_TABLE = "schema_version"
_LOCK = 0x686C74  # of PostgreSQL: two controls that start together do not migrate at the same time


def present(connection: Connection) -> int:
    """Version of the schema in a database, 0 for an empty one. Raises ConfigError for tables that no version made."""
    tables = inspect(connection)
    if tables.has_table(_TABLE):
        return int(connection.execute(text(f"SELECT version FROM {_TABLE}")).scalar_one())
    if not tables.has_table("runs"):
        return 0
    columns = {column["name"] for column in tables.get_columns("runs")}
    if missing := sorted(FIRST_COLUMNS - columns):
        raise ConfigError(f"is of another version (it has no {', '.join(missing)}); move it away")
    return 1


def migrate(connection: Connection) -> tuple[int, int]:
    """Version before and after, within the transaction of the caller. Raises ConfigError for what cannot be migrated."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    before = present(connection)
    if before > VERSION:
        raise ConfigError(
            f"was written by a newer hltfarm: its schema is {before}, this one knows {VERSION}; use that version, or another database"
        )
    for step in STEPS[before:]:
        step(connection)
    if not inspect(connection).has_table(_TABLE):
        connection.execute(text(f"CREATE TABLE {_TABLE} (version INTEGER NOT NULL)"))
        connection.execute(text(f"INSERT INTO {_TABLE} (version) VALUES (:version)"), {"version": VERSION})
    elif before < VERSION:
        connection.execute(text(f"UPDATE {_TABLE} SET version = :version"), {"version": VERSION})
    return before, VERSION
