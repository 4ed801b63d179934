"""Verdict of a soak: what grows is seen, what only fluctuates is not."""

from __future__ import annotations

import random

import pytest

from hltfarm.loadgen.load.accounting import Accounting
from hltfarm.service.soak.footprint import Footprint, Usage
from hltfarm.service.soak.latency import Interval, Intervals
from hltfarm.service.soak.trend import thirds, trend
from hltfarm.service.soak.verdict import MIB, Bounds, judge


def test_a_line_through_points_on_a_line() -> None:
    line = trend([10.0, 20.0, 40.0], [5.0, 7.0, 11.0])
    assert line == pytest.approx((5.0, 11.0, 720.0, 0.0))
    assert line.growth == pytest.approx(6.0)


def test_a_line_through_noise_is_least_squares() -> None:
    line = trend([0.0, 1.0, 2.0], [0.0, 3.0, 0.0])
    assert (line.begin, line.end, line.per_hour) == pytest.approx((1.0, 1.0, 0.0))
    assert line.spread == pytest.approx(2.0**0.5)


@pytest.mark.parametrize(("at_s", "values"), [([0.0, 1.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([0.0, 1.0, 2.0], [1.0])])
def test_too_little_for_a_line(at_s: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="no line"):
        trend(at_s, values)


def test_thirds() -> None:
    assert thirds([1, 2, 3, 4, 5, 6, 7]) == ([1, 2], [6, 7])
    with pytest.raises(ValueError, match="no thirds"):
        thirds([1, 2])


def farm(count: int = 100, **worker: object) -> list[Footprint]:
    """Samples of a farm, one a second, whose memory fluctuates and does not grow; `worker`: quantities of its worker by time."""
    draw, found = random.Random(7), []
    for second in range(count):
        values = {
            "pid": 3,
            "resident_bytes": 700 * MIB,
            "private_bytes": 600 * MIB + draw.randrange(2 * MIB),
            "descriptors": 12,
            "threads": 5,
        }
        for name, value in worker.items():
            values[name] = value(second)  # type: ignore[operator]
        ingest = Usage(2, 90 * MIB, 80 * MIB + draw.randrange(MIB), 20 + draw.randrange(3), 4)
        found.append(Footprint(float(second), {"ingest": ingest, "worker-0": Usage(**values)}, 30 * MIB))  # type: ignore[arg-type]
    return found


def steady(count: int = 100) -> list[Interval]:
    draw = random.Random(8)
    return [Interval(float(second), 50, 20.0, 40.0 + draw.uniform(-5, 5)) for second in range(count)]


def test_a_farm_that_stays_as_it_is() -> None:
    judgements, problems = judge(farm(), steady(), 30.0, Bounds())
    assert problems == []
    assert {(item.subject, item.quantity) for item in judgements} == {
        *((name, quantity) for name in ("ingest", "worker-0") for quantity in ("memory", "descriptors", "threads")),
        ("/dev/shm", "memory"),
        ("clients", "p99"),
    }
    assert all(item.flat for item in judgements)


@pytest.mark.parametrize(
    ("quantity", "by_time", "said"),
    [
        ("private_bytes", lambda second: 600 * MIB + second * MIB // 4, "memory of worker-0: from 607.5 to 624.8 MiB (allowed: 12.2 more)"),
        ("descriptors", lambda second: 12 + second // 8, "descriptors of worker-0"),
        ("threads", lambda second: 5 + (second > 60), "threads of worker-0"),
        ("pid", lambda second: 3 + (second > 50), "worker-0: not the same process after 51 s"),
    ],
)
def test_what_grows_is_seen(quantity: str, by_time: object, said: str) -> None:
    _judgements, problems = judge(farm(**{quantity: by_time}), steady(), 30.0, Bounds())
    assert [problem for problem in problems if problem.startswith(said)], problems
    assert len(problems) == 1


def test_what_is_used_for_a_moment_is_no_leak() -> None:
    samples = farm(
        descriptors=lambda second: 12 + (second % 5 > 1) * second, private_bytes=lambda second: (600 + 40 * (second == 70)) * MIB
    )
    assert judge(samples, steady(), 30.0, Bounds())[1] == []


def test_growth_before_the_end_of_the_warm_up_does_not_count() -> None:
    samples = farm(private_bytes=lambda second: (300 + min(second, 29) * 10) * MIB)
    assert judge(samples, steady(), 30.0, Bounds())[1] == []
    assert judge(samples, steady(), 0.0, Bounds())[1] != []


def test_latency_that_rises() -> None:
    rising = [Interval(float(second), 50, 20.0, 40.0 + second) for second in range(100)]
    assert judge(farm(), rising, 30.0, Bounds())[1] == ["p99 of clients: from 81.0 to 128.0 ms (allowed: 40.5 more)"]
    assert judge(farm(), rising, 30.0, Bounds(latency_factor=1.6))[1] == []
    assert judge(farm(), rising, 30.0, Bounds(latency_ms=50.0))[1] == []


def test_nothing_is_said_of_too_few_samples() -> None:
    judgements, problems = judge(farm(10), steady(10), 5.0, Bounds())
    assert judgements == []
    assert problems == ["5 samples after the warm-up, 9 are needed: a longer --duration or a shorter --interval"]
    idle = [Interval(float(second), 0, None, None) for second in range(100)]
    assert judge(farm(), idle, 30.0, Bounds())[1] == ["0 intervals with decisions after the warm-up, 9 are needed"]


def test_latencies_of_each_interval() -> None:
    one, two, intervals = Accounting("one"), Accounting("two"), Intervals()
    intervals.attach([one, two])
    for index in range(100):
        one.add_sent(0.0, 0, 10)
        one.add_decision(index, "accepted", 0.001 * (index + 1))
    two.add_sent(0.0, 0, 10)
    two.add_decision(0, "rejected", 0.5)
    first = intervals.look(1.0)
    assert (first.until_s, first.events) == (1.0, 101)
    assert first.p50_ms == pytest.approx(51.0)
    assert first.p99_ms == pytest.approx(100.0)
    assert intervals.look(2.0) == Interval(2.0, 0, None, None)
    assert one.latency.count == 100
