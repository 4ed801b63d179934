"""The sample file (`.hlt`): events with truth, checksummed, readable without a copy (docs/sample-format.md)."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.arrays import Array, pack_arrays, unpack_arrays
from hltfarm.loadgen.detector_block import pack_detector, unpack_detector
from hltfarm.loadgen.records import ALIGN, INDEX, OF_EVENT, PAYLOAD_FORMAT, Flags, Header, Kind, RecordFile, encode, file_header, footer
from hltfarm.proto.columns import Tables, decode_columns
from hltfarm.proto.detector import Detector, phase1
from hltfarm.proto.errors import LayoutError, SampleError, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.results import layout_dtype


class SampleWriter:
    """Writes a sample event by event in constant memory; a context manager.

    The file appears under its name when the writer is closed without an error; until then it is `<name>.part`.
    The same calls give the same bytes: no time, host or user name is recorded.
    """

    def __init__(
        self,
        path: str | Path,
        metadata: Mapping[str, Any],
        *,
        detector: Detector | None = None,
        compress: bool = False,
    ) -> None:
        """`metadata` is JSON-able. `detector` is recorded by name and digest, and embedded unless it is the built-in one.

        `compress` also packs the payloads (about 60 %), which then are unpacked when read; truth and detector always are compressed.
        Raises SampleError if the file cannot be written or the metadata are not JSON.
        """
        self._path = Path(path)
        self._part = self._path.with_name(self._path.name + ".part")
        self._index: list[tuple[int, int, int, int, int, int, int]] = []
        self._payload_flags = Flags.ZLIB | Flags.SHUFFLED if compress else Flags.NONE
        meta = dict(metadata)
        if detector is not None:
            meta["detector"] = {"name": detector.name, "digest": detector.digest()}
        try:
            text = json.dumps(meta, sort_keys=True, allow_nan=False).encode()
        except (TypeError, ValueError) as e:
            raise SampleError(f"{self._path}: metadata are not JSON ({e})") from e
        try:
            self._file = self._part.open("wb")
        except OSError as e:
            raise SampleError(f"{self._path}: cannot be written ({e.strerror})") from e
        self._at = 0
        self._write(file_header())
        self._write(encode(Header(Kind.METADATA), text, Flags.NONE))
        if detector is not None and detector.digest() != phase1().digest():
            self._write(encode(Header(Kind.DETECTOR), pack_detector(detector), Flags.ZLIB))

    def add(self, event: RawEvent, truth: Mapping[str, Array] | None = None) -> None:
        """Append an event; `truth` holds the arrays of this event alone (indices count from its own first entry)."""
        i = event.id
        if event.payload.nbytes % 4:
            raise SampleError(f"event {i.event}: payload of {event.payload.nbytes} bytes is not whole 32-bit words")
        identity: dict[str, int] = {"event": i.event, "run": i.run, "lumi": i.lumi, "bx": i.bx, "payload_format": PAYLOAD_FORMAT}
        data = np.ascontiguousarray(event.payload, np.uint8).data
        payload_at = self._write(encode(Header(Kind.PAYLOAD, **identity), data, self._payload_flags))
        truth_at = 0
        if truth is not None:
            truth_at = self._write(encode(Header(Kind.TRUTH, **identity), pack_arrays(truth), Flags.ZLIB))
        self._index.append((payload_at, truth_at, i.event, i.run, i.lumi, i.bx, 0))

    def close(self) -> None:
        """Write index and footer and give the file its name."""
        if self._file.closed:
            return
        index_at = self._write(encode(Header(Kind.INDEX), np.array(self._index, INDEX).tobytes(), Flags.NONE))
        self._write(footer(len(self._index), index_at, self._at + ALIGN))
        self._file.close()
        os.replace(self._part, self._path)

    def abort(self) -> None:
        """Give up: remove what was written."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _write(self, data: bytes) -> int:
        at = self._at
        try:
            self._file.write(data)
        except OSError as e:
            self.abort()
            raise SampleError(f"{self._path}: cannot be written ({e.strerror})") from e
        self._at += len(data)
        return at


class Sample:
    """A sample opened for reading (memory-mapped, safe to share between threads): `len(s)`, `s[i]`, iteration.

    Opening checks header, footer, metadata and index; an event is checked when it is first read; `verify` checks everything.
    Every doubt is a SampleError that names the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records = RecordFile(str(path), map_file(self.path))
        self._records.check_file_header()
        n_events, index_at = self._records.read_footer()
        head, data = self._load(index_at, Kind.INDEX)
        if len(data) != n_events * INDEX.itemsize:
            self._records.fail(f"index of {len(data)} bytes, expected {n_events} events of {INDEX.itemsize} bytes")
        self._index = np.frombuffer(data, INDEX)
        self._end = index_at
        self._checked = np.zeros(n_events, np.bool_)
        head, data = self._load(ALIGN, Kind.METADATA)
        try:
            self.metadata: dict[str, Any] = dict(json.loads(data.tobytes()))
        except (ValueError, TypeError) as e:
            raise SampleError(f"{path}: metadata are not JSON ({e})") from e
        self._after_metadata = self._records.check_padding(ALIGN, head)

    @property
    def name(self) -> str:
        return self.path.name

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> RawEvent:
        """Event i. The payload is a read-only view of the mapped file, aligned to 128 bytes (a new array if it is stored compressed)."""
        k = self._position(i)
        entry = self._index[k]
        at = int(entry["payload"])
        head = self._records.header(at, Kind.PAYLOAD)
        identity = EventId(head.run, head.lumi, head.event, head.bx)
        if identity != (int(entry["run"]), int(entry["lumi"]), int(entry["event"]), int(entry["bx"])):
            self._records.fail(f"event number {k} of the index is not the one at byte {at}")
        if head.payload_format != PAYLOAD_FORMAT:
            self._records.fail(f"event number {k} has payload format {head.payload_format}, expected {PAYLOAD_FORMAT}")
        if not self._checked[k]:
            self._records.check_crc(at, head)
            self._checked[k] = True
        return RawEvent(identity, self._records.content(at, head))

    def __iter__(self) -> Iterator[RawEvent]:
        return (self[i] for i in range(len(self)))

    def identities(self) -> NDArray[np.void]:
        """Identity of every event, from the index: a record array with `run`, `lumi`, `event` and `bx` (read-only, no payload is read)."""
        return self._index[["run", "lumi", "event", "bx"]]

    def truth(self, i: int) -> dict[str, Array] | None:
        """Truth arrays of event i (owned by the caller), None if the sample has none."""
        at = int(self._index[self._position(i)]["truth"])
        if at == 0:
            return None
        _, data = self._load(at, Kind.TRUTH)
        return unpack_arrays(data.tobytes())[0]

    def decision(self, i: int) -> NDArray[np.void] | None:
        """What a farm decided about event i: one record with the fields that the file declares (`decision_fields`). None if the file
        has none. A copy."""
        k = self._position(i)
        distance = int(self._index[k]["decision"])
        if distance == 0:
            return None
        dtype = self._decision_dtype()
        at = int(self._index[k]["payload"]) + distance * ALIGN
        _, data = self._load(at, Kind.DECISION)
        if len(data) != dtype.itemsize:
            self._records.fail(f"decision at byte {at} has {len(data)} bytes, its declared fields have {dtype.itemsize}")
        return np.frombuffer(data.tobytes(), dtype)

    def columns(self, i: int) -> Tables | None:
        """The reconstructed tables (`tracks`, `vertices`) that a farm kept of event i, read-only views; None if there are none."""
        for at, head in self._records_of(self._position(i)):
            if head.kind == Kind.COLUMNS:
                try:
                    return decode_columns(self._load(at, Kind.COLUMNS)[1].data)
                except WireError as error:
                    self._records.fail(f"columns at byte {at}: {error}")
        return None

    def _decision_dtype(self) -> np.dtype[np.void]:
        try:
            return layout_dtype(self.metadata.get("decision_fields"))
        except LayoutError as error:
            self._records.fail(f"the fields of its decisions: {error}")

    def _records_of(self, k: int) -> Iterator[tuple[int, Header]]:
        """Position and header of what follows the payload of event k, up to the next event. Kinds that are not known are passed over."""
        at = int(self._index[k]["payload"])
        at = self._records.after(at, self._records.header(at, Kind.PAYLOAD))
        while at < self._end:
            head = self._records.any_header(at)
            if head.kind in (Kind.PAYLOAD, Kind.INDEX):
                return
            yield at, head
            at = self._records.after(at, head)

    def detector(self) -> Detector:
        """The detector that the sample was made for: the embedded one, or the built-in one if name and digest agree."""
        named = self.metadata.get("detector")
        if not isinstance(named, dict):
            raise SampleError(f"{self.path}: the sample names no detector; write it with one")
        digest = named.get("digest")
        if self._after_metadata < self._end and self._kind_at(self._after_metadata) == Kind.DETECTOR:
            detector = unpack_detector(self._load(self._after_metadata, Kind.DETECTOR)[1].tobytes())
        else:
            detector = phase1()
        if detector.digest() != digest:
            raise SampleError(
                f"{self.path}: made for detector {named.get('name')} with digest {digest}, but {detector.name} has {detector.digest()}; "
                f"simulate the sample again with this version"
            )
        return detector

    def verify(self) -> None:
        """Check every byte: all checksums, the padding, and that records and index agree. SampleError names what is wrong."""
        at = self._after_metadata
        if self._kind_at(at) == Kind.DETECTOR:
            at = self._records.check_padding(at, self._load(at, Kind.DETECTOR)[0])
        for i, entry in enumerate(self._index):
            self._checked[i] = False
            identity = self[i].id
            begin = int(entry["payload"])
            if begin != at:
                self._records.fail(f"event number {i}: payload at byte {begin}, expected {at}")
            at = self._records.check_padding(at, self._load(at, Kind.PAYLOAD)[0])
            found = {Kind.TRUTH: 0, Kind.DECISION: 0}
            for place, head in self._records_of(i):
                self._records.check_crc(place, head)
                if head.kind in OF_EVENT and EventId(head.run, head.lumi, head.event, head.bx) != identity:
                    self._records.fail(f"the record at byte {place} is not of event number {i}")
                if head.kind in found:
                    found[Kind(head.kind)] = place
                at = self._records.check_padding(place, head)
            for kind, expected in ((Kind.TRUTH, int(entry["truth"])), (Kind.DECISION, begin + ALIGN * int(entry["decision"]))):
                if found[kind] != (expected if expected != begin else 0):
                    self._records.fail(f"event number {i}: {kind.name.lower()} at byte {found[kind]}, its index says {expected}")
            self.truth(i)
            self.decision(i)
            self.columns(i)
        if at != self._end:
            self._records.fail(f"unknown data at byte {at}")
        after = self._records.check_padding(at, self._records.header(at, Kind.INDEX))
        if after != len(self._records.data) - ALIGN:
            self._records.fail(f"unknown data at byte {after}")

    def _position(self, i: int) -> int:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"event {i} of a sample of {n}")
        return i % n

    def _kind_at(self, at: int) -> int:
        return int(self._records.data[at + 4 : at + 8].copy().view("<u4")[0])

    def _load(self, at: int, kind: Kind) -> tuple[Header, NDArray[np.uint8]]:
        head = self._records.header(at, kind)
        self._records.check_crc(at, head)
        return head, self._records.content(at, head)


def map_file(path: Path) -> NDArray[np.uint8]:
    """The file as a read-only uint8 array; the map lives as long as the array or a view of it."""
    try:
        with path.open("rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise SampleError(f"{path}: empty file; copy or simulate the sample again")
            return np.frombuffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as e:
        raise SampleError(f"{path}: cannot be read ({e.strerror})") from e
