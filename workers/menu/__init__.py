"""The trigger menu: named paths of cuts on event quantities, with prescales and output streams, decided on the device."""

from hltfarm.workers.menu.menu import DEFAULT_MENU, QUANTITIES, Cut, Menu, Path
from hltfarm.workers.menu.stage import STAGE

__all__ = ["DEFAULT_MENU", "QUANTITIES", "STAGE", "Cut", "Menu", "Path"]
