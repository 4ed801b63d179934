"""A menu on result rows, in NumPy: the slow definition of what the kernel `decide` computes, and the way to compare menus offline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hltfarm.workers.menu.menu import Menu, path_salt


@dataclass(frozen=True)
class Decisions:
    """Of n events and p paths: `raw` (n, p) all cuts hold; `kept` (n, p) and the prescale keeps the event."""

    raw: NDArray[np.bool_]
    kept: NDArray[np.bool_]

    @property
    def path_raw(self) -> NDArray[np.uint64]:
        """(n,) bit i: column i of `raw`."""
        return _bits(self.raw)

    @property
    def path_bits(self) -> NDArray[np.uint64]:
        """(n,) bit i: column i of `kept`."""
        return _bits(self.kept)

    @property
    def accept(self) -> NDArray[np.bool_]:
        """(n,) at least one path keeps the event."""
        return np.asarray(self.kept.any(axis=1))


def evaluate(menu: Menu, rows: NDArray[np.void], run: ArrayLike, events: ArrayLike) -> Decisions:
    """Decisions of a menu on n events.

    `rows` (n,) of dtype RESULT, of which only the quantities are read: one pass of the chain does for any number of menus.
    `run`, `events`: run number (one for all, or n) and event numbers (n).
    """
    n = len(rows)
    events = np.asarray(events, np.uint64)
    identity = mixed(np.broadcast_to(np.asarray(run, np.uint64), n), np.broadcast_to(events, n))
    raw = np.ones((n, len(menu.paths)), np.bool_)
    kept = np.zeros_like(raw)
    for i, path in enumerate(menu.paths):
        for quantity, cut in path.require.items():
            values = rows[quantity].astype(np.float64)
            raw[:, i] &= values >= (-np.inf if cut.min is None else cut.min)
            raw[:, i] &= values <= (np.inf if cut.max is None else cut.max)
        if path.prescale:
            draw = mixed(identity, np.full(n, path_salt(path.name), np.uint64))
            kept[:, i] = raw[:, i] & (draw % np.uint64(path.prescale) == 0)
    return Decisions(raw, kept)


def mixed(seed: NDArray[np.uint64], value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64-bit hash of a seed and a value, element by element: `mix(seed, value)` of backends/portable.cuh."""
    return splitmix64(seed ^ splitmix64(value))


def splitmix64(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), modulo 2^64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _bits(passed: NDArray[np.bool_]) -> NDArray[np.uint64]:
    places = np.uint64(1) << np.arange(passed.shape[1], dtype=np.uint64)
    bits: NDArray[np.uint64] = np.where(passed, places, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return bits
