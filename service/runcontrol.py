"""Run control as a pure state machine: no sockets, no clocks, no threads.

                 configure            start              pause
      Halted ────────────> Configured ─────> Running <────────> Paused
        ^                   ^  configure        │     resume      │
        │ reset             │  (new config)     │ drain, stop     │
        └── every state     │                   v                 │
                            └────────────── Draining <────────────┘
                              ended and empty

`drain` closes admission and lets events in flight finish; the run stays open in Draining until `stop`.
`stop` ends the run: it also closes admission (Draining), and once nothing is in flight the machine is Configured again.
Whoever drives the machine calls `emptied()` when nothing is in flight; if that takes longer than its deadline, it forces the
rest to the error stream first, so that a run always ends with a closed ledger.
Running becomes RunningDegraded while something is wrong that does not stop the run (`degraded(True)`), and Error when
something is (`failed()`); only `reset` leaves Error. RunningDegraded allows what Running allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from hltfarm.proto.errors import StateError
from hltfarm.proto.messages import RunState

#: Commands that change the state, in the order in which an operator meets them.
COMMANDS = ("configure", "start", "pause", "resume", "drain", "stop", "reset")

_H, _C, _R, _P = RunState.HALTED, RunState.CONFIGURED, RunState.RUNNING, RunState.PAUSED
_D, _G, _E = RunState.DRAINING, RunState.RUNNING_DEGRADED, RunState.ERROR

#: (state, command) -> next state. What is not here is illegal.
TRANSITIONS: Mapping[tuple[RunState, str], RunState] = MappingProxyType(
    {
        (_H, "configure"): _C,
        (_C, "configure"): _C,
        (_C, "start"): _R,
        (_R, "pause"): _P,
        (_G, "pause"): _P,
        (_P, "resume"): _R,
        (_R, "drain"): _D,
        (_G, "drain"): _D,
        (_P, "drain"): _D,
        (_R, "stop"): _D,
        (_G, "stop"): _D,
        (_P, "stop"): _D,
        (_D, "stop"): _D,
        **{(state, "reset"): _H for state in RunState},
    }
)

#: States in which a run is open: its ledger counts.
OPEN = frozenset({_R, _G, _P, _D})
#: States in which new events are admitted.
ADMITTING = frozenset({_R, _G})


def legal(state: RunState) -> tuple[str, ...]:
    """The commands that `state` allows, in the order of COMMANDS."""
    return tuple(command for command in COMMANDS if (state, command) in TRANSITIONS)


def target(state: RunState, command: str) -> RunState:
    """The state that `command` leads to at once; raises `StateError` with the legal commands when there is none."""
    try:
        return TRANSITIONS[state, command]
    except KeyError:
        allowed = legal(state)
        raise StateError(f"{command!r} is illegal in state {state}; legal: {', '.join(allowed)}", allowed) from None


@dataclass(frozen=True, slots=True)
class RunControl:
    """The machine: a state, whether the run is to end once empty, and whether a fault degrades it."""

    state: RunState = RunState.HALTED
    ending: bool = False
    faulty: bool = False

    def command(self, command: str) -> RunControl:
        """Apply a command of COMMANDS; raises `StateError` (with the legal set) when the state does not allow it."""
        state = target(self.state, command)
        if state in ADMITTING:
            state = _G if self.faulty else _R
        return replace(self, state=state, ending=command == "stop")

    def emptied(self) -> RunControl:
        """Nothing is in flight: a run that was stopped ends here, any other stays as it is."""
        if self.state is _D and self.ending:
            return replace(self, state=_C, ending=False)
        return self

    def degraded(self, faulty: bool) -> RunControl:
        """Enter or leave RunningDegraded; remembered while the run is paused or not yet started."""
        state = self.state
        if state in ADMITTING:
            state = _G if faulty else _R
        return replace(self, state=state, faulty=faulty)

    def failed(self) -> RunControl:
        """The run cannot go on: Error, which only `reset` leaves."""
        return replace(self, state=_E, ending=False)


#: The state of a farm is the first of these that one of its ingests is in: the most alarming one, then the one that needs most to run.
_SEVERITY = (_E, _G, _D, _P, _R, _H, _C)


def combined(states: list[RunState]) -> RunState:
    """The state of a farm of several ingests; none at all is Error.

    A farm drains until its last ingest has; ingests that otherwise disagree on whether a run is open, or of which only
    some are in Error while others have one, make it RunningDegraded.
    """
    if not states:
        return _E
    if _E in states:
        return _G if any(state in OPEN for state in states) else _E
    opened = [state in OPEN for state in states]
    if any(opened) and not all(opened):
        return _D if _D in states else _G
    return next(state for state in _SEVERITY if state in states)
