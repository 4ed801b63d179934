"""Runs: every number that was ever given out, its configuration, its times and its final ledger.

Numbers are unique and increasing for as long as the database lives, whoever shares it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import LedgerCounts, ModelInfo, RunConfig
from hltfarm.service.registry.database import Database, DatabaseError, DuplicateError
from hltfarm.service.registry.records import LARGEST_RUN, Outcome, RunRecord
from hltfarm.service.registry.tables import Run
from hltfarm.service.registry.times import utc

_CONFIG = ("detector", "menu", "model", "working_point", "engine", "event_model")
_LEDGER = ("received", "accepted", "rejected", "error", "in_flight", "duplicates")
_ATTEMPTS = 32


def _record(row: Run) -> RunRecord:
    ledger = None if row.received is None else LedgerCounts(**{name: getattr(row, name) or 0 for name in _LEDGER})
    return RunRecord(
        farm=row.farm,
        config=RunConfig(run=row.number, **{name: getattr(row, name) for name in _CONFIG}),
        menu_hash=row.menu_hash,
        models=None if row.models is None else msgspec.json.decode(row.models, type=tuple[ModelInfo, ...]),
        outcome=Outcome(row.outcome),
        created=utc(row.created_s),
        started=utc(row.started_s),
        stopped=utc(row.stopped_s),
        ledger=ledger,
        ending=None if row.ending is None else Outcome(row.ending),
        incomplete=bool(row.incomplete),
    )


class Runs:
    """Run numbers and their history."""

    def __init__(self, database: Database, clock: Callable[[], float], farm: str) -> None:
        self._database, self._clock, self._farm = database, clock, farm

    def allocate(self, config: RunConfig, menu_hash: str, first: int = 1) -> RunConfig:
        """The configuration with the next run number (run 0), not below `first`, or with its own if that is above every earlier one."""
        for _ in range(_ATTEMPTS):  # another registry on the same database may be faster
            try:
                with self._database.writing() as session:
                    last = session.scalar(select(func.max(Run.number))) or 0
                    chosen = config.run or max(first, last + 1)
                    if not last < chosen <= LARGEST_RUN:
                        hint = f"leave it out to get {last + 1}" if last < LARGEST_RUN else "all numbers are used: begin another database"
                        raise ConfigError(f"run {chosen} cannot be used: numbers increase, the last was {last}; {hint}")
                    session.add(
                        Run(
                            number=chosen,
                            **{name: getattr(config, name) for name in _CONFIG},
                            menu_hash=menu_hash,
                            outcome=Outcome.CONFIGURED,
                            created_s=self._clock(),
                            farm=self._farm,
                        )
                    )
            except DuplicateError:
                continue
            return msgspec.structs.replace(config, run=chosen)
        raise DatabaseError("run registry: no run number could be reserved; too many farms configure on this database")

    def begin(self, number: int, at_s: float) -> None:
        """The run was started at a time (unix seconds)."""
        with self._database.writing() as session:
            row = self._row(session, number)
            row.started_s, row.outcome = at_s, Outcome.RUNNING

    def decided_by(self, number: int, models: Sequence[ModelInfo]) -> None:
        """The models that the run's workers loaded."""
        with self._database.writing() as session:
            self._row(session, number).models = msgspec.json.encode(models).decode()

    def ending(self, number: int, outcome: Outcome) -> None:
        """The end of the run was asked for; it is to be `outcome`."""
        with self._database.writing() as session:
            self._row(session, number).ending = outcome

    def mark_incomplete(self, number: int) -> None:
        """An ingest of the run was restarted, and what it had counted is gone."""
        with self._database.writing() as session:
            self._row(session, number).incomplete = 1

    def finish(self, number: int, outcome: Outcome, ledger: LedgerCounts | None, at_s: float) -> None:
        """The run ended at a time (unix seconds); `ledger` is its final accounting, None if nobody saw it."""
        with self._database.writing() as session:
            row = self._row(session, number)
            row.stopped_s, row.outcome = at_s, outcome
            if ledger is not None:
                for name in _LEDGER:
                    setattr(row, name, getattr(ledger, name))

    def get(self, number: int) -> RunRecord | None:
        """The record of one run, or None."""
        with self._database.reading() as session:
            row = session.get(Run, number)
            return None if row is None else _record(row)

    def page(self, limit: int, before: int | None = None) -> Sequence[RunRecord]:
        """Up to `limit` runs, the newest first; `before` continues below a run number."""
        query = select(Run).order_by(Run.number.desc()).limit(limit)
        if before is not None:
            query = query.where(Run.number < before)
        with self._database.reading() as session:
            return [_record(row) for row in session.scalars(query)]

    def open(self) -> Sequence[RunRecord]:
        """Runs of this farm that were started and have no end."""
        with self._database.reading() as session:
            return [_record(row) for row in session.scalars(select(Run).where(Run.outcome == Outcome.RUNNING, Run.farm == self._farm))]

    @staticmethod
    def _row(session: Session, number: int) -> Run:
        row = session.get(Run, number)
        if row is None:
            raise ConfigError(f"run {number} is not in the registry")
        return row
