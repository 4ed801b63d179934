"""Recovery times of histories that are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hltfarm.service.chaos.recovery import FELT_S, WINDOW_S, Sample, recovery

RATE = 100.0


def history(decided: Callable[[float], float], end: float = 10.0) -> list[Sample]:
    times = [0.02 * step for step in range(int(end / 0.02))]
    return [Sample(at, int(RATE * at), int(decided(at))) for at in times]


def paused(begin: float, end: float) -> Callable[[float], float]:
    """Nothing is decided in between; all that waits is decided at twice the rate afterwards."""

    def decided(at: float) -> float:
        if at < begin:
            return RATE * at
        if at < end:
            return RATE * begin
        return min(RATE * at, RATE * begin + 2 * RATE * (at - end))

    return decided


def test_a_flow_that_never_ceases() -> None:
    assert recovery(history(lambda at: RATE * at - 3), 4.0, 9.0, RATE) == 0.0


@pytest.mark.parametrize("length", [1.0, 2.0, 3.5])
def test_a_pause(length: float) -> None:
    found = recovery(history(paused(4.0, 4.0 + length)), 4.0, 9.5, RATE)
    assert found is not None
    assert length < found <= length + WINDOW_S  # the window has to fill at twice the rate first


def test_a_pause_that_begins_later_counts_from_the_injection() -> None:
    found = recovery(history(paused(5.0, 6.0)), 4.0, 9.5, RATE)
    assert found is not None
    assert 2.0 < found <= 2.0 + WINDOW_S


def test_a_pause_too_short_to_be_felt() -> None:
    assert recovery(history(paused(4.0, 4.0 + 0.9 * FELT_S)), 4.0, 9.5, RATE) == 0.0


def test_no_recovery_before_the_end() -> None:
    assert recovery(history(paused(4.0, 20.0)), 4.0, 9.5, RATE) is None


def test_what_comes_after_the_next_fault_is_not_this_ones() -> None:
    assert recovery(history(paused(6.0, 7.0)), 4.0, 6.0, RATE) == 0.0


def test_a_backlog_that_was_there_before_is_not_blamed_on_the_fault() -> None:
    assert recovery(history(lambda at: max(0.0, RATE * at - 80)), 4.0, 9.5, RATE) == 0.0
