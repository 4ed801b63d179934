"""Ingests that were away or restarted are brought to where the others are: into the run, with its programmes, shadow and last commands."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.messages import Snapshot
from hltfarm.service.control.catching_up import Plan, Step, next_step, plan
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.newcomers import configure_newcomers
from hltfarm.service.control.strays import JOINABLE, commands_to_join

if TYPE_CHECKING:
    from hltfarm.service.control.farm import FarmControl

log = logging.getLogger(__name__)
#: Commands to one ingest in a row, each after a look: more than any plan needs.
_MOST_STEPS = 16


class Returning:
    """What the monitor of a farm does for such ingests at each look. Use it from the farm's event loop."""

    def __init__(self, farm: FarmControl) -> None:
        self._farm = farm
        self._known: Plan | None = None  # of the latest look that showed the run: all its ingests may be restarted at once

    async def see_to(self, view: FarmView) -> None:
        """Tell ingests what they missed; what cannot be told is tried again at the next look."""
        wanted = self._plan(view)
        if wanted is not None and any(self._step(snapshot, wanted) for snapshot in self._behind(view).values()):
            await self._catch_up()
        if self._farm.orders.reminders(view):
            await self._remind()
        await configure_newcomers(self._farm, view)

    def _plan(self, view: FarmView) -> Plan | None:
        """What the ingests are to have; None where another control configured the run, or it was ended meanwhile."""
        farm, config = self._farm, self._farm.config
        run = farm.open_run
        if config is None or config.run != run or not farm.goes_on or view.snapshot is None or view.snapshot.run not in (run, None):
            return None
        known = self._known if self._known is not None and self._known.run == run else None
        self._known = plan(view, config, farm.shadow, known)
        return self._known

    def _step(self, snapshot: Snapshot, wanted: Plan) -> Step | None:
        return next_step(snapshot, wanted, exchanging=self._farm.exchanging)

    def _behind(self, view: FarmView) -> dict[str, Snapshot]:
        """Ingests that may have missed something: those of a run that takes events, and strays."""
        lost = self._farm.strays.of(view)
        present = {ingest.endpoint: ingest.snapshot for ingest in view.ingests if ingest.snapshot is not None}
        return {endpoint: part for endpoint, part in present.items() if endpoint in lost or part.state in JOINABLE}

    async def _catch_up(self) -> None:
        farm = self._farm
        async with farm.commands:
            view = await farm.look()
            if self._plan(view) is None:
                return
            farm.note_replaced(view)  # what they had counted is gone, whether they join or not
            commands = commands_to_join(view, farm.orders.op if farm.orders.run == farm.open_run else None)
            if farm.strays.of(view) and "pause" in commands:
                farm.orders.told("pause", farm.open_run)  # one that joins and does not hear the pause is reminded of it
            for endpoint in self._behind(view):
                try:
                    await self._bring(endpoint, commands)
                except HltfarmError as error:
                    log.warning("ingest %s cannot be told yet what decides: %s", endpoint, error)

    async def _bring(self, endpoint: str, commands: Sequence[str]) -> None:
        """Tell one ingest all that it can be told now; `commands`: what brings a stray to where the others are."""
        farm = self._farm
        for _ in range(_MOST_STEPS):
            view = await farm.look()
            snapshot, wanted = self._behind(view).get(endpoint), self._plan(view)
            if snapshot is None or wanted is None:
                return
            step = self._step(snapshot, wanted)
            if step is None:
                if snapshot.pending is not None and snapshot.pending.error is not None and not farm.exchanging:
                    log.warning("ingest %s cannot build what the others decide with: %s", endpoint, snapshot.pending.error)
                return
            if step.op == "start":
                for op in commands[1:]:
                    await farm.tell(endpoint, op)
                log.warning("ingest %s came back and joined run %s", endpoint, wanted.run)
            elif step.op == "configure":
                await farm.tell(endpoint, step.op, step.config)
            else:
                await farm.change_programme(endpoint, step.op, step.config, lumi=step.lumi, fraction=step.fraction)
                log.warning("ingest %s was told %s", endpoint, step.op, extra={"lumisection": step.lumi})

    async def _remind(self) -> None:
        """Repeat commands to ingests that were away when they were given."""
        farm = self._farm
        async with farm.commands:
            for reminder in farm.orders.reminders(await farm.look()):
                try:
                    await farm.tell(reminder.endpoint, reminder.op, worker=reminder.worker, reason=reminder.reason)
                except HltfarmError as error:
                    log.warning("ingest %s did not hear %s, and cannot be told yet: %s", reminder.endpoint, reminder.op, error)
                else:
                    log.warning("ingest %s did not hear %s, and was told again", reminder.endpoint, reminder.op)
