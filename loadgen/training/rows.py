"""Rows of a training: one per track or event, with what the model sees and what it should say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.validation.definitions import Bools, Floats, Ints

Values = NDArray[np.float32]

#: Groups of rows with a threshold of their own, by what is scored; the names of the thresholds of a working point.
GROUPS: dict[str, tuple[str, ...]] = {"track": ("triplets", "longer"), "event": ("event",)}


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows. `label`: a matched track, a signal event. `event`: number of the event, in its sample; `group`: index into `groups`.

    `about`: further columns (n,) that plots and weights go by (pt, eta, n_hits, tip), never seen by the model. `read`: sample and number of
    every event that was read, those without rows too.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: Values  # (n, len(names))
    label: Bools
    group: Ints
    sample: Ints
    event: Ints
    about: Mapping[str, Floats]
    read: Ints  # (2, events)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, keep: Bools | Ints) -> Rows:
        """The rows of a mask or of a list of row numbers, out of the same events."""
        about = {name: column[keep] for name, column in self.about.items()}
        columns = (self.values[keep], self.label[keep], self.group[keep], self.sample[keep], self.event[keep])
        return Rows(self.names, self.groups, *columns, about, self.read)

    def of(self, group: int) -> Bools:
        """Mask of the rows of a group."""
        mine: Bools = self.group == group
        return mine

    @property
    def events(self) -> int:
        """Number of different events that were read: what a number per event is divided by."""
        return len(np.unique(self.read, axis=1).T)

    def columns(self, *names: str) -> Values:
        """The values of some features (n, len(names))."""
        return self.values[:, [self.names.index(name) for name in names]]

    def only(self, names: Sequence[str]) -> Rows:
        """The same rows with some of the features, in the given order."""
        return replace(self, names=tuple(names), values=self.columns(*names))


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, which have the same features and groups."""
    first = parts[0]
    about = {name: np.concatenate([p.about[name] for p in parts]) for name in first.about}
    return Rows(
        first.names,
        first.groups,
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.label for p in parts]),
        np.concatenate([p.group for p in parts]),
        np.concatenate([p.sample for p in parts]),
        np.concatenate([p.event for p in parts]),
        about,
        np.concatenate([p.read for p in parts], axis=1),
    )
