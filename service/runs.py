"""The run registry: every run number that was ever given out, its configuration, its times and its final ledger.

Numbers are unique and increasing for as long as the database lives. SQLite by default; any SQLAlchemy URL works.
Calls block for the time of one small transaction; make them from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec
from sqlalchemy import BigInteger, Engine, String, Text, create_engine, event, func, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.proto.messages import LedgerCounts, ModelInfo, RunConfig

LARGEST_RUN = 2**32 - 1  # the wire format gives a run number 32 bits
_CONFIG = ("detector", "menu", "model", "working_point", "engine", "event_model")
_LEDGER = ("received", "accepted", "rejected", "error", "in_flight", "duplicates")


class Outcome(StrEnum):
    """What became of a run."""

    CONFIGURED = "configured"  # number given out, not (yet) started
    RUNNING = "running"
    STOPPED = "stopped"  # ended by a stop, ledger closed
    RESET = "reset"  # ended by a reset
    INTERRUPTED = "interrupted"  # its ingest or its control went away


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run. Times are UTC. `ledger` is the last one known, None before the run ended (or if nobody saw its end).

    `config`: what was asked for; `models`: what the workers loaded, None until one of them said so.
    """

    config: RunConfig
    menu_hash: str
    models: tuple[ModelInfo, ...] | None
    outcome: Outcome
    created: datetime
    started: datetime | None
    stopped: datetime | None
    ledger: LedgerCounts | None


class _Base(DeclarativeBase):
    pass


class _Run(_Base):
    __tablename__ = "runs"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    detector: Mapped[str] = mapped_column(Text)
    menu: Mapped[str] = mapped_column(Text)
    menu_hash: Mapped[str] = mapped_column(String(128))
    model: Mapped[str] = mapped_column(Text)
    working_point: Mapped[str] = mapped_column(String(16))
    engine: Mapped[str] = mapped_column(String(16))
    event_model: Mapped[str] = mapped_column(Text)
    models: Mapped[str | None] = mapped_column(Text)  # JSON
    outcome: Mapped[str] = mapped_column(String(16))
    created_s: Mapped[float]  # unix seconds, so that no database touches the time zone
    started_s: Mapped[float | None]
    stopped_s: Mapped[float | None]
    received: Mapped[int | None] = mapped_column(BigInteger)
    accepted: Mapped[int | None] = mapped_column(BigInteger)
    rejected: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[int | None] = mapped_column(BigInteger)
    in_flight: Mapped[int | None] = mapped_column(BigInteger)
    duplicates: Mapped[int | None] = mapped_column(BigInteger)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _record(row: _Run) -> RunRecord:
    ledger = None if row.received is None else LedgerCounts(**{name: getattr(row, name) or 0 for name in _LEDGER})
    return RunRecord(
        config=RunConfig(run=row.number, **{name: getattr(row, name) for name in _CONFIG}),
        menu_hash=row.menu_hash,
        models=None if row.models is None else msgspec.json.decode(row.models, type=tuple[ModelInfo, ...]),
        outcome=Outcome(row.outcome),
        created=datetime.fromtimestamp(row.created_s, UTC),
        started=_time(row.started_s),
        stopped=_time(row.stopped_s),
        ledger=ledger,
    )


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        in_memory = sqlite and parsed.database in (None, "", ":memory:")
        if sqlite and parsed.database and not in_memory:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        # A database in memory lives in one connection, which every thread then has to share.
        shared = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}} if in_memory else {}
        engine = create_engine(url, **shared)
    except ArgumentError as error:
        raise ConfigError(f"run registry: {url!r} is not a database URL such as sqlite:///runs.db") from error
    except OSError as error:
        raise ConfigError(f"run registry: cannot create the folder of {url!r}: {error.strerror}") from error
    if sqlite:

        @event.listens_for(engine, "connect")
        def _durable(connection, _record):  # type: ignore[no-untyped-def]
            with closing(connection.cursor()) as cursor:
                cursor.execute("PRAGMA journal_mode=WAL")
                cursor.execute("PRAGMA busy_timeout=5000")

    return engine


class RunRegistry:
    """Run numbers and their history behind a SQLAlchemy URL. `clock` gives unix seconds.

    Raises `ConfigError` for a URL or number that cannot be used, `BackendError` when the database fails.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._database = _engine(url)
        try:
            _Base.metadata.create_all(self._database)
            columns = {column["name"] for column in inspect(self._database).get_columns(_Run.__tablename__)}
        except SQLAlchemyError as error:
            raise BackendError(f"run registry: cannot open {url!r}: {error}") from error
        if missing := [column.name for column in _Run.__table__.columns if column.name not in columns]:
            raise ConfigError(f"run registry {url!r} is of another version (it has no {', '.join(missing)}); move it away")

    def close(self) -> None:
        """Release the database connections."""
        self._database.dispose()

    def allocate(self, config: RunConfig, menu_hash: str) -> RunConfig:
        """The configuration with the next run number (run 0), or with its own if that is above every earlier one."""
        for _ in range(8):  # another registry on the same database may be faster
            with Session(self._database) as session:
                last = session.scalar(select(func.max(_Run.number))) or 0
                chosen = config.run or last + 1
                if not last < chosen <= LARGEST_RUN:
                    raise ConfigError(f"run {chosen} cannot be used: numbers increase, the last was {last}; leave it out to get {last + 1}")
                session.add(
                    _Run(
                        number=chosen,
                        **{name: getattr(config, name) for name in _CONFIG},
                        menu_hash=menu_hash,
                        outcome=Outcome.CONFIGURED,
                        created_s=self._clock(),
                    )
                )
                try:
                    session.commit()
                except IntegrityError:
                    continue
            return msgspec.structs.replace(config, run=chosen)
        raise BackendError("run registry: no run number could be reserved; is another farm using the same database?")

    def begin(self, number: int) -> None:
        """The run was started."""
        with Session(self._database) as session, session.begin():
            row = self._row(session, number)
            row.started_s, row.outcome = self._clock(), Outcome.RUNNING

    def decided_by(self, number: int, models: Sequence[ModelInfo]) -> None:
        """The models that the run's workers loaded."""
        with Session(self._database) as session, session.begin():
            self._row(session, number).models = msgspec.json.encode(models).decode()

    def finish(self, number: int, outcome: Outcome, ledger: LedgerCounts | None) -> None:
        """The run ended; `ledger` is its final accounting, None if nobody saw it."""
        with Session(self._database) as session, session.begin():
            row = self._row(session, number)
            row.stopped_s, row.outcome = self._clock(), outcome
            if ledger is not None:
                for name in _LEDGER:
                    setattr(row, name, getattr(ledger, name))

    def get(self, number: int) -> RunRecord | None:
        """The record of one run, or None."""
        with Session(self._database) as session:
            row = session.get(_Run, number)
            return None if row is None else _record(row)

    def page(self, limit: int, before: int | None = None) -> Sequence[RunRecord]:
        """Up to `limit` runs, the newest first; `before` continues below a run number."""
        query = select(_Run).order_by(_Run.number.desc()).limit(limit)
        if before is not None:
            query = query.where(_Run.number < before)
        with Session(self._database) as session:
            return [_record(row) for row in session.scalars(query)]

    def open_runs(self) -> Sequence[RunRecord]:
        """Runs that were started and have no end."""
        with Session(self._database) as session:
            return [_record(row) for row in session.scalars(select(_Run).where(_Run.outcome == Outcome.RUNNING))]

    @staticmethod
    def _row(session: Session, number: int) -> _Run:
        row = session.get(_Run, number)
        if row is None:
            raise ConfigError(f"run {number} is not in the registry")
        return row
