"""What decides the events of a run: programmes by lumisection, one in preparation, and a shadow. Pure; no clocks, no sockets.

    prepare ──> pending ── every worker has built it; activate(N) ──> active from lumisection N on
                   └── a worker could not, or discard ──> gone; nothing has changed

The lumisection of an event alone says which programme decides it, so that late and resent events get what their neighbours got, and an
exchange neither stops nor mixes events. N must not have begun. A generation is the number of a programme; it never comes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import ConfigError, StateError
from hltfarm.proto.messages import ModelInfo, Pending, Programme, RunConfig, menu_id, models_id
from hltfarm.proto.worker_link import Configured, PathInfo
from hltfarm.service.ingest.shadow import ShadowBook

#: Programmes that workers hold at a time for late events; older lumisections are then decided by the oldest of these.
MOST_ACTIVE = 4
LAST_LUMI = (1 << 32) - 1  # as events name them


@dataclass(slots=True)
class Entry:
    """One programme. What workers say of it is empty until the first of them has built it (`built`)."""

    generation: int
    config: RunConfig
    first_lumi: int = 0
    built: bool = False
    menu_hash: str = ""
    menu: int = 0  # as decisions name it
    models: tuple[ModelInfo, ...] = ()
    models_id: int = 0
    conditions: str = ""
    paths: tuple[PathInfo, ...] = ()
    workers: set[str] = field(default_factory=set)  # that have built it
    refused: dict[str, str] = field(default_factory=dict)  # workers that could not -> why
    error: str | None = None
    in_flight: int = 0
    accepted: int = 0
    rejected: int = 0

    def settle(self, message: Configured) -> str | None:
        """Take what a worker has built; the first one says what it is. Returns what is wrong with that of another, None if nothing is."""
        if not self.built:
            menu, models = menu_id(message.menu_hash), models_id(message.models)  # raise for what is no hash, before anything is taken
            self.built = True
            self.menu_hash, self.menu = message.menu_hash, menu
            self.models, self.models_id = message.models, models
            self.paths, self.conditions = message.paths, message.conditions
            return None
        if self.menu_hash != message.menu_hash:
            return f"compiled menu {message.menu_hash}, the others {self.menu_hash}"
        if self.models != message.models:
            return f"loaded the models {_text(message.models)}, the others {_text(self.models)}"
        if self.conditions != message.conditions:
            return f"loaded conditions {message.conditions}, the others {self.conditions}"
        return None


class Programmes:
    """Those of one ingest's present run. `lumi`: the highest lumisection that has begun, 0 before the first event."""

    def __init__(self) -> None:
        self.active: list[Entry] = []  #: in order of their first lumisections
        self.pending: Entry | None = None
        self.shadow: ShadowBook | None = None
        self.lumi = 0
        self._late: list[Entry] = []  # no longer active, for there are too many, but events in flight name them
        self._entries: dict[int, Entry] = {}  # all that an event in flight may name, and those above
        self._generation = 0

    # -- changes -----------------------------------------------------------------------------------------------------------

    def configure(self, config: RunConfig) -> Entry:
        """A new run: its first programme. Nothing may be in flight."""
        self.forget()
        entry = self._new(config)
        self.active = [entry]
        return entry

    def forget(self) -> None:
        """There is no run; events of it may still wait for the error stream."""
        self.active, self.pending, self.shadow, self.lumi, self._late = [], None, None, 0, []
        self._entries = {number: entry for number, entry in self._entries.items() if entry.in_flight}

    def prepare(self, config: RunConfig) -> Entry:
        """A programme for later lumisections of the run; it takes the place of another that is pending. Raises ConfigError."""
        self._check(config)
        self.discard()
        self.pending = self._new(config)
        return self.pending

    def activate(self, lumi: int, waits_for: Sequence[str], config: RunConfig | None = None) -> Entry:
        """The pending programme decides from `lumi` on, 0: from the next one; those that were to begin then or later are replaced.

        `config`: its configuration; repeated, it moves what was activated and has not begun. Raises StateError while nothing is ready,
        ConfigError for what cannot be built, for a lumisection that has begun, and for more programmes to come than can be held.
        """
        entry = self.pending
        if config is not None and (entry is None or entry.config != config):
            entry, waits_for = self._coming(config), ()
        if entry is None:
            raise StateError("no programme is prepared; prepare one first", ("prepare",))
        if entry.error is not None:
            raise ConfigError(entry.error)
        if waits_for:
            raise StateError(f"the programme is not prepared yet; it waits for {', '.join(waits_for)}", ("discard",))
        first = lumi or self.lumi + 1
        if first <= self.lumi:
            raise ConfigError(f"lumisection {first} has begun, the present one is {self.lumi}; give a later one, or 0 for the next")
        if first > LAST_LUMI:
            raise ConfigError(f"no lumisection {first} can come, the present one is {self.lumi}: menu and models change with the next run")
        stays = [old for old in self.active if old is not entry and old.first_lumi < first]
        if sum(old.first_lumi > self.lumi for old in stays) >= MOST_ACTIVE - 1:
            raise ConfigError(
                f"{MOST_ACTIVE - 1} programmes are to begin before lumisection {first} already; wait for one, or take an earlier one"
            )
        self.active = [*stays, entry]
        entry.first_lumi = first
        self.pending = None if entry is self.pending else self.pending
        self._late = [old for old in (*self._late, *self.active[:-MOST_ACTIVE]) if old.in_flight]
        del self.active[:-MOST_ACTIVE]
        self.active[0].first_lumi = 0 if len(self.active) == MOST_ACTIVE else self.active[0].first_lumi
        return entry

    def discard(self, config: RunConfig | None = None) -> None:
        """The pending programme is not wanted; no effect without one. `config`: nor is this one, which was activated and has not begun."""
        self.pending = None
        if config is not None and (entry := self._coming(config)) is not None:
            self.active.remove(entry)

    def _coming(self, config: RunConfig) -> Entry | None:
        """The programme that is to decide last, if it has this configuration and has not begun."""
        last = self.active[-1] if len(self.active) > 1 else None
        return last if last is not None and last.config == config and last.first_lumi > self.lumi else None

    def cast(self, config: RunConfig, fraction: float) -> Entry:
        """A shadow for a fraction of the events, instead of the present one. Raises ConfigError."""
        self._check(config)
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction {fraction:g} of the events: give more than 0 and at most 1")
        entry = self._new(config)
        self.shadow = ShadowBook(entry.generation, config, fraction)
        return entry

    def _check(self, config: RunConfig) -> None:
        if not self.active:
            raise StateError("no run is configured", ("configure",))
        present = self.active[-1].config
        if (config.run, config.detector) != (present.run, present.detector):
            raise ConfigError(
                f"run {config.run} with detector {config.detector!r}: menu and models can change within run {present.run}, "
                f"its detector {present.detector!r} cannot; stop and configure"
            )

    def _new(self, config: RunConfig) -> Entry:
        self._generation += 1
        entry = self._entries[self._generation] = Entry(self._generation, config)
        return entry

    # -- events ------------------------------------------------------------------------------------------------------------

    def admit(self, lumi: int) -> int:
        """An event of this lumisection was received: the generation that decides it."""
        if lumi > self.lumi:
            self.lumi = lumi
        for entry in reversed(self.active):
            if entry.first_lumi <= lumi:
                break
        entry.in_flight += 1
        return entry.generation

    def decided(self, generations: NDArray[np.uint32], accepted: NDArray[np.bool_] | None) -> list[tuple[Entry, NDArray[np.bool_]]]:
        """Events left the farm; `accepted` is None where they went to the error stream. Returns the programmes, each with its events."""
        parts = []
        for generation in np.unique(generations).tolist():
            mine = generations == generation
            entry, count = self._entries[generation], int(np.count_nonzero(mine))
            entry.in_flight -= count
            if accepted is not None:
                accepts = int(np.count_nonzero(accepted[mine]))
                entry.accepted += accepts
                entry.rejected += count - accepts
            parts.append((entry, mine))
        return parts

    # -- state -------------------------------------------------------------------------------------------------------------

    def get(self, generation: int) -> Entry | None:
        """A programme that events or workers may still name."""
        return self._entries.get(generation)

    @property
    def deciding(self) -> list[Entry]:
        """What events may name, in flight or to come: a worker without one of them cannot have any."""
        return [*(entry for entry in self._late if entry.in_flight), *self.active]

    @property
    def wanted(self) -> list[Entry]:
        """What a worker has to build, those that decide first."""
        extra = [self._entries[self.shadow.generation]] if self.shadow is not None else []
        return [*self.deciding, *([self.pending] if self.pending is not None else []), *extra]

    @property
    def current(self) -> Entry | None:
        """The programme of the present lumisection."""
        begun = [entry for entry in self.active if entry.first_lumi <= self.lumi]
        return begun[-1] if begun else (self.active[0] if self.active else None)

    def retired(self) -> list[int]:
        """Generations that nothing names any more, each told once."""
        wanted = {entry.generation for entry in self.wanted}
        gone = [number for number, entry in self._entries.items() if number not in wanted and not entry.in_flight]
        for number in gone:
            del self._entries[number]
        return gone

    def told(self) -> tuple[Programme, ...]:
        """The active ones, for a snapshot."""
        return tuple(
            Programme(
                generation=entry.generation,
                first_lumi=entry.first_lumi,
                config=entry.config,
                menu_hash=entry.menu_hash,
                models=entry.models,
                conditions=entry.conditions,
                accepted=entry.accepted,
                rejected=entry.rejected,
            )
            for entry in self.active
        )

    def told_pending(self, waits_for: Sequence[str]) -> Pending | None:
        """The one in preparation, for a snapshot."""
        entry = self.pending
        return None if entry is None else Pending(config=entry.config, waits_for=tuple(waits_for), error=entry.error)


def _text(models: tuple[ModelInfo, ...]) -> str:
    """What the models of two workers can differ in."""
    return ", ".join(f"{model.label} at {model.working_point or 'no working point'} ({model.engine})" for model in models) or "none"
