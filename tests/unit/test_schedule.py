"""The open-loop schedule and its backlog, without a clock."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.loadgen.load.schedule import Arrival, Backlog, Schedule
from hltfarm.proto.errors import ConfigError


def test_uniform_times_do_not_drift() -> None:
    times = list(Schedule(3.0, events=30_001).times())
    assert times[0] == 0.0
    assert times[-1] == 10_000.0


def test_duration_is_exclusive() -> None:
    assert list(Schedule(4.0, duration_s=1.0).times()) == [0.0, 0.25, 0.5, 0.75]


def test_the_earlier_limit_ends_the_load() -> None:
    assert len(list(Schedule(10.0, duration_s=1.0, events=3).times())) == 3
    assert len(list(Schedule(10.0, duration_s=0.25, events=30).times())) == 3


def test_poisson_is_seeded_and_has_the_rate() -> None:
    schedule = Schedule(200.0, events=20_000, arrival=Arrival.POISSON, seed=5)
    times = np.array(list(schedule.times()))
    gaps = np.diff(times)
    assert list(schedule.times()) == times.tolist()
    assert list(Schedule(200.0, events=10, arrival=Arrival.POISSON, seed=6).times()) != times[:10].tolist()
    # Mean and standard deviation of 20000 exponential gaps: relative standard error 0.7 %; four of them.
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)


@given(st.integers(1, 7), st.integers(1, 60), st.floats(0.5, 1e4))
def test_split_keeps_the_load(parts: int, events: int, rate: float) -> None:
    whole = Schedule(rate, events=events)
    shares = [list(share.times()) for share in whole.split(parts)]
    assert all(shares), "a source without events has no place in a load"
    assert sum(map(len, shares)) == events
    assert sorted(time for share in shares for time in share) == pytest.approx(list(whole.times()))


def test_split_poisson_sources_are_independent() -> None:
    first, second = Schedule(10.0, events=20, arrival=Arrival.POISSON).split(2)
    assert first.rate_hz == 5.0
    assert list(first.times())[1:] != list(second.times())[1:]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_unusable_rates_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError):
        Schedule(rate, events=1)


@pytest.mark.parametrize(("duration", "events"), [(None, None), (0.0, None), (float("nan"), 1), (None, 0), (None, -3)])
def test_loads_without_a_sound_end_are_refused(duration: float | None, events: int | None) -> None:
    with pytest.raises(ConfigError):
        Schedule(1.0, duration, events)


def test_backlog_never_waits_for_the_server() -> None:
    """Nothing was taken for ten seconds: all that fell due meanwhile is owed, with its own intended time."""
    backlog = Backlog(Schedule(10.0, duration_s=20.0))
    assert backlog.due(0.0) == 1
    assert backlog.take(0.0) == 0.0
    assert backlog.due(10.0) == 100
    assert [backlog.take(10.0) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert backlog.peak == 100
    assert backlog.offered == 101
    assert backlog.wait(10.0) == 0.0


def test_backlog_tells_when_the_next_event_is_due() -> None:
    backlog = Backlog(Schedule(10.0, events=2))
    assert backlog.due(0.0) == 1
    backlog.take(0.0)
    assert backlog.due(0.04) == 0
    assert backlog.wait(0.04) == pytest.approx(0.06)
    assert not backlog.finished
    assert backlog.due(0.1) == 1
    backlog.take(0.1)
    assert backlog.finished
    assert backlog.wait(0.2) is None


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=50), st.integers(1, 400))
def test_backlog_hands_over_every_event_once_and_in_order(steps: list[float], events: int) -> None:
    schedule = Schedule(97.0, events=events)
    backlog = Backlog(schedule)
    now, taken = 0.0, []
    for step in [*steps, 10.0]:
        now += step
        for _ in range(backlog.due(now)):
            taken.append(backlog.take(now))
    assert taken == list(schedule.times())
    assert all(a < b for a, b in pairwise(taken))
    assert backlog.finished


def test_long_backlogs_are_forgotten_as_they_are_sent() -> None:
    backlog = Backlog(Schedule(1e5, events=100_000))
    assert backlog.due(1.0) == 100_000
    taken = [backlog.take(1.0) for _ in range(100_000)]
    assert taken[-1] == pytest.approx(0.99999)
    assert backlog.finished


def test_max_counts_from_the_moment_of_sending() -> None:
    backlog = Backlog(Schedule(None, events=3))
    for now in (0.5, 0.75, 2.0):
        assert backlog.due(now) == 1
        assert backlog.take(now) == now
    assert backlog.due(3.0) == 0
    assert backlog.finished
    assert backlog.offered == 3


def test_max_ends_with_its_duration() -> None:
    backlog = Backlog(Schedule(None, duration_s=1.0))
    assert backlog.due(0.999) == 1
    assert backlog.due(1.0) == 0
    assert backlog.finished
    assert backlog.offered == 0


def test_endless_schedules_are_lazy() -> None:
    assert list(islice(Schedule(2.0, duration_s=1e12).times(), 3)) == [0.0, 0.5, 1.0]
