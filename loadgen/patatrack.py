"""Data directories of pixeltrack-standalone: raw.bin as events, the count files, and truth.npz where a simulation left one.

raw.bin repeats per event until the end of the file: u32 n_feds, then n_feds x (u32 fed_id, u32 size_bytes, frame). Counts: digicluster.bin
(u32 modules, digis, clusters per event), tracks.bin and vertices.bin (u32 each).
"""

from __future__ import annotations

import mmap
import os
import struct
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.arrays import Array
from hltfarm.proto.detector import Detector, read_patatrack, write_patatrack
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import MAX_FEDS, split_payload

_REFERENCES = {"part_vtx": "vtx", "hit_part": "part", "digi_hit": "hit"}


class EventCounts(NamedTuple):
    """What the original programs check per event. digis = 32-bit words, padding included; tracks = ntuplets of any quality."""

    modules: int
    digis: int
    clusters: int
    tracks: int
    vertices: int


class _Frames(NamedTuple):
    """Where the frames of an event lie in raw.bin."""

    table: NDArray[np.uint32]  # (n_feds, 2): fed_id, size_bytes
    start: NDArray[np.int64]  # (n_feds,)


class PatatrackEvents:
    """The events of a directory: `len(s)`, `s[i]`, iteration. run = lumi = 1, event = index, bx = 0.

    raw.bin is memory-mapped and indexed once (about 0.1 ms per event); a payload is put together anew at every access and belongs to
    the caller. Raises SampleError if raw.bin is missing, truncated or damaged, naming event and offset.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory)
        self._raw = self.path / "raw.bin"
        self._data = _map(self._raw)
        self._events = _index(self._raw, self._data)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, i: int) -> RawEvent:
        k = self._position(i)
        table, start = self._events[k]
        at = 4 + 8 * len(table)
        payload = np.empty(at + int(table[:, 1].sum(dtype=np.int64)), np.uint8)
        payload[:4].view("<u4")[0] = len(table)
        payload[4:at].view("<u4")[:] = table.ravel()
        for first, size in zip(start.tolist(), table[:, 1].tolist(), strict=True):
            payload[at : at + size] = self._data[first : first + size]
            at += size
        return RawEvent(EventId(run=1, lumi=1, event=k), payload)

    def __iter__(self) -> Iterator[RawEvent]:
        return (self[i] for i in range(len(self)))

    def detector(self) -> Detector:
        """The conditions files of the directory. Raises ConditionsError."""
        return read_patatrack(self.path)

    def expected(self) -> list[EventCounts] | None:
        """Counts per event from the three count files, None if one is missing. SampleError if one has fewer entries than raw.bin events."""
        columns: list[NDArray[np.uint32]] = []
        for name, width in (("digicluster.bin", 3), ("tracks.bin", 1), ("vertices.bin", 1)):
            path = self.path / name
            if not path.exists():
                return None
            data = path.read_bytes()
            if len(data) < 4 * width * len(self):
                raise SampleError(f"{path}: {len(data)} bytes, {len(self)} events need {4 * width * len(self)}; copy the file again")
            columns.append(np.frombuffer(data[: 4 * width * len(self)], "<u4").reshape(len(self), width))
        return [EventCounts(*row) for row in np.concatenate(columns, axis=1).tolist()]

    def truth(self, i: int) -> dict[str, Array] | None:
        """Truth arrays of event i without the `*_ev` columns, None without truth.npz.

        `part_vtx`, `hit_part`, `digi_hit` count within the event; -1 means none.
        """
        k = self._position(i)
        if self._truth is None:
            return None
        out: dict[str, Array] = {}
        arrays, groups = self._truth
        for name, values in arrays.items():
            group = name.partition("_")[0]
            mine = values[groups[group].order[groups[group].slice(k)]]
            if name in _REFERENCES:
                mine = groups[_REFERENCES[name]].local(mine, k)
            out[name] = mine
        return out

    @cached_property
    def _truth(self) -> tuple[dict[str, Array], dict[str, _Group]] | None:
        path = self.path / "truth.npz"
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {str(name): np.asarray(stored[name]) for name in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
            raise SampleError(f"{path}: cannot be read ({e}); copy the file again") from e
        groups = {name[:-3]: _Group(arrays.pop(name), len(self)) for name in list(arrays) if name.endswith("_ev")}
        known = {n: a for n, a in arrays.items() if n.partition("_")[0] in groups}
        for name, values in known.items():
            group = name.partition("_")[0]
            if len(values) != len(groups[group].order) or (name in _REFERENCES and _REFERENCES[name] not in groups):
                raise SampleError(f"{path}: {name} does not fit the other arrays; copy the file again")
        return known, groups

    def _position(self, i: int) -> int:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"event {i} of a sample of {n}")
        return i % n


class _Group:
    """Rows of truth arrays, put in order of their event."""

    def __init__(self, event: Array, n_events: int) -> None:
        self.order: NDArray[np.int64] = np.argsort(event, kind="stable")
        self.bounds: NDArray[np.int64] = np.searchsorted(event[self.order], np.arange(n_events + 1))
        self.place = np.empty(len(event), np.int64)
        self.place[self.order] = np.arange(len(event))

    def slice(self, event: int) -> slice:
        return slice(int(self.bounds[event]), int(self.bounds[event + 1]))

    def local(self, index: Array, event: int) -> NDArray[np.int32]:
        """Indices into the whole array as indices into the rows of the event; -1 stays, and so becomes what belongs to another event."""
        mine = self.slice(event)
        inside = (index >= 0) & (index < len(self.place))
        at = np.full(len(index), -1, np.int64)
        at[inside] = self.place[index[inside]]
        return np.where((at >= mine.start) & (at < mine.stop), at - mine.start, -1).astype(np.int32)


class PatatrackWriter:
    """Writes a data directory event by event; a context manager. With a detector, its conditions files are written too.

    Give counts for all events or for none; with counts the three count files are written. Closing twice is harmless.
    """

    def __init__(self, directory: str | Path, detector: Detector | None = None) -> None:
        """Raises SampleError if the directory cannot be written, ConditionsError if the detector does not fit the format."""
        self._path = Path(directory)
        self._counts: list[EventCounts] = []
        self._events = 0
        if detector is not None:
            write_patatrack(detector, self._path)
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = (self._path / "raw.bin").open("wb")
        except OSError as e:
            raise SampleError(f"{self._path}: cannot be written ({e.strerror})") from e

    def add(self, event: RawEvent, counts: EventCounts | None = None) -> None:
        """Append an event. WireError if its payload is malformed, SampleError if counts come with some events only."""
        frames = split_payload(event.payload)
        if (counts is not None) != (len(self._counts) == self._events) and self._events:
            raise SampleError(f"{self._path}: counts are given for some events only")
        if counts is not None:
            self._counts.append(counts)
        self._file.write(struct.pack("<I", len(frames)))
        for fed_id, frame in frames:
            self._file.write(struct.pack("<II", fed_id, len(frame)))
            self._file.write(frame.tobytes())
        self._events += 1

    def close(self) -> None:
        """Finish raw.bin and write the count files."""
        if self._file.closed:
            return
        self._file.close()
        if self._counts:
            table = np.array(self._counts, "<u4")
            for name, columns in (("digicluster.bin", table[:, :3]), ("tracks.bin", table[:, 3]), ("vertices.bin", table[:, 4])):
                (self._path / name).write_bytes(np.ascontiguousarray(columns).tobytes())

    def __enter__(self) -> PatatrackWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()


def _map(path: Path) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                return np.zeros(0, np.uint8)
            return np.frombuffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as e:
        raise SampleError(f"{path}: cannot be read ({e.strerror}); a data directory of pixeltrack-standalone has a raw.bin") from e


def _index(path: Path, data: NDArray[np.uint8]) -> list[_Frames]:
    """Position of every frame of every event."""
    events: list[_Frames] = []
    buffer: Any = data.data
    at, n_bytes = 0, len(data)
    pair = struct.Struct("<II")

    def fail(text: str) -> SampleError:
        return SampleError(f"{path}: event {len(events)} at byte {begin}: {text}; the file is truncated or damaged, copy it again")

    while at < n_bytes:
        begin = at
        if at + 4 > n_bytes:
            raise fail("the file ends within the number of FEDs")
        n_feds = int.from_bytes(buffer[at : at + 4], "little")
        if n_feds > MAX_FEDS:
            raise fail(f"{n_feds} FEDs, at most {MAX_FEDS} are possible")
        at += 4
        table: list[tuple[int, int]] = []
        start: list[int] = []
        for k in range(n_feds):
            if at + 8 > n_bytes:
                raise fail(f"the file ends at byte {n_bytes} within FED {k} of {n_feds}")
            fed_id, size = pair.unpack_from(buffer, at)
            at += 8
            if fed_id > MAX_FEDS or size % 8:
                raise fail(f"FED {k} of {n_feds} at byte {at - 8} has id {fed_id} and {size} bytes")
            if at + size > n_bytes:
                raise fail(f"the file ends at byte {n_bytes}, FED {fed_id} ends at byte {at + size}")
            table.append((fed_id, size))
            start.append(at)
            at += size
        events.append(_Frames(np.array(table, np.uint32).reshape(-1, 2), np.array(start, np.int64)))
    return events
