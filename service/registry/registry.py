"""The registry of one farm: its parts behind one database."""

from __future__ import annotations

from collections.abc import Callable

from hltfarm.service.registry.counters import Counters
from hltfarm.service.registry.database import Database
from hltfarm.service.registry.journal import Journal
from hltfarm.service.registry.menus import Menus
from hltfarm.service.registry.models import Models
from hltfarm.service.registry.runs import Runs


class Registry:
    """Runs, counters, menus, models and the journal of a farm. `clock` gives unix seconds; `farm` is its name among those of the database.

    Calls block for the time of one small transaction; make them from one thread at a time. They raise `ConfigError` for what cannot be
    used and `DatabaseError` when the database fails.
    """

    def __init__(self, url: str, clock: Callable[[], float], farm: str = "") -> None:
        self.clock = clock
        self.database = database = Database(url)
        self.runs = Runs(database, clock, farm)
        self.counters = Counters(database, clock)
        self.menus = Menus(database, clock)
        self.models = Models(database, clock)
        self.journal = Journal(database, farm)

    def close(self) -> None:
        """Release the database connections."""
        self.database.close()
