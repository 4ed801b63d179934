"""All sample files of a folder as one sequence of events, such as the output files of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.arrays import Array
from hltfarm.loadgen.sample import Sample
from hltfarm.proto.columns import Tables
from hltfarm.proto.detector import Detector
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import RawEvent

#: Files that are kept open. Each takes a descriptor, of which a process has some thousand; a run has that many lumisections.
OPEN = 128


def sample_files(folder: Path) -> list[Path]:
    """The `.hlt` files below a folder, by their paths, numbers in names by their values (part 2 comes before part 10)."""
    return sorted(folder.rglob("*.hlt"), key=lambda path: [_natural(part) for part in path.relative_to(folder).parts])


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


class _Files(Sequence[Sample]):
    """Samples by their place, opened when they are asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._opened = lru_cache(maxsize=OPEN)(Sample)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, i: int) -> Sample: ...

    @overload
    def __getitem__(self, i: slice) -> list[Sample]: ...

    def __getitem__(self, i: int | slice) -> Sample | list[Sample]:
        return [self._opened(path) for path in self._paths[i]] if isinstance(i, slice) else self._opened(self._paths[i])


class SampleFolder:
    """An event source over the files of a folder, one after the other. Events are counted through all of them."""

    def __init__(self, folder: Path) -> None:
        """Raises SampleError if there is no file, or one that cannot be read."""
        self.path = folder
        self.samples = _Files(sample_files(folder))
        if not self.samples:
            raise SampleError(f"{folder}: no .hlt files in it")
        self._ends = np.cumsum([len(sample) for sample in self.samples])

    @property
    def name(self) -> str:
        return self.path.name

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> RawEvent:
        sample, place = self.locate(i)
        return sample[place]

    def __iter__(self) -> Iterator[RawEvent]:
        return (event for sample in self.samples for event in sample)

    def locate(self, i: int) -> tuple[Sample, int]:
        """The file of event i, and its place there. IndexError outside."""
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"event {i} of a folder of {n}")
        file = int(np.searchsorted(self._ends, i % n, side="right"))
        return self.samples[file], i % n - int(self._ends[file - 1] if file else 0)

    def detector(self) -> Detector:
        """The detector that all files were made for. SampleError if they name different ones."""
        named = {str(sample.metadata.get("detector")) for sample in self.samples}
        if len(named) > 1:
            raise SampleError(f"{self.path}: its files were made for different detectors, {', '.join(sorted(named))}; read one at a time")
        return self.samples[0].detector()

    def truth(self, i: int) -> dict[str, Array] | None:
        """As `Sample.truth`."""
        sample, place = self.locate(i)
        return sample.truth(place)

    def decision(self, i: int) -> NDArray[np.void] | None:
        """As `Sample.decision`; the fields may differ from file to file."""
        sample, place = self.locate(i)
        return sample.decision(place)

    def columns(self, i: int) -> Tables | None:
        """As `Sample.columns`."""
        sample, place = self.locate(i)
        return sample.columns(place)

    def verify(self) -> None:
        """Check every byte of every file."""
        for sample in self.samples:
            sample.verify()
