"""Which events train, stop and test a model. Whole events, because rows of one event know each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.training.rows import Rows
from hltfarm.loadgen.validation.definitions import Bools


@dataclass(frozen=True)
class Fractions:
    """Of the events. `validation` decides when training ends and sets calibration and thresholds; the rest trains."""

    validation: float = 0.15
    test: float = 0.15


@dataclass(frozen=True, eq=False)
class Split:
    """Masks over rows; every row is in one of them."""

    train: Bools
    validation: Bools
    test: Bools


def split(rows: Rows, seed: int, fractions: Fractions) -> Split:
    """Each event goes by a hash of seed, sample and event number: more events or other samples move none of those that were there."""
    return _split(seed, rows.sample, rows.event, fractions)


def parts(rows: Rows, seed: int, fractions: Fractions) -> tuple[Rows, Rows, Rows]:
    """The rows that train, validate and test, each with the events of its part, those without rows too."""
    of_rows, of_events = split(rows, seed, fractions), _split(seed, rows.read[0], rows.read[1], fractions)
    masks = (of_rows.train, of_events.train), (of_rows.validation, of_events.validation), (of_rows.test, of_events.test)
    train, validation, test = (replace(rows[mine], read=rows.read[:, events]) for mine, events in masks)
    return train, validation, test


def _split(seed: int, sample: NDArray[np.int64], event: NDArray[np.int64], fractions: Fractions) -> Split:
    u = _uniform(seed, sample, event)
    test = u < fractions.test
    validation = ~test & (u < fractions.test + fractions.validation)
    return Split(~test & ~validation, validation, test)


def _uniform(seed: int, *numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in 0 .. 1 for each tuple of numbers: the finaliser of SplitMix64, applied to one after the other."""
    state = np.full(numbers[0].shape, seed % 2**64, np.uint64)
    for n in numbers:
        state = state + n.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    out: NDArray[np.float64] = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return out
