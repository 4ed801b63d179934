"""One output file: events appended to a sample file (docs/sample-format.md) that keeps its last good end, whatever the disk does.

An event is its payload, its columns if it has some, and its decision, in this order: the decision closes the event, so that a reader of a
file whose writer died knows which events are complete. Calls block as long as the disk does; OSError leaves the file at its last event.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from hltfarm.loadgen.records import ALIGN, INDEX, PAYLOAD_FORMAT, Flags, Header, Kind, encode, file_header, footer, plain_header
from hltfarm.proto.framing import Buffer, checksum
from hltfarm.proto.results import OUTPUT_DECISION, layout_fields
from hltfarm.service.output.events import OutputEvent

log = logging.getLogger(__name__)
ORIGIN = "output stream"
PART = ".part"  #: what the name of a file that is not closed ends in
_WRITE_BYTES = 16 << 20  # of one call; more would make a truncated attempt cost more
_WRITE_PIECES = 960  # below IOV_MAX


@dataclass(frozen=True, slots=True)
class Place:
    """What a file is for: (run, lumisection, stream)."""

    run: int
    lumi: int
    stream: str

    def folder(self, root: Path) -> Path:
        """Where its files are."""
        return root / f"run{self.run:06d}" / self.stream

    def name(self, part: int) -> str:
        """Name of a part, counted from 1."""
        return f"run{self.run:06d}_ls{self.lumi:04d}_{self.stream}{f'.part{part}' if part > 1 else ''}.hlt"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a file begins with: metadata, and the packed detector if it is not the built-in one."""

    place: Place
    metadata: dict[str, Any]
    detector: bytes = b""


def metadata_of(place: Place, description: dict[str, Any], detector: dict[str, str] | None, columns: bool) -> dict[str, Any]:
    """Metadata of an output file; `description` as `Deciders.description` gives it, `detector`: name and digest if they are known."""
    return {
        "origin": ORIGIN,
        "run": place.run,
        "lumi": place.lumi,
        "stream": place.stream,
        "version": version("hltfarm"),
        "columns": columns,
        "decision_fields": layout_fields(OUTPUT_DECISION),
        **({"detector": detector} if detector is not None else {}),
        **description,
    }


class OutputFile:
    """A file that is being written, as `<name>.part`.

    events, payload_bytes, path_counts: of what it holds. end: its size; crc: CRC32C of these bytes.
    """

    def __init__(self, path: Path, opening: Opening) -> None:
        """Raises OSError if the file exists, cannot be made, or its beginning cannot be written; nothing is left behind then."""
        self.path = path
        self.part = path.with_name(path.name + PART)
        self.metadata = opening.metadata
        self.events = self.payload_bytes = self.end = self.crc = 0
        self.path_counts = [0] * 64
        self.closed = False
        self.well_synced = True  #: no fsync of the file ever failed
        self._index: list[tuple[int, int, int, int, int, int, int]] = []
        self._synced: tuple[int, int, int, int, list[int]] = (0, 0, 0, 0, [])  # all that counts, as it was at the last good `sync`
        self._descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        text = json.dumps(opening.metadata, sort_keys=True, allow_nan=False).encode()
        head = [file_header(), encode(Header(Kind.METADATA), text, Flags.NONE)]
        if opening.detector:
            head.append(encode(Header(Kind.DETECTOR), opening.detector, Flags.ZLIB))
        try:
            self._append_whole(b"".join(head))
        except OSError:
            os.close(self._descriptor)
            self.part.unlink(missing_ok=True)
            raise
        self._synced = (0, self.end, 0, self.crc, [0] * 64)

    def append(self, events: Sequence[OutputEvent]) -> int:
        """Append events; returns how many are in the file now, all of them unless the disk refuses.

        Raises OSError if not even one could be written. What was written of an event that is not complete is cut off again.
        """
        done = 0
        while done < len(events):
            pieces: list[Buffer] = []
            ends: list[int] = []  # offsets behind the events of this call
            size = 0
            for event in events[done:]:
                record = _event_pieces(event)
                length = sum(len(piece) for piece in record)
                if ends and (size + length > _WRITE_BYTES or len(pieces) + len(record) > _WRITE_PIECES):
                    break
                pieces += record
                size += length
                ends.append(size)
            try:
                written = self._write(pieces)
            except OSError:
                if done:
                    return done
                raise
            complete = sum(end <= written for end in ends)
            self._enter(events[done : done + complete], ends, pieces)
            done += complete
            if complete < len(ends):
                self._cut()
                if done:
                    return done  # the next attempt says why
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.part))
        return done

    def sync(self) -> None:
        """Force what was written to the medium. Raises OSError: `take_back` then, for only what was synced before is certain."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self.well_synced = False
            raise OSError(error.errno, error.strerror, str(self.part)) from error
        self._synced = (self.events, self.end, self.payload_bytes, self.crc, list(self.path_counts))

    def take_back(self) -> None:
        """Cut off the events since the last good `sync`, to write them again: the kernel may have dropped their pages."""
        self.events, self.end, self.payload_bytes, self.crc, self.path_counts = (*self._synced[:4], list(self._synced[4]))
        del self._index[self.events :]
        self._cut()

    def close(self, *, sync: bool) -> None:
        """Write index and footer, force all to the medium if `sync`, and give the file its name. Raises OSError; may be tried again."""
        content = self.end
        index = encode(Header(Kind.INDEX), np.array(self._index, INDEX).tobytes(), Flags.NONE)
        tail = index + footer(len(self._index), content, content + len(index) + ALIGN)
        if self._write([tail]) != len(tail):
            self._cut()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.part))
        os.ftruncate(self._descriptor, content + len(tail))
        if sync:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self.well_synced = False
                self._cut()
                raise OSError(error.errno, error.strerror, str(self.part)) from error
        os.replace(self.part, self.path)
        self.end, self.crc, self.closed = content + len(tail), crc32c(tail, self.crc), True
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Close the descriptor and leave the file as it is, for the recovery at the next start."""
        if not self.closed:
            os.close(self._descriptor)

    def _enter(self, events: Sequence[OutputEvent], ends: Sequence[int], pieces: Sequence[Buffer]) -> None:
        start, piece = 0, 0
        for event, end in zip(events, ends, strict=False):
            at = self.end + start
            behind = (ALIGN + _padded(len(event.payload)) + (ALIGN + _padded(len(event.columns)) if event.columns else 0)) // ALIGN
            i = event.id
            self._index.append((at, 0, i.event, i.run, i.lumi, i.bx, behind))
            self.payload_bytes += len(event.payload)
            _count(self.path_counts, event.bits, 1)
            length = end - start
            while length:
                self.crc = crc32c(pieces[piece], self.crc)
                length -= len(pieces[piece])
                piece += 1
            start = end
        self.events += len(events)
        self.end += start

    def _append_whole(self, data: bytes) -> None:
        if self._write([data]) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.part))
        self.end += len(data)
        self.crc = crc32c(data, self.crc)

    def _write(self, pieces: Sequence[Buffer]) -> int:
        """Write at the end; the number of bytes that went in. Raises OSError if none did (the file is cut back then)."""
        size, written = sum(len(piece) for piece in pieces), 0
        while written < size:  # more than once: after a signal, or for the last bytes of the disk
            rest = _rest(pieces, written) if written else pieces
            try:
                more = os.pwritev(self._descriptor, rest, self.end + written)
            except OSError as error:
                if written:
                    break
                self._cut()
                raise OSError(error.errno, error.strerror, str(self.part)) from error
            if more == 0:
                break
            written += more
        return written

    def _cut(self) -> None:
        """Back to the last good end. If even that fails, the next write goes over it, and so does the end of the file."""
        try:
            os.ftruncate(self._descriptor, self.end)
        except OSError as error:
            log.warning("%s: what was written of an event is not cut off yet: %s", self.part, error)


def _event_pieces(event: OutputEvent) -> list[Buffer]:
    i = event.id
    identity = (i.event, i.run, i.lumi, i.bx, PAYLOAD_FORMAT)
    size = len(event.payload)
    pieces: list[Buffer] = [plain_header(Kind.PAYLOAD, event.crc, size, *identity), event.payload]
    gap = bytes(-size % ALIGN)
    if event.columns:
        size = len(event.columns)
        pieces += [gap + plain_header(Kind.COLUMNS, checksum(event.columns), size, *identity), event.columns]
        gap = bytes(-size % ALIGN)
    size = len(event.decision)
    head = plain_header(Kind.DECISION, checksum(event.decision), size, *identity)
    pieces.append(b"".join((gap, head, event.decision, bytes(-size % ALIGN))))
    return pieces


def _padded(size: int) -> int:
    return size + -size % ALIGN


def _rest(pieces: Sequence[Buffer], written: int) -> list[Buffer]:
    rest: list[Buffer] = []
    for piece in pieces:
        if written >= len(piece):
            written -= len(piece)
        else:
            rest.append(memoryview(piece)[written:])
            written = 0
    return rest


def _count(counts: list[int], bits: int, step: int) -> None:
    while bits:
        low = bits & -bits
        counts[low.bit_length() - 1] += step
        bits ^= low
