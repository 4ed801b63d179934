"""Models that were uploaded: what is known of them and where their packages lie. Their files are `service/model_store.py`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import delete, or_, select

from hltfarm.service.registry.database import Database
from hltfarm.service.registry.records import ModelRecord
from hltfarm.service.registry.tables import StoredModel
from hltfarm.service.registry.times import utc
from hltfarm.workers.models.manifest import Manifest


def _record(row: StoredModel) -> ModelRecord:
    return ModelRecord(
        name=row.name,
        version=row.version,
        hash=row.hash,
        kind=row.kind,
        target=row.target,
        folder=row.folder,
        size_bytes=row.size_bytes,
        created=utc(row.created_s),
        who=row.who,
    )


class Models:
    """Models by the hash of what they compute and decide."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def put(self, described: Manifest, folder: Path, size_bytes: int, who: str) -> tuple[ModelRecord, bool]:
        """Enter a model; the record, and whether it is new. One that is known keeps its entry, and gets the new folder."""
        with self._database.writing() as session:
            row = session.get(StoredModel, described.hash)
            new = row is None
            if row is None:
                row = StoredModel(
                    hash=described.hash,
                    name=described.name,
                    version=described.version,
                    kind=described.kind,
                    target=described.target,
                    folder=str(folder),
                    size_bytes=size_bytes,
                    created_s=self._clock(),
                    who=who,
                )
                session.add(row)
            elif row.folder != str(folder):
                row.folder = str(folder)
            return _record(row), new

    def find(self, reference: str) -> Sequence[ModelRecord]:
        """Models of a hash, a name, or `name@version`; the latest first."""
        name, at, version = reference.partition("@")
        with self._database.reading() as session:
            query = select(StoredModel).where(or_(StoredModel.hash == reference, StoredModel.name == name))
            rows = session.scalars(query.order_by(StoredModel.version.desc(), StoredModel.created_s.desc(), StoredModel.hash)).all()
            exact = [row for row in rows if row.hash == reference]
            return [_record(row) for row in exact or rows if exact or not at or str(row.version) == version]

    def all(self) -> Sequence[ModelRecord]:
        """Every model, by name; of one name the latest first."""
        with self._database.reading() as session:
            query = select(StoredModel).order_by(
                StoredModel.name, StoredModel.version.desc(), StoredModel.created_s.desc(), StoredModel.hash
            )
            return [_record(row) for row in session.scalars(query)]

    def remove(self, model_hash: str) -> None:
        """Forget a model."""
        with self._database.writing() as session:
            session.execute(delete(StoredModel).where(StoredModel.hash == model_hash))
