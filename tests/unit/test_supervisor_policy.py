"""The restart policy, fed with histories."""

from __future__ import annotations

import pytest

from hltfarm.service.supervisor.policy import Phase, RestartPolicy, RestartState

POLICY = RestartPolicy(first_s=1.0, factor=2.0, longest_s=5.0, stable_s=100.0, quarantine_after=4, window_s=50.0)


def test_back_off_doubles_up_to_the_longest() -> None:
    state = RestartState(RestartPolicy(first_s=1.0, factor=2.0, longest_s=5.0, stable_s=100.0, quarantine_after=99))
    delays, now = [], 0.0
    for _ in range(5):
        state.started(now)
        state.exited(now)
        assert state.due is not None
        delays.append(state.due - now)
        now = state.due
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_restarts_count_starts_after_the_first() -> None:
    state = RestartState(POLICY)
    state.started(0.0)
    assert state.restarts == 0
    state.exited(10.0)
    state.started(11.0)
    assert (state.restarts, state.phase) == (1, Phase.RUNNING)


def test_a_stable_stretch_ends_the_series() -> None:
    state = RestartState(POLICY)
    state.started(0.0)
    state.exited(1.0)
    state.started(2.0)
    state.exited(2.0 + POLICY.stable_s)
    assert state.due == 2.0 + POLICY.stable_s + POLICY.first_s


def test_quarantine_after_exits_within_the_window() -> None:
    state = RestartState(POLICY)
    phases = []
    for now in (0.0, 10.0, 20.0, 30.0):
        state.started(now)
        phases.append(state.exited(now + 1.0))
    assert phases == [Phase.WAITING, Phase.WAITING, Phase.WAITING, Phase.QUARANTINED]
    assert state.due is None


def test_exits_outside_the_window_do_not_count() -> None:
    state = RestartState(POLICY)
    for now in (0.0, 20.0, 40.0, 60.0, 80.0):
        state.started(now)
        assert state.exited(now + 1.0) is Phase.WAITING


@pytest.mark.parametrize("exits", [1, 4])
def test_release_starts_at_once_with_a_clean_record(exits: int) -> None:
    state = RestartState(POLICY)
    for now in range(exits):
        state.started(float(now))
        state.exited(float(now))
    assert state.release(5.0)
    assert (state.phase, state.due) == (Phase.WAITING, 5.0)
    state.started(5.0)
    assert state.exited(6.0) is Phase.WAITING
    assert state.due == 7.0


def test_release_of_a_running_process_does_nothing() -> None:
    state = RestartState(POLICY)
    state.started(0.0)
    assert not state.release(1.0)
    assert state.phase is Phase.RUNNING


def test_stopped_is_final_until_started() -> None:
    state = RestartState(POLICY)
    state.started(0.0)
    state.exited(1.0)
    state.stop()
    assert (state.phase, state.due) == (Phase.STOPPED, None)
    assert not state.release(2.0)


@pytest.mark.parametrize("then", [Phase.DRAINED, Phase.QUARANTINED, Phase.STOPPED])
def test_who_is_told_to_leave_is_there_after_its_end_and_no_crash_is_counted(then: Phase) -> None:
    state = RestartState(POLICY)
    state.started(0.0)
    assert state.leave(then, 1.0, "spare")
    assert (state.phase, state.reason) == (Phase.LEAVING, "spare")
    assert state.exited(2.0, hopeless=True) is then
    assert state.due is None
    state.leave(Phase.WAITING, 3.0)
    assert (state.phase, state.due) == (Phase.WAITING, 3.0)
    for now in (4.0, 5.0, 6.0):
        state.started(now)
        assert state.exited(now) is Phase.WAITING, "the orderly end is none of the exits that lead to quarantine"


def test_a_process_that_is_away_is_settled_at_once() -> None:
    state = RestartState(POLICY)
    state.started(0.0)
    state.exited(1.0)
    assert not state.leave(Phase.DRAINED, 1.5)
    assert (state.phase, state.due) == (Phase.DRAINED, None)
    assert state.release(2.0)
    assert (state.phase, state.due) == (Phase.WAITING, 2.0)


def test_a_start_ends_the_reason() -> None:
    state = RestartState(POLICY)
    state.started(0.0)
    state.leave(Phase.QUARANTINED, 1.0, "noisy fan")
    state.exited(2.0)
    assert state.reason == "noisy fan"
    state.release(3.0)
    state.started(3.0)
    assert state.reason == ""
