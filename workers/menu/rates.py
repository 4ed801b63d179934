"""What a menu would write: fractions of events with uncertainties, by path, by stream and in all; and how two menus differ.

A prescale keeps one accept in N, chosen by a hash. Which ones it chose in this sample is luck that says nothing about other events,
so a fraction here is an expectation over the hash: an event counts with the probability w that it is kept,

    one path:        w = 1 / prescale if its cuts hold, else 0
    several paths:   w = 1 - product of (1 - w_path), the hashes of two paths being independent

and the fraction of n events is the mean m of their weights. Its 68.27 % interval is made as Wilson's score interval for counts is
(J. Am. Stat. Assoc. 22 (1927) 209): a bound is the mean of the population for which the sample's mean is one standard deviation away.
For weights that population is the sample with a share of its events moved to the largest weight b that an event can have (upper bound),
or to 0 (lower bound). A share e of events moved to b changes mean and variance v to

    m + d,  (1 - e) v + e (1 - e) (b - m)^2     with d = e (b - m)

and n d^2 = variance is (n + 1) d^2 - (b - m - v / (b - m)) d - v = 0. For weights 0 and b it is Wilson's interval, in the case of one path
that of its raw accepts divided by the prescale; for many events it is m +- sqrt(v / n); and a path without prescale that took nothing yet
widens the total as it should.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from hltfarm.workers.menu.evaluate import Decisions
from hltfarm.workers.menu.menu import Menu, Path

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Fraction:
    """A fraction of events, or a rate, with its 68.27 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Fraction:
        """The same of another unit: fraction times input rate is a rate."""
        return Fraction(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class PathRate:
    """`raw`, `kept`: events of this sample before and after the prescale. `unique`: fraction that no other path keeps."""

    path: Path
    raw: int
    kept: int
    fraction: Fraction
    unique: Fraction


@dataclass(frozen=True)
class StreamRate:
    """Events of this sample in a stream, and the fraction to expect. An event that belongs to two streams is in both."""

    kept: int
    fraction: Fraction


@dataclass(frozen=True)
class MenuRates:
    """Rates of a menu on n `events`. `overlap` (p, p): of the raw accepts of path i, the share that path j takes too; NaN without any."""

    menu: Menu
    events: int
    paths: tuple[PathRate, ...]
    streams: dict[str, StreamRate]
    total: StreamRate
    overlap: NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Events of this sample that two menus accept after their prescales: both, only one of them, none."""

    events: int
    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def fractions(self) -> dict[str, Fraction]:
        """The four as fractions of all events."""
        return {name: counted(getattr(self, name), self.events) for name in ("both", "only_first", "only_second", "neither")}


def counted(k: int, n: int) -> Fraction:
    """k of n events (n is at least 1), with Wilson's interval."""
    return _interval(k / n, k / n * (1 - k / n), n, 1.0)


def expected(weights: Weights, largest: float) -> Fraction:
    """Mean of n weights (at least one) between 0 and `largest`, with its interval."""
    return _interval(float(weights.mean()), float(weights.var()), len(weights), largest)


def _interval(mean: float, variance: float, n: int, largest: float) -> Fraction:
    return Fraction(mean, max(0.0, mean - _shift(mean, variance, n)), min(largest, mean + _shift(largest - mean, variance, n)))


def _shift(room: float, variance: float, n: int) -> float:
    """Positive root d of the equation above, `room` being the way from the mean to where events are moved."""
    if room <= 0:
        return 0.0
    slope = room - variance / room
    return (slope + sqrt(slope**2 + 4 * (n + 1) * variance)) / (2 * (n + 1))


def rates(menu: Menu, decisions: Decisions) -> MenuRates:
    """Rates of a menu from its decisions on a sample of at least one event."""
    n = len(decisions.raw)
    keep = np.array([1 / path.prescale if path.prescale else 0.0 for path in menu.paths])
    took = decisions.raw * keep
    miss = 1 - took
    before = np.cumprod(np.column_stack([np.ones(n), miss[:, :-1]]), axis=1)
    after = np.cumprod(np.column_stack([np.ones(n), miss[:, :0:-1]]), axis=1)[:, ::-1]
    alone = took * before * after
    paths = tuple(
        PathRate(
            path,
            int(decisions.raw[:, i].sum()),
            int(decisions.kept[:, i].sum()),
            expected(took[:, i], keep[i]),
            expected(alone[:, i], keep[i]),
        )
        for i, path in enumerate(menu.paths)
    )
    streams = {stream: [i for i, path in enumerate(menu.paths) if path.stream == stream] for stream in menu.streams}
    return MenuRates(
        menu,
        n,
        paths,
        {stream: _together(decisions, miss, keep, members) for stream, members in streams.items()},
        _together(decisions, miss, keep, list(range(len(menu.paths)))),
        overlap(decisions.raw),
    )


def _together(decisions: Decisions, miss: Weights, keep: Weights, members: list[int]) -> StreamRate:
    """Events that at least one of some paths keeps."""
    kept = int(decisions.kept[:, members].any(axis=1).sum())
    return StreamRate(kept, expected(1 - miss[:, members].prod(axis=1), 1 - float((1 - keep[members]).prod())))


def overlap(raw: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(p, p) of accepts (n, p): share of the accepts of path i that path j takes too; NaN where path i has none."""
    counts = raw.astype(np.int64)
    accepts = counts.sum(axis=0)
    shares = np.full((len(accepts), len(accepts)), np.nan)
    np.divide(counts.T @ counts, accepts[:, None], out=shares, where=accepts[:, None] > 0)
    return shares


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """How the accepts (n,) of two menus on the same events differ."""
    counts = (first & second, first & ~second, ~first & second, ~first & ~second)
    return Difference(len(first), *(int(chosen.sum()) for chosen in counts))
