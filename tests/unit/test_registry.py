"""The registry on SQLite: its contract, databases of earlier and later versions, backup, bad URLs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.service.registry import DatabaseError, Outcome, Registry, schema
from hltfarm.service.registry.database import copy_sqlite
from tests.unit import registry_contract
from tests.unit.registry_contract import ASKED, Open

#: `runs` as version 0.1.0 made it, without a version of its schema.
FIRST = """CREATE TABLE runs (
    number BIGINT NOT NULL, detector TEXT NOT NULL, menu TEXT NOT NULL, menu_hash VARCHAR(128) NOT NULL, model TEXT NOT NULL,
    working_point VARCHAR(16) NOT NULL, engine VARCHAR(16) NOT NULL, event_model TEXT NOT NULL, models TEXT, outcome VARCHAR(16) NOT NULL,
    created_s FLOAT NOT NULL, started_s FLOAT, stopped_s FLOAT, received BIGINT, accepted BIGINT, rejected BIGINT, error BIGINT,
    in_flight BIGINT, duplicates BIGINT, PRIMARY KEY (number))"""


def url(file: Path) -> str:
    return f"sqlite:///{file}"


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    opened: list[Registry] = []

    def open_one(farm: str = "") -> Registry:
        opened.append(Registry(url(tmp_path / "runs.db"), lambda: 1000.0, farm))
        return opened[-1]

    yield open_one
    for registry in opened:
        registry.close()


@pytest.mark.parametrize("check", registry_contract.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(check: object, open_: Open) -> None:
    check(open_)  # type: ignore[operator]


def test_a_database_in_memory_serves_as_well() -> None:
    registry = Registry("sqlite://", lambda: 0.0)
    assert [registry.runs.allocate(ASKED, "h").run for _ in range(3)] == [1, 2, 3]
    registry.close()


def test_a_database_of_the_first_version_is_migrated_and_a_copy_is_kept(tmp_path: Path, open_: Open) -> None:
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute(FIRST)
        row = (41, "phase1", "m", "hash", "", "", "", "", None, "stopped", 1.0, 2.0, 3.0, 9, 4, 5, 0, 0, 1)
        connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(row))})", row)
    registry = open_()
    record = registry.runs.get(41)
    assert record is not None
    assert record.ledger is not None
    assert (record.outcome, record.farm, record.ledger.received) == (Outcome.STOPPED, "", 9)
    assert registry.runs.allocate(ASKED, "hash").run == 42
    with closing(sqlite3.connect(tmp_path / "runs.db.schema-1")) as connection:
        assert connection.execute("SELECT number, received FROM runs").fetchall() == [(41, 9)]
    registry_contract.check_the_tables_are_those_of_the_steps(open_)


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Registry(url(tmp_path / "runs.db"), lambda: 0.0).close()
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute("UPDATE schema_version SET version = ?", (schema.VERSION + 1,))
    with pytest.raises(
        ConfigError, match=rf"written by a newer hltfarm: its schema is {schema.VERSION + 1}, this one knows {schema.VERSION}"
    ):
        Registry(url(tmp_path / "runs.db"), lambda: 0.0)


def test_a_database_that_no_version_wrote_is_refused_with_one_line(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute("CREATE TABLE runs (number BIGINT PRIMARY KEY, detector TEXT, menu TEXT)")
    with pytest.raises(ConfigError, match=r"is of another version \(it has no accepted, created_s, .*\); move it away"):
        Registry(url(tmp_path / "runs.db"), lambda: 0.0)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("nonsense", "'nonsense' is not a database URL"),
        ("oracel://x/y", "is not a database URL"),
        ("sqlite:////proc/nothing/runs.db", "cannot create the folder"),
    ],
)
def test_bad_urls_are_told(bad: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Registry(bad, lambda: 0.0)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DatabaseError, match="file is not a database"):
        Registry(url(tmp_path / "runs.db"), lambda: 0.0)


def test_a_password_is_not_shown() -> None:
    with pytest.raises((ConfigError, DatabaseError)) as caught:
        Registry("postgresql://ann:sesame@127.0.0.1:1/x", lambda: 0.0)
    assert "sesame" not in str(caught.value)


def test_a_copy_is_complete_while_the_registry_is_written(tmp_path: Path, open_: Open) -> None:
    registry = open_()
    registry.runs.allocate(ASKED, "hash")
    copy_sqlite(tmp_path / "runs.db", tmp_path / "copy.db")
    registry.runs.allocate(ASKED, "hash")
    copied = Registry(url(tmp_path / "copy.db"), lambda: 0.0)
    assert [record.config.run for record in copied.runs.page(10)] == [1]
    copied.close()
    copy_sqlite(tmp_path / "runs.db", tmp_path / "copy.db")  # replaces the older one
    copied = Registry(url(tmp_path / "copy.db"), lambda: 0.0)
    assert [record.config.run for record in copied.runs.page(10)] == [2, 1]
    copied.close()
    with pytest.raises(ConfigError, match="there is no such file"):
        copy_sqlite(tmp_path / "absent.db", tmp_path / "copy.db")
    with pytest.raises((ConfigError, DatabaseError), match="cannot be copied"):
        copy_sqlite(tmp_path / "runs.db", tmp_path / "no" / "copy.db")
