"""The journal: transitions of the farm, and who gave which command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC

from sqlalchemy import select

from hltfarm.service.registry.database import Database
from hltfarm.service.registry.records import AuditEntry, TransitionRecord
from hltfarm.service.registry.tables import Audited, StoredTransition
from hltfarm.service.registry.times import utc


def _transition(row: StoredTransition) -> TransitionRecord:
    return TransitionRecord(
        id=row.id,
        run=row.run,
        command=row.command,
        progress=row.progress,
        began=utc(row.began_s),
        ended=utc(row.ended_s),
        error=row.error,
    )


def _audit(row: Audited) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        time=utc(row.time_s),
        who=row.who,
        address=row.address,
        command=row.command,
        arguments=json.loads(row.arguments),
        status=row.status,
        outcome=row.outcome,
        detail=row.detail,
        transition=row.transition,
    )


def storable(text: str) -> str:
    """The text without what some database does not take: NUL, and halves of characters."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


class Journal:
    """Transitions and audit of one farm."""

    def __init__(self, database: Database, farm: str) -> None:
        self._database, self._farm = database, farm

    def transition(self, record: TransitionRecord) -> None:
        """Enter a transition, or what became of it."""
        with self._database.writing() as session:
            row = session.get(StoredTransition, record.id)
            if row is None:
                row = StoredTransition(
                    id=record.id, farm=self._farm, run=record.run, command=record.command, began_s=record.began.timestamp()
                )
                session.add(row)
            row.progress, row.error = record.progress, record.error
            row.ended_s = None if record.ended is None else record.ended.timestamp()

    def transition_of(self, transition_id: str) -> TransitionRecord | None:
        """A transition by its id, None if it is unknown."""
        with self._database.reading() as session:
            row = session.get(StoredTransition, transition_id)
            return None if row is None else _transition(row)

    def abandon(self, reason: str, at_s: float) -> None:
        """Transitions that a control of this farm left pending will not be followed any more."""
        with self._database.writing() as session:
            query = select(StoredTransition).where(StoredTransition.progress == "pending", StoredTransition.farm == self._farm)
            for row in session.scalars(query):
                row.progress, row.error, row.ended_s = "failed", reason, at_s

    def audit(self, entry: AuditEntry) -> None:
        """Enter a command."""
        with self._database.writing() as session:
            session.add(
                Audited(
                    time_s=entry.time.astimezone(UTC).timestamp(),
                    farm=self._farm,
                    who=storable(entry.who)[:128],
                    address=storable(entry.address)[:128],
                    command=storable(entry.command)[:256],
                    arguments=json.dumps(entry.arguments),
                    status=entry.status,
                    outcome=entry.outcome,
                    detail=None if entry.detail is None else storable(entry.detail),
                    transition=entry.transition,
                )
            )

    def audited(self, limit: int, before: int | None = None) -> Sequence[AuditEntry]:
        """Up to `limit` entries of this farm, the newest first; `before` continues below an id."""
        query = select(Audited).where(Audited.farm == self._farm).order_by(Audited.id.desc()).limit(limit)
        if before is not None:
            query = query.where(Audited.id < before)
        with self._database.reading() as session:
            return [_audit(row) for row in session.scalars(query)]
