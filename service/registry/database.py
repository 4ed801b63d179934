"""The database behind a SQLAlchemy URL: its engine, its transactions, its backup."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.service.registry import schema

log = logging.getLogger(__name__)
BUSY_MS = 5000  # how long a transaction of SQLite waits for another one
CONNECT_S = 5  # how long PostgreSQL has to answer
#: Longest statement of PostgreSQL, and wait for a lock that somebody else holds (VACUUM FULL, a forgotten session); a dead connection is
#: given up after about the same time.
STATEMENT_MS, LOCK_MS = 6000, 5000
_KEEPALIVE = {"keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 4, "tcp_user_timeout": STATEMENT_MS}


class DatabaseError(BackendError):
    """The database failed; it may be back later."""

    retryable = True


class RejectedError(BackendError):
    """The database answers, and does not take this entry: to try again will not help."""


class DuplicateError(RejectedError):
    """Another transaction entered the same key first."""


def parsed(url: str) -> URL:
    """The URL, with the driver that hltfarm uses. Raises ConfigError if it is none."""
    try:
        found = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"run registry: {url!r} is not a database URL such as sqlite:///runs.db") from error
    return found.set(drivername="postgresql+psycopg") if found.drivername == "postgresql" else found


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite database; a path may have characters that mean something in a URL."""
    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def file_of(url: URL) -> Path | None:
    """The file of an SQLite database, None for any other."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def _engine(url: URL) -> Engine:
    sqlite, file = url.get_backend_name() == "sqlite", file_of(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if sqlite and file is None:
        # A database in memory lives in one connection, which every thread then has to share.
        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    elif url.drivername == "postgresql+psycopg":
        options["connect_args"] = {"connect_timeout": CONNECT_S, **_KEEPALIVE}
    shown = url.render_as_string()
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, **options)
    except OSError as error:
        raise ConfigError(f"run registry: cannot create the folder of {shown!r}: {error.strerror}") from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"run registry: {shown!r} is not a database URL such as sqlite:///runs.db") from error
    except ModuleNotFoundError as error:
        hint = "; install hltfarm[postgres]" if error.name == "psycopg" else ""
        raise ConfigError(f"run registry: {shown!r} needs the module {error.name!r}, which is not installed{hint}") from error
    if sqlite:
        _configure_sqlite(engine)
    elif url.drivername == "postgresql+psycopg":
        _limit_postgres(engine)
    return engine


def _limit_postgres(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _bounded(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {STATEMENT_MS}")
            cursor.execute(f"SET lock_timeout = {LOCK_MS}")
        connection.commit()


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _durable(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own; `_begin` does
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
            cursor.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Who is going to write says so at once: to find out half way that somebody else did cannot be waited for.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


class Database:
    """Transactions on one database, at the present schema. Methods may be called from any thread.

    Raises `ConfigError` for a URL or a schema that cannot be used, `DatabaseError` when the database fails, `RejectedError` when it does
    not take an entry.
    """

    def __init__(self, url: str) -> None:
        self.url = parsed(url)
        self.name = self.url.render_as_string()  # without a password
        self._engine = _engine(self.url)
        self._writes = self._engine.execution_options(writes=True)
        try:
            self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    def _migrate(self) -> None:
        try:
            file = file_of(self.url)
            if file is not None and file.exists():
                with self._engine.connect() as connection:
                    version = schema.present(connection)
                if 0 < version < schema.VERSION:
                    copy_sqlite(file, file.with_name(f"{file.name}.schema-{version}"))
            with self._writes.begin() as connection:
                before, after = schema.migrate(connection)
        except ConfigError as error:
            raise ConfigError(f"run registry {self.name!r} {error}") from None
        except SQLAlchemyError as error:
            raise DatabaseError(f"run registry: cannot open {self.name!r}: {reason(error)}") from error
        if 0 < before < after:
            log.warning("the run registry was brought from schema %d to %d", before, after, extra={"database": self.name})

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with self._reported(), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction, committed at the end of the block, undone by an exception."""
        with self._reported(), Session(self._writes) as session, session.begin():
            yield session

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise DuplicateError(f"run registry {self.name!r}: {reason(error)}") from error
        except (OperationalError, InterfaceError, PoolTimeoutError, DisconnectionError) as error:
            raise DatabaseError(f"run registry {self.name!r}: {reason(error)}") from error
        except SQLAlchemyError as error:
            raise RejectedError(f"run registry {self.name!r}: {reason(error)}") from error

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()


def reason(error: SQLAlchemyError) -> str:
    """What the driver says, on one line."""
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:500]


def copy_sqlite(source: Path, to: Path) -> None:
    """A consistent copy of an SQLite database, whose farm may run meanwhile. Raises ConfigError or DatabaseError.

    `to` appears complete or not at all, and replaces what is there.
    """
    if not source.is_file():
        raise ConfigError(f"run registry {source}: there is no such file")
    work = to.with_name(f".{to.name}.new")
    try:
        work.unlink(missing_ok=True)
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(work)) as copy,
        ):
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file
        work.replace(to)
    except sqlite3.Error as error:
        raise DatabaseError(f"run registry {source} cannot be copied to {to}: {error}") from error
    except OSError as error:
        raise ConfigError(f"run registry {source} cannot be copied to {to}: {error.strerror}") from error
    finally:
        work.unlink(missing_ok=True)
