"""What was counted in a run, and which menu and models decided its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import ModelInfo
from hltfarm.service.registry.database import Database
from hltfarm.service.registry.records import Activation, RunCounts
from hltfarm.service.registry.tables import Activated, Counter, Run
from hltfarm.service.registry.times import utc

Marks = dict[str, dict[str, dict[str, int]]]


class Counters:
    """Counters and activations of runs. Both are written as a whole: the last writer of a run wins."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def put(self, run: int, counts: RunCounts, activations: Sequence[Activation]) -> None:
        """The present counters and activations of a run, in one transaction."""
        rows: list[dict[str, Any]] = [
            {"run": run, "kind": kind, "name": name, "value": value}
            for kind, values in counts.values.items()
            for name, value in values.items()
        ]
        with self._database.writing() as session:
            owner = session.get(Run, run)
            if owner is None:
                raise ConfigError(f"run {run} is not in the registry")
            owner.counted_s, owner.marks = self._clock(), msgspec.json.encode(counts.marks).decode()
            session.execute(delete(Counter).where(Counter.run == run))
            if rows:
                session.execute(insert(Counter), rows)
            session.execute(delete(Activated).where(Activated.run == run))
            session.add_all(
                Activated(
                    run=run,
                    position=position,
                    first_lumi=item.first_lumi,
                    menu=item.menu,
                    menu_hash=item.menu_hash,
                    models=msgspec.json.encode(item.models).decode(),
                    accepted=item.accepted,
                    rejected=item.rejected,
                )
                for position, item in enumerate(activations)
            )

    def get(self, run: int) -> RunCounts:
        """Counters of a run; empty if none were written."""
        with self._database.reading() as session:
            owner = session.get(Run, run)
            if owner is None or owner.counted_s is None:
                return RunCounts()
            values: dict[str, dict[str, int]] = {}
            for row in session.scalars(select(Counter).where(Counter.run == run).order_by(Counter.kind, Counter.name)):
                values.setdefault(row.kind, {})[row.name] = row.value
            marks = {} if owner.marks is None else msgspec.json.decode(owner.marks, type=Marks)
            return RunCounts(values=values, marks=marks, counted=utc(owner.counted_s))

    def activations(self, run: int) -> list[Activation]:
        """What decided a run, in order of lumisections."""
        with self._database.reading() as session:
            return [
                Activation(
                    first_lumi=row.first_lumi,
                    menu=row.menu,
                    menu_hash=row.menu_hash,
                    models=msgspec.json.decode(row.models, type=tuple[ModelInfo, ...]),
                    accepted=row.accepted,
                    rejected=row.rejected,
                )
                for row in session.scalars(select(Activated).where(Activated.run == run).order_by(Activated.position))
            ]
