"""Runs that begin by themselves: the farm is configured and started whenever its ingests are found without a run."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from hltfarm.proto.errors import HltfarmError, StateError
from hltfarm.proto.messages import RunState
from hltfarm.service.control.link import FarmView, UnreachableError
from hltfarm.service.control.newcomers import configure_newcomers
from hltfarm.service.registry import DatabaseError

if TYPE_CHECKING:
    from hltfarm.service.control.farm import FarmControl

log = logging.getLogger(__name__)


class Autostart:
    """What the monitor of a farm does about that at each look. Use it from the farm's event loop.

    A run that an operator stopped is followed by one that is configured and waits for `start`; after a reset nothing begins by itself.
    """

    def __init__(self, farm: FarmControl, enabled: bool) -> None:
        self._farm = farm
        self._enabled = enabled
        self._stopped = False  # by an operator, and not started again

    def told(self, op: str) -> None:
        """An operator gave a command, and it was carried out."""
        if op in ("start", "stop"):
            self._stopped = op == "stop"
        elif op == "reset":
            self._enabled = False

    async def see_to(self, view: FarmView) -> None:
        """Configure and start a run, unless the ingests have one, or lost one that goes on; what fails is tried again at the next look."""
        farm = self._farm
        if not self._enabled or view.state is not RunState.HALTED or (farm.goes_on and farm.strays.of(view)):
            return
        known = farm.config  # what an operator configured outlives the ingest
        try:
            await farm.configure(farm.settings.defaults if known is None else msgspec.structs.replace(known, run=0))
            if not self._stopped and await self._configured():
                await farm.command("start")
        except (UnreachableError, StateError, DatabaseError) as error:
            log.warning("cannot start a run yet: %s", error)
        except HltfarmError as error:
            self._enabled = False
            log.error("automatic start is off: %s", error)

    async def _configured(self) -> bool:
        """Wait until all ingests are, those among them that come meanwhile; False when that takes too long."""
        farm = self._farm
        try:
            async with asyncio.timeout(farm.settings.transition_timeout_s):
                while (view := await farm.look()).state is not RunState.CONFIGURED:
                    await configure_newcomers(farm, view)
                    await farm.next_look(farm.settings.poll_s / 5)
        except TimeoutError:
            return False
        return True
