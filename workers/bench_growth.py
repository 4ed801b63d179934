"""How the cost of an event grows with its hits, from measurements of samples with different pileup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hltfarm.workers.bench import Point


@dataclass(frozen=True)
class Exponent:
    """cost = factor x hits ^ value; `error` is one standard deviation, None for two samples."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Growth:
    """How the cost of an event grows with its hits, at the best setting of each sample: of the chain and of each stage."""

    backend: str
    best: list[Point]
    chain: Exponent
    stages: dict[str, Exponent]


def exponent(hits: Sequence[float], cost: Sequence[float]) -> Exponent | None:
    """Line through (log hits, log cost) by least squares. None without two different numbers of hits, or with a cost of 0."""
    if len(set(hits)) < 2 or min(*hits, *cost) <= 0:
        return None
    x, y = np.log(hits), np.log(cost)
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread
    left = y - y.mean() - slope * (x - x.mean())
    free = len(x) - 2
    return Exponent(slope, float(np.sqrt((left**2).sum() / free / spread)) if free else None)


def growth(points: Sequence[Point]) -> Iterator[Growth]:
    """For each backend with samples of different numbers of hits."""
    for backend in dict.fromkeys(p.backend for p in points):
        best: dict[str, Point] = {}
        for p in points:
            if p.backend == backend and (p.sample not in best or p.events_per_second > best[p.sample].events_per_second):
                best[p.sample] = p
        chosen = list(best.values())
        hits = [p.hits for p in chosen]
        chain = exponent(hits, [1e6 / p.events_per_second for p in chosen])
        if chain is None:
            continue
        names = [s for s in chosen[0].stages_us if s != "chain" and all(s in p.stages_us for p in chosen)]
        fits = {s: exponent(hits, [p.stages_us[s] for p in chosen]) for s in names}
        yield Growth(backend, chosen, chain, {s: fit for s, fit in fits.items() if fit is not None})
