"""Menus and models that are exchanged in an open run: prepared by all workers first, then active from a lumisection on; and shadows.

    asked ──> prepare: every ingest lets its workers build it ── one cannot: discarded, nothing has changed
                         └── all have ──> activate from lumisection N ──> all say so; the configuration of later runs, too
                                              └── N began somewhere before all were told: taken back, or a later N for all

Each ingest decides by the lumisection of an event which menu and models it gets, so nothing stops and nothing mixes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TypeAlias

from hltfarm.proto.errors import BackendError, ConfigError, HltfarmError, StateError
from hltfarm.proto.messages import RunConfig, Snapshot
from hltfarm.service.control.catching_up import ShadowOrder
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.link import FarmView, UnreachableError
from hltfarm.service.control.merge import leaving
from hltfarm.service.control.programmes import before, in_run
from hltfarm.service.control.transitions import Progress, Transition
from hltfarm.service.runcontrol import OPEN, legal
from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu
from hltfarm.workers.run_models import check

log = logging.getLogger(__name__)
#: A lumisection that begins in an ingest before it hears of the programme makes it a later one for all; so often.
_ATTEMPTS = 5
#: Ingests of a run with what they say.
Parts: TypeAlias = list[tuple[str, Snapshot]]


class Exchange:
    """The exchange of one farm; one at a time. Use it from the farm's event loop, `close` it there before the farm."""

    def __init__(self, farm: FarmControl) -> None:
        self._farm = farm
        self._task: asyncio.Task[None] | None = None

    async def present(self) -> tuple[FarmView, RunConfig]:
        """The farm, and what decides its open run at last. Raises StateError without one, UnreachableError if no ingest answers."""
        view = await self._farm.look()
        if view.snapshot is None:
            raise UnreachableError("; ".join(view.problems) or "no ingest answers")
        config = self._farm.config
        if view.state not in OPEN or config is None or view.snapshot.run != config.run:
            raise StateError(f"menu and models are exchanged in an open run; the farm is {view.state}", legal(view.state))
        return view, config

    async def activate(
        self, config: RunConfig, lumi: int | None, *, instead: RunConfig, partial: bool = False, command: str = "activate"
    ) -> Transition:
        """Let `config` decide from lumisection `lumi` of the open run on, None: from the next one. The transition to follow.

        `instead`: what is to be replaced; `config` has from it what was not asked for. Every ingest of the farm has to take part
        (`partial`: those that are there). Raises ConfigError for what no worker could build, for what decides already, and for a
        lumisection that has begun, StateError where something else took the place of `instead` meanwhile.
        """
        Menu.parse(config.menu or DEFAULT_MENU)
        check(config, self._farm.settings.models)
        async with self._farm.commands:
            view, present = await self.present()
            if self._farm.exchanging or (self._task is not None and not self._task.done()):
                raise StateError("another exchange is on its way; wait for its transition", ())
            if present != instead:
                raise StateError("another exchange has ended meanwhile; look at what decides now, and ask again", ())
            if (config.run, config.detector) != (present.run, present.detector):
                raise ConfigError(f"menu and models can change within run {present.run}, its detector and number cannot")
            if config == present:
                raise ConfigError(
                    f"run {present.run} decides with this menu and these models already, or is to from a later lumisection on"
                )
            assert view.snapshot is not None
            _not_begun(lumi, view.snapshot.lumi)
            transition = self._farm.transitions.begin(command, config.run, self._farm.now, driven=True)
            self._farm.exchanging = True
            self._task = asyncio.create_task(self._drive(transition, config, lumi, partial), name=command)
        log.info("%s of run %d", command, config.run, extra={"model": config.model, "lumisection": lumi, "transition": transition.id})
        return transition

    async def rollback(self, lumi: int | None, *, partial: bool = False) -> Transition:
        """Back to what decided before the latest programme. Raises StateError if nothing did."""
        view, present = await self.present()
        earlier = before(view)
        if earlier is None:
            raise StateError(f"run {present.run} was decided by one menu with its models only; there is nothing to go back to", ())
        return await self.activate(earlier, lumi, instead=present, partial=partial, command="rollback")

    # ---------------------------------------------------------------- shadows

    async def cast(self, config: RunConfig, fraction: float) -> None:
        """Let `config` decide a fraction of the events beside what is active, in all ingests of the run, also those that are away now.

        Raises ConfigError for what no worker could build.
        """
        Menu.parse(config.menu or DEFAULT_MENU)
        check(config, self._farm.settings.models)
        await self._shadow(ShadowOrder(config, fraction))

    async def end_shadow(self) -> None:
        """No shadow any more."""
        await self._shadow(None)

    async def _shadow(self, order: ShadowOrder | None) -> None:
        farm = self._farm
        async with farm.commands:
            view, present = await self.present()
            if order is not None and (order.config.run, order.config.detector) != (present.run, present.detector):
                raise ConfigError(f"a shadow decides events of run {present.run} with its detector; its detector and number cannot differ")
            before, farm.shadow = farm.shadow, order  # ingests that are away are told when they are back
            for endpoint, _ in in_run(view, present.run):
                try:
                    if order is None:
                        await farm.change_programme(endpoint, "shadow_end")
                    else:
                        await farm.change_programme(endpoint, "shadow", order.config, fraction=order.fraction)
                except UnreachableError as error:
                    log.warning("%s; it is told about the shadow when it is back", error)
                except HltfarmError:
                    farm.shadow = before
                    raise
            log.info("shadow of run %d: %s", present.run, "ended" if order is None else f"{order.fraction:g} of the events")
            await farm.look()

    # ---------------------------------------------------------------- the way of an exchange

    async def _drive(self, transition: Transition, config: RunConfig, lumi: int | None, partial: bool) -> None:
        farm, first, error = self._farm, None, None
        try:
            try:
                while first is None:
                    await self._prepare(transition, config, partial)
                    first = await self._activate(transition, config, lumi, partial)
            finally:
                farm.exchanging = False
            await self._confirm(transition, config, first, partial)
        except HltfarmError as failure:
            error = str(failure)
        farm.transitions.finish(transition.id, farm.now, error, first)
        log.info("%s of run %d: %s", transition.command, config.run, error or "done", extra={"lumisection": first})
        await farm.look()  # enters the end of the transition

    async def _open(self, transition: Transition, run: int) -> Parts:
        """The ingests of the run, as long as it is open and nobody gave the exchange up."""
        view = await self._farm.look()
        known = self._farm.transitions.get(transition.id)
        parts = in_run(view, run)
        if known is not None and known.progress is not Progress.PENDING:
            raise StateError(known.error or "given up", ())
        if not parts and view.snapshot is not None:
            raise StateError(f"run {run} ended before the exchange", ())
        return parts

    def _absent(self, parts: Parts, partial: bool) -> list[str]:
        present = {endpoint for endpoint, _ in parts}
        return [] if partial and parts else [f"ingest {url}" for url in self._expected() if url not in present]

    def _expected(self) -> list[str]:
        return [ingest.endpoint for ingest in self._farm.view.ingests if ingest.snapshot is None or not leaving(ingest.snapshot)]

    async def _prepare(self, transition: Transition, config: RunConfig, partial: bool) -> None:
        """Until all workers have built it. One that restarts or joins is waited for, and so is an ingest that is to come back."""
        farm = self._farm
        deadline = transition.began + farm.settings.transition_timeout_s
        try:
            while True:
                parts = await self._open(transition, config.run)
                waits_for = self._absent(parts, partial)
                for endpoint, snapshot in parts:
                    pending = snapshot.pending
                    if pending is None or pending.config != config:
                        waits_for.append(f"ingest {endpoint}")
                        await self._ask(endpoint, config)
                    elif pending.error is not None:
                        raise ConfigError(f"it cannot be built, nothing has changed: {pending.error}")
                    else:
                        waits_for += pending.waits_for
                if not waits_for:
                    return
                if farm.now > deadline:
                    whom = ", ".join(dict.fromkeys(waits_for))
                    raise BackendError(f"not prepared within {farm.settings.transition_timeout_s:g} s by {whom}; nothing has changed")
                await farm.next_look(farm.settings.poll_s / 5)
        except HltfarmError:
            await self._discard(config)
            raise

    async def _ask(self, endpoint: str, config: RunConfig) -> None:
        try:
            await self._farm.change_programme(endpoint, "prepare", config)
        except UnreachableError as error:
            log.warning("%s; asked again", error)

    async def _activate(self, transition: Transition, config: RunConfig, lumi: int | None, partial: bool) -> int | None:
        """The lumisection from which the ingests decide with it; None where one of them has to prepare it first."""
        farm = self._farm
        async with farm.commands:
            try:
                parts = await self._open(transition, config.run)
                if self._absent(parts, partial) or not all(_prepared(snapshot, config) for _, snapshot in parts):
                    return None
                first = await self._agree(parts, config, lumi)
            except HltfarmError as error:
                await self._discard(config)
                deciding = [url for url, part in in_run(await farm.look(), config.run) if _decides(part, config)]
                if not deciding:
                    raise
                farm.exchanged(config)  # it cannot be taken back there; the others follow
                told = f"{', '.join(deciding)} decide with it already, so the others follow from their next one"
                raise BackendError(f"{error}; {told}") from error
            farm.exchanged(config)
            return first

    async def _agree(self, parts: Parts, config: RunConfig, lumi: int | None) -> int:
        """One lumisection for all: where it is left to the farm, and began somewhere before everybody was told, a later one."""
        farm, ahead = self._farm, 1 if len(parts) == 1 else 2  # with several, none begins it while the others are being told
        for attempt in range(1, _ATTEMPTS + 1):
            present = max(snapshot.lumi for _, snapshot in parts)
            _not_begun(lumi, present)
            first = lumi or present + ahead
            silent = []
            try:
                for endpoint, _ in parts:
                    try:
                        await farm.change_programme(endpoint, "activate", config, lumi=first)
                    except UnreachableError as error:
                        silent.append(str(error))
            except HltfarmError as error:
                parts = in_run(await farm.look(), config.run)
                if not any(snapshot.lumi >= first for _, snapshot in parts) or lumi or attempt == _ATTEMPTS:
                    raise
                log.warning("%s; a later lumisection is tried", error)
                continue
            if len(silent) == len(parts):
                raise UnreachableError(f"{silent[0]}; whether it decides otherwise from lumisection {first} on is seen when it answers")
            return first
        raise AssertionError("the last attempt returns or raises")

    async def _confirm(self, transition: Transition, config: RunConfig, first: int, partial: bool) -> None:
        """Until every ingest of the run says that it decides with it from then on. The monitor tells those that were away."""
        farm = self._farm
        deadline = transition.began + 2 * farm.settings.transition_timeout_s
        while True:
            view = await farm.look()
            parts = in_run(view, config.run)
            if not parts and view.snapshot is not None:
                return  # the run ended with it
            told = {url: part.programmes[-1].first_lumi for url, part in parts if _decides(part, config)}
            if late := [f"ingest {url} from {lumi} on" for url, lumi in told.items() if lumi > first]:
                raise BackendError(f"it decides from lumisection {first} on, but {', '.join(late)}: told too late")
            missing = self._absent(parts, partial) + [f"ingest {url}" for url, _ in parts if url not in told]
            if not missing:
                return
            if farm.now > deadline:
                raise BackendError(f"it decides from lumisection {first} on, but not yet in {', '.join(missing)}, told when back")
            await farm.next_look(farm.settings.poll_s / 5)

    async def _discard(self, config: RunConfig) -> None:
        """Take back what was prepared, and activated where it has not begun."""
        for endpoint, _ in in_run(await self._farm.look(), config.run):
            try:
                await self._farm.change_programme(endpoint, "discard", config)
            except HltfarmError as error:
                log.warning("ingest %s may keep a programme that is not wanted any more: %s", endpoint, error)

    async def close(self) -> None:
        """Give up what is being prepared."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _prepared(snapshot: Snapshot, config: RunConfig) -> bool:
    return snapshot.pending is not None and snapshot.pending.config == config and snapshot.pending.prepared


def _decides(snapshot: Snapshot, config: RunConfig) -> bool:
    return bool(snapshot.programmes) and snapshot.programmes[-1].config == config


def _not_begun(lumi: int | None, present: int) -> None:
    if lumi is not None and lumi <= present:
        raise ConfigError(f"lumisection {lumi} has begun, the present one is {present}; give a later one, or none for the next")
