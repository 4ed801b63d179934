"""Sample and output files as rows: which of them, what they hold, and their events one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.sample_folder import sample_files
from hltfarm.loadgen.source import located
from hltfarm.proto.errors import LayoutError, SampleError
from hltfarm.proto.events import EventId
from hltfarm.proto.results import layout_dtype
from hltfarm.service.export.block import EventRow, payload_table
from hltfarm.service.export.events import FITS
from hltfarm.service.export.schema import PAYLOAD
from hltfarm.service.export.truth import ARRAYS


@dataclass(frozen=True)
class Cut:
    """Which events: those of files of these streams (all if empty), and of runs and lumisections within (least, most)."""

    streams: tuple[str, ...] = ()
    runs: tuple[int, int] | None = None
    lumis: tuple[int, int] | None = None

    def places(self, sample: Sample) -> NDArray[np.int64]:
        """Places of the events of a file that pass."""
        ids = sample.identities()
        use = np.ones(len(ids), np.bool_)
        for field, limits in (("run", self.runs), ("lumi", self.lumis)):
            if limits is not None:
                use &= (ids[field] >= limits[0]) & (ids[field] <= limits[1])
        return np.flatnonzero(use)


@dataclass(frozen=True)
class Holds:
    """What a file holds, looked up once: how many events pass, the (run, lumisection) pairs among them, fields of decisions, tables."""

    path: Path
    metadata: Mapping[str, Any]
    events: int
    lumis: tuple[tuple[int, int], ...]
    decision: np.dtype[np.void] | None
    tables: bool
    truth: bool

    @property
    def stream(self) -> str:
        """Stream of an output file, empty for another sample."""
        return str(self.metadata.get("stream", ""))


def survey(sources: Sequence[Path], cut: Cut) -> list[Holds]:
    """The files of the sources (files, folders, names of shipped samples) that have events which pass.

    Raises SampleError if a file cannot be read, if no event passes, or if decisions have different fields, or some files have none.
    """
    found, streams = list[Holds](), dict[str, None]()
    for path in _files(sources):
        holds = _look(Sample(path), cut)
        streams[holds.stream] = None
        if holds.events and (not cut.streams or holds.stream in cut.streams):
            found.append(holds)
    if not found:
        known = ", ".join(name for name in streams if name)
        raise SampleError(f"{' '.join(map(str, sources))}: no event passes{f'; the streams there are {known}' if known else ''}")
    for holds in found:
        if holds.decision != found[0].decision:
            raise SampleError(f"{found[0].path} and {holds.path}: decisions have different fields, or one has none; export them apart")
    return found


def rows(holds: Holds, cut: Cut, tables: Sequence[str], stream: int, lumi: tuple[int, int] | None = None) -> Iterator[EventRow]:
    """The events of a file that pass, in its order; `lumi`: only those of this (run, lumisection). Raises SampleError for damage."""
    sample = Sample(holds.path)
    ids = sample.identities()
    paths = tuple(str(name) for name in holds.metadata.get("paths", ()))
    truth = [table for table in tables if table in ARRAYS]
    fits = any(table in FITS for table in tables)
    places = cut.places(sample)
    if lumi is not None:
        places = places[(ids["run"][places] == lumi[0]) & (ids["lumi"][places] == lumi[1])]
    for place in places.tolist():
        record = ids[place]
        identity = EventId(int(record["run"]), int(record["lumi"]), int(record["event"]), int(record["bx"]))
        found: dict[str, Any] = {}
        if fits:
            found |= sample.columns(place) or {}
        if truth:
            found |= truth_tables(sample.truth(place), truth, f"{holds.path}: event number {place}")
        if PAYLOAD in tables:
            found |= payload_table(sample[place].payload)
        yield EventRow(identity, sample.decision(place), paths, stream, found)


def truth_tables(arrays: Mapping[str, NDArray[Any]] | None, tables: Sequence[str], where: str) -> dict[str, dict[str, NDArray[Any]]]:
    """Tables of the truth of an event. Raises SampleError if it has none."""
    if arrays is None:
        raise SampleError(f"{where} has no truth; simulate the sample with --truth, or leave out {', '.join(tables)}")
    return {
        table: {name.removeprefix(ARRAYS[table]): values for name, values in arrays.items() if name.startswith(ARRAYS[table])}
        for table in tables
    }


def fingerprints(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of every file of the sources. Raises SampleError for one that cannot be read."""
    found = []
    for source in map(located, sources):
        files = [source] if source.is_file() else sample_files(source) or sorted(path for path in source.iterdir() if path.is_file())
        for path in files:
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise SampleError(f"{path}: cannot be read ({error.strerror})") from error
            name = path.name if path == source else path.relative_to(source).as_posix()
            found.append({"file": name, "bytes": path.stat().st_size, "sha256": digest})
    return found


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    for source in map(located, sources):
        if not source.exists():
            raise SampleError(f"{source}: no such file or folder; name .hlt files, or folders that have some")
        files = sample_files(source) if source.is_dir() else [source]
        if not files:
            raise SampleError(f"{source}: no .hlt files in it; reconstruct other data with `hltfarm reco --out`")
        yield from files


def _look(sample: Sample, cut: Cut) -> Holds:
    places = cut.places(sample)
    ids = sample.identities()[places]
    lumis = tuple(sorted({(int(run), int(lumi)) for run, lumi in np.unique(ids[["run", "lumi"]])}))
    first = int(places[0]) if len(places) else None
    decided = first is not None and sample.decision(first) is not None
    try:
        decision = layout_dtype(sample.metadata.get("decision_fields")) if decided else None
    except LayoutError as error:
        raise SampleError(f"{sample.path}: the fields of its decisions: {error}") from error
    truth = first is not None and sample.truth(first) is not None
    return Holds(sample.path, sample.metadata, len(places), lumis, decision, _has_tables(sample, first), truth)


def _has_tables(sample: Sample, first: int | None) -> bool:
    return bool(sample.metadata.get("columns")) or (first is not None and sample.columns(first) is not None)
