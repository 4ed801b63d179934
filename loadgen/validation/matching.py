"""From pixels to particles: which crossings made a hit, which particle a track belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.validation.definitions import Bools, Ints
from hltfarm.loadgen.validation.event import Digis, Geometry

_MAX_ROW = _MAX_COL = 1 << 12

Truth = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Links:
    """Pairs (hit, what it stems from), each once, ordered by hit and then by the other."""

    hit: Ints  # (k,)
    source: Ints  # (k,)
    n_hits: int

    def count(self) -> Ints:
        """Number of sources of every hit (n_hits,)."""
        n: Ints = np.bincount(self.hit, minlength=self.n_hits).astype(np.int64)
        return n


@dataclass(frozen=True, eq=False)
class TrackMatch:
    """Of every track (t,): the particle it is matched to, -1 for a fake, and how many of its hits stem from its best particle."""

    particle: Ints
    shared: Ints

    @property
    def matched(self) -> Bools:
        return self.particle >= 0


def pixel_crossings(digis: Digis, truth: Truth) -> Ints:
    """Crossing (index of the truth's hits) that every reconstructed pixel stems from, -1 for noise (d,)."""
    fired = _pixel(truth["digi_module"], truth["digi_row"], truth["digi_col"])
    found = _pixel(digis.module, digis.row, digis.col)
    if len(fired) == 0:
        return np.full(len(found), -1, np.int64)
    order = np.argsort(fired, kind="stable")
    at = np.minimum(np.searchsorted(fired[order], found), len(fired) - 1)
    crossing: Ints = np.where(fired[order[at]] == found, truth["digi_hit"].astype(np.int64)[order[at]], -1)
    return crossing


def hit_crossings(digis: Digis, crossing: Ints, n_hits: int) -> Links:
    """Crossings with at least one pixel in the cluster of a hit."""
    use = (digis.hit >= 0) & (crossing >= 0)
    return _links(digis.hit[use], crossing[use], n_hits)


def hit_particles(crossings: Links, truth: Truth) -> Links:
    """Particles with at least one pixel in the cluster of a hit."""
    particle = truth["hit_part"].astype(np.int64)[crossings.source]
    use = particle >= 0
    return _links(crossings.hit[use], particle[use], crossings.n_hits)


def match_tracks(hits: Ints, particles: Links, fraction: float) -> TrackMatch:
    """Match tracks, given by their hits (t, most hits; -1 fills up), to particles.

    A track is matched to the particle that most of its hits stem from (of several: the one of the smallest index) if these are at least
    `fraction` of its hits; with 0.75: all 3, 3 of 4, 4 of 5.
    """
    n = len(hits)
    n_hits = (hits >= 0).sum(axis=1).astype(np.int64)
    track = np.repeat(np.arange(n), n_hits)
    hit = hits[hits >= 0]
    start = np.searchsorted(particles.hit, np.arange(particles.n_hits + 1))
    many = np.diff(start)[hit]
    within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
    source = particles.source[np.repeat(start[hit], many) + within]
    pairs, shared = np.unique(np.stack([np.repeat(track, many), source]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -shared, pairs[0]))
    best = order[np.unique(pairs[0][order], return_index=True)[1]]
    out = TrackMatch(np.full(n, -1, np.int64), np.zeros(n, np.int64))
    out.shared[pairs[0][best]] = shared[best]
    out.particle[pairs[0][best]] = pairs[1][best]
    out.particle[(out.shared < fraction * n_hits) | (n_hits == 0)] = -1
    return out


def duplicates(match: TrackMatch, use: Bools, n_hits: Ints, chi2: NDArray[np.float64]) -> Bools:
    """Tracks (t,) of those in `use` whose particle a better one has already: with more hits, then the smaller chi2, then index."""
    at = np.flatnonzero(use & match.matched)
    order = at[np.lexsort((at, chi2[at], -n_hits[at], match.particle[at]))]
    again = np.zeros(len(use), np.bool_)
    again[order[1:]] = match.particle[order[1:]] == match.particle[order[:-1]]
    return again


def layers_crossed(truth: Truth, geometry: Geometry) -> Ints:
    """Number of different layers that every particle crosses on its way out (first half-turn) (p,)."""
    out = (truth["hit_pass"] == 0) & (truth["hit_part"] >= 0)
    links = _links(truth["hit_part"][out].astype(np.int64), geometry.layer[truth["hit_module"][out]], len(truth["part_pt"]))
    return links.count()


def _links(hit: Ints, source: Ints, n_hits: int) -> Links:
    width = int(source.max(initial=0)) + 1
    pairs = np.unique(hit * width + source)
    return Links(pairs // width, pairs % width, n_hits)


def _pixel(module: NDArray[Any], row: NDArray[Any], col: NDArray[Any]) -> Ints:
    """One number per pixel position."""
    number: Ints = (module.astype(np.int64) * _MAX_ROW + row) * _MAX_COL + col
    return number
