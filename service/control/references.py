"""What can be wrong with a menu, and with the name of one or of a model."""

from __future__ import annotations

from collections.abc import Sequence

from hltfarm.proto.errors import ConfigError, HltfarmError
from hltfarm.workers.menu.faults import Fault


class MenuError(ConfigError):
    """A menu that cannot be used, with everything that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0].at('menu')}{more}")
        self.faults = tuple(faults)


class UnknownError(HltfarmError):
    """A name or hash that stands for nothing here."""
