"""Where events come from: one interface for sample files and data directories."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hltfarm.loadgen.arrays import Array
from hltfarm.loadgen.patatrack import PatatrackEvents
from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.sample_folder import SampleFolder, sample_files
from hltfarm.proto.detector import Detector
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import RawEvent

#: Samples that come with the distribution, by the name that stands for their path; a file or folder of that name goes first.
SHIPPED = {"demo": Path(__file__).parent / "data" / "demo.hlt"}


class EventSource(Protocol):
    """A finite sequence of events for one detector. Payloads are read-only to the user and live as long as somebody refers to them."""

    @property
    def name(self) -> str:
        """Short name for reports."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> RawEvent:
        """Event i (negative i count from the end). IndexError outside, SampleError if the data are damaged."""

    def detector(self) -> Detector:
        """The detector that the events belong to."""

    def truth(self, i: int, /) -> dict[str, Array] | None:
        """Truth of event i, None where there is none. Arrays as in docs/sample-format.md."""


def located(path: str | Path) -> Path:
    """Where a source is: the path, or that of the shipped sample of this name."""
    p = Path(path)
    return p if p.exists() else SHIPPED.get(str(path), p)


def open_source(path: str | Path) -> EventSource:
    """A `.hlt` sample file, a folder that has some, a data directory of pixeltrack-standalone, or the name of a shipped sample.

    Raises SampleError if it is none of them.
    """
    p = located(path)
    if p.is_dir():
        if sample_files(p):
            return SampleFolder(p)
        return PatatrackEvents(p)
    if not p.exists():
        raise SampleError(f"{p}: no such sample file or data directory; make one with 'hltfarm simulate --out {p}', or take 'demo'")
    return Sample(p)


def read_events(path: str | Path, limit: int | None = None) -> list[RawEvent]:
    """The events of a source in memory, the first `limit` of them at most. SampleError as `open_source`, and for damaged data."""
    events = open_source(path)
    return [events[index] for index in range(len(events) if limit is None else min(limit, len(events)))]
