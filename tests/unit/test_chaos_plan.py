"""Plans of faults: drawn from a seed, in the part of the load where they can be judged."""

from __future__ import annotations

import itertools

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.service.chaos.plan import FIRST, LAST, MANNERS, MOST, PAIRS, Fault, Timing, faults, injections, lasting, together

TIMING = Timing()


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("duration", [2.0, 12.0, 60.0])
def test_injections_follow_one_another_within_the_load(fault: Fault, duration: float) -> None:
    shortest, longest = lasting(fault, TIMING)
    for seed in range(50):
        plan = injections(fault, seed, duration, TIMING)
        assert 1 <= len(plan) <= MOST
        assert all(FIRST * duration <= item.at_s <= LAST * duration for item in plan)
        assert all(shortest <= item.seconds <= longest for item in plan)
        assert all(item.at_s + item.seconds <= later.at_s for item, later in itertools.pairwise(plan))
        assert all(item.manner in MANNERS.get(fault, ("",)) and item.count >= 1 for item in plan)


def test_the_seed_decides() -> None:
    plans = {seed: injections(Fault.KILL, seed, 12.0, TIMING) for seed in range(20)}
    assert plans == {seed: injections(Fault.KILL, seed, 12.0, TIMING) for seed in range(20)}
    assert len(set(plans.values())) == 20


@pytest.mark.parametrize("fault", list(MANNERS))
def test_every_manner_is_drawn(fault: Fault) -> None:
    assert {item.manner for seed in range(50) for item in injections(fault, seed, 12.0, TIMING)} == set(MANNERS[fault])


def test_a_stop_outlasts_the_patience_of_the_ingest() -> None:
    assert lasting(Fault.STOP, TIMING)[0] > TIMING.worker_timeout_s


def test_names() -> None:
    assert faults(["all"]) == [*((fault,) for fault in Fault), *PAIRS]
    assert faults(["hang", "kill", "hang"]) == [(Fault.HANG,), (Fault.KILL,)]
    assert faults(["kill+partition"]) == [(Fault.KILL, Fault.PARTITION)]
    with pytest.raises(ConfigError, match=r"fault 'earthquake': choose kill, .*swap, two of them joined by \+, or all"):
        faults(["kill", "earthquake"])


@pytest.mark.parametrize("name", ["kill+kill", "hang+kill-control", "partition-workers+disk-full"])
def test_what_does_not_go_together(name: str) -> None:
    with pytest.raises(ConfigError, match="these do not go together"):
        faults([name])


@pytest.mark.parametrize("pair", [*PAIRS, (Fault.STOP, Fault.SLOW), (Fault.POISON, Fault.KILL)])
def test_faults_that_strike_together(pair: tuple[Fault, ...]) -> None:
    for seed in range(30):
        plans = together(pair, seed, 30.0, TIMING)
        assert len({len(plan) for plan in plans}) == 1
        assert [{item.fault for item in plan} for plan in plans] == [{fault} for fault in pair]
        for items in zip(*plans, strict=True):
            assert len({item.at_s for item in items}) == 1
            assert FIRST * 30.0 <= items[0].at_s <= LAST * 30.0


def test_a_load_that_is_too_short() -> None:
    with pytest.raises(ConfigError, match="--duration 1"):
        injections(Fault.KILL, 1, 1.0, TIMING)
