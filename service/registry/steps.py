"""The schema of the registry, version by version. A step never changes once it was released: databases out there were made by it.

A new version is a new step at the end of STEPS, and the change in `tables.py`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import BigInteger, Column, Connection, Float, Integer, MetaData, String, Table, Text, text


def _runs(connection: Connection) -> None:
    """1: runs."""
    metadata = MetaData()
    Table(
        "runs",
        metadata,
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("detector", Text, nullable=False),
        Column("menu", Text, nullable=False),
        Column("menu_hash", String(128), nullable=False),
        Column("model", Text, nullable=False),
        Column("working_point", String(16), nullable=False),
        Column("engine", String(16), nullable=False),
        Column("event_model", Text, nullable=False),
        Column("models", Text),
        Column("outcome", String(16), nullable=False),
        Column("created_s", Float, nullable=False),
        Column("started_s", Float),
        Column("stopped_s", Float),
        *(Column(name, BigInteger) for name in ("received", "accepted", "rejected", "error", "in_flight", "duplicates")),
    )
    metadata.create_all(connection, checkfirst=False)


def _what_happened(connection: Connection) -> None:
    """2: farms that share a database, counters, activations, menus, models, transitions, audit."""
    connection.execute(text("ALTER TABLE runs ADD COLUMN farm VARCHAR(64) NOT NULL DEFAULT ''"))
    connection.execute(text("ALTER TABLE runs ADD COLUMN counted_s DOUBLE PRECISION"))
    connection.execute(text("ALTER TABLE runs ADD COLUMN marks TEXT"))
    metadata = MetaData()
    Table(
        "counters",
        metadata,
        Column("run", BigInteger, primary_key=True, autoincrement=False),
        Column("kind", String(32), primary_key=True),
        Column("name", String(128), primary_key=True),
        Column("value", BigInteger, nullable=False),
    )
    Table(
        "activations",
        metadata,
        Column("run", BigInteger, primary_key=True, autoincrement=False),
        Column("position", Integer, primary_key=True, autoincrement=False),
        Column("first_lumi", BigInteger, nullable=False),
        Column("menu", Text, nullable=False),
        Column("menu_hash", String(128), nullable=False),
        Column("models", Text, nullable=False),
        Column("accepted", BigInteger, nullable=False),
        Column("rejected", BigInteger, nullable=False),
    )
    Table(
        "menus",
        metadata,
        Column("name", String(64), primary_key=True),
        Column("hash", String(128), primary_key=True),
        Column("text", Text, nullable=False),
        Column("created_s", Float, nullable=False),
        Column("changed_s", Float, nullable=False),
        Column("who", String(128), nullable=False),
    )
    Table(
        "models",
        metadata,
        Column("hash", String(128), primary_key=True),
        Column("name", String(64), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("kind", String(16), nullable=False),
        Column("target", String(16), nullable=False),
        Column("folder", Text, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("created_s", Float, nullable=False),
        Column("who", String(128), nullable=False),
    )
    Table(
        "transitions",
        metadata,
        Column("id", String(32), primary_key=True),
        Column("farm", String(64), nullable=False),
        Column("run", BigInteger),
        Column("command", String(32), nullable=False),
        Column("progress", String(16), nullable=False),
        Column("began_s", Float, nullable=False),
        Column("ended_s", Float),
        Column("error", Text),
    )
    Table(
        "audit",
        metadata,
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("time_s", Float, nullable=False),
        Column("farm", String(64), nullable=False),
        Column("who", String(128), nullable=False),
        Column("address", String(128), nullable=False),
        Column("command", String(256), nullable=False),
        Column("arguments", Text, nullable=False),
        Column("status", Integer, nullable=False),
        Column("outcome", String(16), nullable=False),
        Column("detail", Text),
        Column("transition", String(32)),
    )
    metadata.create_all(connection, checkfirst=False)


def _ends(connection: Connection) -> None:
    """3: what was asked to end a run, and whether its counts are whole."""
    connection.execute(text("ALTER TABLE runs ADD COLUMN ending VARCHAR(16)"))
    connection.execute(text("ALTER TABLE runs ADD COLUMN incomplete INTEGER"))


#: Step i brings a database of version i to version i + 1; 0 is an empty one.
STEPS: tuple[Callable[[Connection], None], ...] = (_runs, _what_happened, _ends)

#: Columns by which a database of version 1 is recognised: that version did not write its number down.
FIRST_COLUMNS = frozenset(
    [
        "number",
        "detector",
        "menu",
        "menu_hash",
        "model",
        "working_point",
        "engine",
        "event_model",
        "models",
        "outcome",
        "created_s",
        "started_s",
        "stopped_s",
        "received",
        "accepted",
        "rejected",
        "error",
        "in_flight",
        "duplicates",
    ]
)
