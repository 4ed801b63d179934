"""The run-control machine: every command in every state, and the ways a run ends."""

from __future__ import annotations

import pytest

from hltfarm.proto.errors import StateError
from hltfarm.proto.messages import OPS, RunState
from hltfarm.service.runcontrol import ADMITTING, COMMANDS, OPEN, RunControl, combined, legal, target

LEGAL = {
    RunState.HALTED: {"configure", "reset"},
    RunState.CONFIGURED: {"configure", "start", "reset"},
    RunState.RUNNING: {"pause", "drain", "stop", "reset"},
    RunState.RUNNING_DEGRADED: {"pause", "drain", "stop", "reset"},
    RunState.PAUSED: {"resume", "drain", "stop", "reset"},
    RunState.DRAINING: {"stop", "reset"},
    RunState.ERROR: {"reset"},
}


def test_commands_are_operations_of_the_protocol() -> None:
    assert set(COMMANDS) <= set(OPS)


@pytest.mark.parametrize("state", list(RunState))
def test_legal_set(state: RunState) -> None:
    assert set(legal(state)) == LEGAL[state]


@pytest.mark.parametrize("state", list(RunState))
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_every_state(state: RunState, command: str) -> None:
    machine = RunControl(state=state)
    if command in LEGAL[state]:
        assert machine.command(command).state is target(state, command)
    else:
        with pytest.raises(StateError, match=f"'{command}' is illegal in state {state}") as caught:
            machine.command(command)
        assert set(caught.value.legal) == LEGAL[state]
        assert caught.value.retryable


def test_a_run_from_configure_to_stop() -> None:
    machine = RunControl().command("configure").command("start")
    assert machine.state is RunState.RUNNING
    machine = machine.command("pause").command("resume").command("drain")
    assert machine.emptied().state is RunState.DRAINING, "a drained run stays open until it is stopped"
    assert machine.command("stop").emptied().state is RunState.CONFIGURED


def test_stop_waits_for_events_in_flight() -> None:
    machine = RunControl(RunState.RUNNING).command("stop")
    assert (machine.state, machine.ending) == (RunState.DRAINING, True)
    assert machine.emptied() == RunControl(RunState.CONFIGURED)


def test_reset_forgets_the_ending() -> None:
    machine = RunControl(RunState.RUNNING).command("stop").command("reset")
    assert machine == RunControl(RunState.HALTED)


def test_degraded_follows_the_fault() -> None:
    machine = RunControl(RunState.RUNNING).degraded(True)
    assert machine.state is RunState.RUNNING_DEGRADED
    assert machine.degraded(False).state is RunState.RUNNING
    paused = machine.command("pause")
    assert paused.state is RunState.PAUSED
    assert paused.command("resume").state is RunState.RUNNING_DEGRADED, "the fault is still there"
    assert paused.degraded(False).command("resume").state is RunState.RUNNING


def test_only_reset_leaves_error() -> None:
    machine = RunControl(RunState.RUNNING).failed()
    assert legal(machine.state) == ("reset",)
    assert machine.emptied().degraded(True).state is RunState.ERROR


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], RunState.ERROR),
        ([RunState.RUNNING, RunState.RUNNING], RunState.RUNNING),
        ([RunState.RUNNING, RunState.RUNNING_DEGRADED], RunState.RUNNING_DEGRADED),
        ([RunState.RUNNING, RunState.HALTED], RunState.RUNNING_DEGRADED),
        ([RunState.DRAINING, RunState.CONFIGURED], RunState.DRAINING),
        ([RunState.CONFIGURED, RunState.HALTED], RunState.HALTED),
        ([RunState.ERROR, RunState.RUNNING], RunState.RUNNING_DEGRADED),
        ([RunState.ERROR, RunState.ERROR], RunState.ERROR),
        ([RunState.ERROR, RunState.CONFIGURED], RunState.ERROR),
        ([RunState.ERROR, RunState.DRAINING], RunState.RUNNING_DEGRADED),
    ],
)
def test_state_of_several_ingests(states: list[RunState], expected: RunState) -> None:
    assert combined(states) is expected


def test_admitting_states_are_open() -> None:
    assert ADMITTING < OPEN
