"""The store of menus: texts, by their name and the hash of what they decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import delete, or_, select

from hltfarm.service.registry.database import Database
from hltfarm.service.registry.records import MenuRecord
from hltfarm.service.registry.tables import StoredMenu
from hltfarm.service.registry.times import utc


def _record(row: StoredMenu) -> MenuRecord:
    return MenuRecord(name=row.name, hash=row.hash, text=row.text, created=utc(row.created_s), changed=utc(row.changed_s), who=row.who)


class Menus:
    """Menus that were uploaded. Two texts of one name and one hash differ in words only: the later one replaces the earlier."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database, self._clock = database, clock

    def put(self, name: str, menu_hash: str, text: str, who: str) -> tuple[MenuRecord, bool]:
        """Store a menu; the record, and whether it is new."""
        with self._database.writing() as session:
            row = session.get(StoredMenu, (name, menu_hash))
            new, now = row is None, self._clock()
            if row is None:
                row = StoredMenu(name=name, hash=menu_hash, text=text, created_s=now, changed_s=now, who=who)
                session.add(row)
            elif row.text != text:
                row.text, row.changed_s, row.who = text, now, who
            return _record(row), new

    def find(self, reference: str) -> Sequence[MenuRecord]:
        """Menus of a hash, or, if it is none, of a name; those that changed last come first."""
        with self._database.reading() as session:
            query = select(StoredMenu).where(or_(StoredMenu.hash == reference, StoredMenu.name == reference))
            rows = session.scalars(query.order_by(StoredMenu.changed_s.desc(), StoredMenu.hash)).all()
            by_hash = [row for row in rows if row.hash == reference]
            return [_record(row) for row in by_hash or rows]

    def all(self) -> Sequence[MenuRecord]:
        """Every menu, by name; of one name the one that changed last comes first."""
        with self._database.reading() as session:
            query = select(StoredMenu).order_by(StoredMenu.name, StoredMenu.changed_s.desc(), StoredMenu.hash)
            return [_record(row) for row in session.scalars(query)]

    def remove(self, menu_hash: str) -> None:
        """Forget the menus of a hash, under whatever name."""
        with self._database.writing() as session:
            session.execute(delete(StoredMenu).where(StoredMenu.hash == menu_hash))
