"""Rates of a menu: intervals against SciPy, weights against all outcomes of the prescales, uniqueness, overlap and differences."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from hltfarm.proto.results import RESULT
from hltfarm.workers.menu import Menu
from hltfarm.workers.menu.evaluate import Decisions, evaluate
from hltfarm.workers.menu.rates import Fraction, MenuRates, counted, difference, expected, overlap, rates
from hltfarm.workers.menu.report import spread, verdict

ONE_SIGMA = norm.cdf(1) - norm.cdf(-1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_of_counts_is_wilson_s(counts: tuple[int, int]) -> None:
    k, n = counts
    exact = binomtest(k, n).proportion_ci(ONE_SIGMA, method="wilson")
    fraction = counted(k, n)
    assert fraction.value == k / n
    assert (fraction.low, fraction.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert 0 <= fraction.low <= fraction.value <= fraction.high <= 1


def close(a: Fraction, b: Fraction) -> bool:
    return (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)


def menu_of(prescales: list[int], streams: list[str] | None = None) -> Menu:
    """Paths P0, P1, ... with these prescales; their decisions come from the tests."""
    paths = [{"name": f"P{i}", "prescale": prescale} for i, prescale in enumerate(prescales)]
    for path, stream in zip(paths, streams or [], strict=False):
        path["stream"] = stream
    return Menu.parse(json.dumps({"version": 1, "paths": paths}))


def decisions_of(raw: list[list[int]], kept: list[list[int]] | None = None) -> Decisions:
    passed = np.array(raw, bool)
    return Decisions(passed, passed if kept is None else np.array(kept, bool))


def test_without_prescales_fractions_are_counts() -> None:
    raw = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    result = rates(menu_of([1, 1, 1], ["a", "b", "a"]), decisions_of(raw))
    assert [(p.raw, p.kept) for p in result.paths] == [(3, 3), (2, 2), (0, 0)]
    assert all(close(p.fraction, counted(k, 8)) for p, k in zip(result.paths, (3, 2, 0), strict=True))
    assert all(close(p.unique, counted(k, 8)) for p, k in zip(result.paths, (2, 1, 0), strict=True))
    assert [result.total.kept, *(s.kept for s in result.streams.values())] == [4, 3, 2]
    assert close(result.total.fraction, counted(4, 8))
    assert close(result.streams["a"].fraction, counted(3, 8))
    assert close(result.streams["b"].fraction, counted(2, 8))
    assert result.overlap[:2].tolist() == [[1, 1 / 3, 0], [1 / 2, 1, 0]]
    assert np.isnan(result.overlap[2]).all()


@pytest.mark.parametrize("prescale", [2, 10, 1000])
def test_one_path_has_the_interval_of_its_raw_accepts(prescale: int) -> None:
    result = rates(menu_of([prescale]), decisions_of([[1]] * 30 + [[0]] * 70))
    raw = counted(30, 100).times(1 / prescale)
    assert all(close(f, raw) for f in (result.paths[0].fraction, result.paths[0].unique, result.total.fraction))
    nothing = rates(menu_of([prescale]), decisions_of([[0]] * 100)).total.fraction
    assert close(nothing, counted(0, 100).times(1 / prescale))


def test_prescale_zero_never_accepts() -> None:
    result = rates(menu_of([0, 1]), decisions_of([[1, 0], [1, 1]], [[0, 0], [0, 1]]))
    assert result.paths[0].raw == 2
    assert result.paths[0].fraction == result.paths[0].unique == Fraction(0, 0, 0)
    assert close(result.total.fraction, counted(1, 2))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_expectations_are_those_over_all_outcomes_of_the_prescales(data: st.DataObject) -> None:
    prescales = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 10]), min_size=1, max_size=5))
    streams = data.draw(st.lists(st.sampled_from("ab"), min_size=len(prescales), max_size=len(prescales)))
    raw = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=len(prescales), max_size=len(prescales)), min_size=1, max_size=6)))
    result = rates(menu_of(prescales, streams), Decisions(raw, raw))
    total, unique, by_stream = 0.0, np.zeros(len(prescales)), dict.fromkeys(streams, 0.0)
    for event in raw:
        for drawn in product((False, True), repeat=len(prescales)):
            keep = [1 / p if p else 0.0 for p in prescales]
            probability = np.prod([k if d else 1 - k for k, d in zip(keep, drawn, strict=True)])
            kept = event & np.array(drawn)
            total += probability * kept.any()
            unique += probability * (kept if kept.sum() == 1 else 0)
            for stream in by_stream:
                by_stream[stream] += probability * (kept & (np.array(streams) == stream)).any()
    assert result.total.fraction.value == pytest.approx(total / len(raw), abs=1e-12)
    assert [p.unique.value for p in result.paths] == pytest.approx(unique / len(raw), abs=1e-12)
    assert {name: s.fraction.value for name, s in result.streams.items()} == pytest.approx({k: v / len(raw) for k, v in by_stream.items()})
    for f in (result.total.fraction, *(p.fraction for p in result.paths), *(p.unique for p in result.paths)):
        assert 0 <= f.low <= f.value + 1e-15
        assert f.value <= f.high + 1e-15 <= 1 + 2e-15


def test_a_path_that_took_nothing_yet_widens_the_total() -> None:
    """A prescaled pass-through path beside an unprescaled one without an accept: what the second may take comes on top."""
    result = rates(menu_of([20, 1]), decisions_of([[1, 0]] * 60))
    assert result.total.fraction.value == pytest.approx(0.05)
    assert result.total.fraction.high == pytest.approx(0.05 + 0.95 * counted(0, 60).high)


@pytest.mark.parametrize("prescales", [(1,), (10,), (10, 1), (100, 7, 1)])
@pytest.mark.parametrize("n", [30, 300])
def test_intervals_hold_the_truth_as_often_as_they_say(prescales: tuple[int, ...], n: int) -> None:
    """2000 samples of n events whose paths take 30 %, 10 %, 3 % of them independently: 68 % of the intervals hold the true total.

    Counts are discrete, so that it is more or less for a given n: 0.66 to 0.70 in these cases.
    """
    random = np.random.default_rng(11)
    shares = np.array([0.3, 0.1, 0.03])[: len(prescales)]
    truth = 1 - np.prod([1 - share / p for share, p in zip(shares, prescales, strict=True)])
    held = 0
    for _ in range(2000):
        raw = random.random((n, len(prescales))) < shares
        weights = 1 - np.prod([1 - raw[:, i] / p for i, p in enumerate(prescales)], axis=0)
        fraction = expected(weights, 1 - float(np.prod([1 - 1 / p for p in prescales])))
        held += fraction.low <= truth <= fraction.high
    assert 0.65 < held / 2000 < 0.71


def test_many_events_have_the_standard_error_of_their_weights() -> None:
    weights = np.random.default_rng(3).uniform(0, 1, 100_000)
    fraction = expected(weights, 1.0)
    error = weights.std() / np.sqrt(len(weights))
    assert fraction.value == pytest.approx(weights.mean())
    assert (fraction.high - fraction.low) / 2 == pytest.approx(error, rel=3e-3)  # what is left falls like 1 / sqrt(n)


def test_the_hash_keeps_what_is_expected() -> None:
    """Prescales of 40 000 events: actual accepts of paths, streams and total agree with the expectation within 4 sigma."""
    n = 40_000
    rows = np.zeros(n, RESULT)
    rows["hits"] = np.arange(n) % 100
    cuts = [{"hits": {"max": 49}}, {"hits": {"min": 30}}, {}, {"hits": {"min": 90}}]
    paths = [
        {"name": f"P{i}", "prescale": p, "stream": s, "require": c}
        for i, (p, s, c) in enumerate(zip((3, 7, 20, 1), "abab", cuts, strict=True))
    ]
    menu = Menu.parse(json.dumps({"version": 1, "paths": paths}))
    result = rates(menu, evaluate(menu, rows, 1, np.arange(n)))
    pairs = [(p.kept, p.fraction) for p in result.paths] + [(s.kept, s.fraction) for s in (*result.streams.values(), result.total)]
    for kept, fraction in pairs:
        assert abs(kept / n - fraction.value) < 4 * np.sqrt(fraction.value * (1 - fraction.value) / n)


def test_overlap_is_a_share_of_the_row() -> None:
    shares = overlap(np.array([[1, 1], [1, 0], [1, 0], [1, 0]], bool))
    assert shares.tolist() == [[1, 0.25], [1, 1]]


def test_difference_counts_every_event_once() -> None:
    first, second = np.array([[1, 1, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0]], bool)
    d = difference(first, second)
    assert (d.events, d.both, d.only_first, d.only_second, d.neither) == (6, 1, 2, 1, 2)
    assert d.fractions["only_first"] == counted(2, 6)


def menu_rates(accepted: int, n: int) -> MenuRates:
    return rates(menu_of([1]), decisions_of([[1]] * accepted + [[0]] * (n - accepted)))


@pytest.mark.parametrize(
    ("budget", "within", "words"),
    [
        (150, True, "is within the budget of 150 Hz"),
        (101, True, "is within the budget of 101 Hz, by less than its uncertainty"),
        (100, True, "is within the budget of 100 Hz, by less than its uncertainty"),
        (99.5, False, "exceeds the budget of 99.5 Hz, by less than its uncertainty"),
        (50, False, "exceeds the budget of 50 Hz"),
    ],
)
def test_verdict(budget: float, within: bool, words: str) -> None:
    result, sentence = verdict(menu_rates(100, 1000), 1000.0, budget)
    assert result is within
    assert words in sentence
    assert sentence.startswith("total 100.0 (90.9 .. 109.9) Hz ")
    assert ("uncertainty" in sentence) == ("uncertainty" in words)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(12345.678, 12000, 13000), "12,346 (12,000 .. 13,000)"),
        (Fraction(1.23456, 1.2, 1.26), "1.235 (1.200 .. 1.260)"),
        (Fraction(10, 8, 12.5), "10.0 (8.0 .. 12.5)"),
        (Fraction(0, 0, 0), "0 (0 .. 0)"),
        (Fraction(0, 0, 1e-12), "0.000000000 (0.000000000 .. 0.000000000)"),
    ],
)
def test_numbers_show_two_digits_of_their_uncertainty(value: Fraction, text: str) -> None:
    assert spread(value) == text
