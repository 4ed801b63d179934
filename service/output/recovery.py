"""What an ingest that died left in its output folder: its unfinished files get an index and their name, complete events are kept.

An event is complete when its decision is there (it is the last record of an event). What lies behind the last complete event is cut off:
such an event was never decided, and its client sends it again. Only a failure of the machine or the disk leaves decided events behind
damaged bytes; those bytes are then kept beside the file, as `<name>.damaged`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from hltfarm.loadgen.records import ALIGN, INDEX, RECORD_MAGIC, Flags, Header, Kind, RecordFile, encode, footer
from hltfarm.loadgen.sample import Sample, map_file
from hltfarm.proto.errors import SampleError
from hltfarm.service.output.hlt_file import PART
from hltfarm.service.output.settings import Fsync
from hltfarm.service.output.sidecar import SUFFIX, file_sidecar, sync_folder, write_text

log = logging.getLogger(__name__)
DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class Recovered:
    """A file that was completed: the number of its events, and what was cut off behind them."""

    path: Path
    events: int
    cut_bytes: int


def recover(folder: Path, fsync: Fsync) -> list[Recovered]:
    """Complete every file that a dead writer left below `folder`. One that cannot be completed now stays as it is, and is logged."""
    return complete(left_behind(folder), fsync)[0]


def left_behind(folder: Path) -> list[Path]:
    """Files below `folder` that are not complete, or have no sidecar; to be asked for before others are begun there."""
    for partial in sorted(folder.glob("run*/.*.partial")) + sorted(folder.glob("run*/*/.*.partial")):
        partial.unlink()  # a text that was not complete; it is written anew from its file
    alone = [path for path in sorted(folder.glob("run*/*/*.hlt")) if not path.with_suffix(SUFFIX).exists()]
    return sorted(folder.glob(f"run*/*/*.hlt{PART}")) + alone


def complete(paths: Sequence[Path], fsync: Fsync, again: bool = False) -> tuple[list[Recovered], list[Path]]:
    """Complete these files: those that were, and those that the disk refused, to be given once more (`again`: they are logged already)."""
    found, waiting = [], []
    for path in paths:
        left, cut_bytes = path, 0
        try:
            if path.suffix == PART:
                done = _complete(path, fsync is not Fsync.NONE)
                if done is None:
                    continue
                found.append(done)
                left, cut_bytes = done.path, done.cut_bytes
            _describe(left, fsync, cut_bytes)
        except SampleError as error:
            log.error("%s, which an ingest left behind, cannot be completed: %s", left, error)
        except OSError as error:
            log.log(logging.DEBUG if again else logging.ERROR, "%s, which an ingest left behind, cannot be completed yet: %s", left, error)
            renamed = path.with_name(path.name.removesuffix(PART))  # before the disk refused
            waiting += [file for file in (left, renamed) if file.exists()][:1]
    return found, waiting


def _complete(part: Path, sync: bool) -> Recovered | None:
    if not part.stat().st_size:  # its writer died before the first byte
        _remove(part)
        return None
    records = RecordFile(str(part), map_file(part))
    index, end = _scan(records)
    size = len(records.data)
    final = part.with_name(part.name.removesuffix(PART))
    if _decisions_behind(records, end):
        damaged = final.with_name(final.name + DAMAGED)
        records.data[end:].tofile(damaged)
        log.error("%s is damaged at byte %d and has events behind it; these %d bytes are in %s", part, end, size - end, damaged)
    del records
    if not index:
        _remove(part)
        return None
    with part.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        block = encode(Header(Kind.INDEX), np.array(index, INDEX).tobytes(), Flags.NONE)
        file.write(block)
        file.write(footer(len(index), end, end + len(block) + ALIGN))
        file.flush()
        if sync:
            os.fsync(file.fileno())
    part.rename(final)
    if sync:
        sync_folder(final.parent)
    cut = max(0, size - end)  # the padding of the last event may be missing
    log.warning("%s was completed after the end of its ingest: %d events, %d bytes cut off", final, len(index), cut)
    return Recovered(final, len(index), cut)


def _remove(part: Path) -> None:
    part.unlink()
    log.warning("%s had no complete event; it is removed", part)


def _scan(records: RecordFile) -> tuple[list[tuple[int, int, int, int, int, int, int]], int]:
    """Index entries of the complete events, and where the last of them ends."""
    index: list[tuple[int, int, int, int, int, int, int]] = []
    end = ALIGN
    try:
        records.check_file_header()
        at, payload = ALIGN, 0
        while at < len(records.data):
            head = records.any_header(at)
            records.check_crc(at, head)
            after = records.check_padding(at, head)
            if head.kind == Kind.PAYLOAD:
                payload = at
            elif head.kind == Kind.DECISION and payload:
                index.append((payload, 0, head.event, head.run, head.lumi, head.bx, (at - payload) // ALIGN))
                end, payload = after, 0
            elif head.kind == Kind.INDEX:
                break
            at = after
    except SampleError as error:
        log.info("read up to here: %s", error)
    return index, end


def _decisions_behind(records: RecordFile, end: int) -> bool:
    """Whether there are decisions behind the end of what could be read: events that were decided and are lost to the file."""
    tail = records.data[end : len(records.data) // ALIGN * ALIGN].reshape(-1, ALIGN)
    heads = np.flatnonzero((tail[:, :8].copy().view("<u4") == (RECORD_MAGIC, Kind.DECISION)).all(axis=1))
    for place in heads.tolist():
        try:
            records.header(end + ALIGN * place, Kind.DECISION)
        except SampleError as error:
            log.debug("no decision after all: %s", error)
        else:
            return True
    return False


def _describe(path: Path, fsync: Fsync, cut_bytes: int) -> None:
    """Write the sidecar of a complete file from its content. Raises SampleError for a sample file that is no output file."""
    try:
        text = _sidecar(path, fsync, cut_bytes)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SampleError(f"{path}: neither metadata nor decisions of an output file ({type(error).__name__}: {error})") from error
    write_text(path.with_suffix(SUFFIX), text, sync=fsync is not Fsync.NONE)


def _sidecar(path: Path, fsync: Fsync, cut_bytes: int) -> dict[str, Any]:
    sample = Sample(path)
    sample.verify()
    counts = [0] * 64
    payload_bytes = 0
    for i in range(len(sample)):
        decision = sample.decision(i)
        if decision is None:
            raise SampleError(f"{path}: event number {i} has no decision; no output file")
        bits = int(decision["path_bits"][0])
        for bit in range(64):
            counts[bit] += bits >> bit & 1
        payload_bytes += sample[i].payload.nbytes
    data = map_file(path)
    return file_sidecar(
        path,
        sample.metadata,
        events=len(sample),
        payload_bytes=payload_bytes,
        size=len(data),
        crc=crc32c(data.data),
        path_counts=counts,
        lumisection=None,
        fsync=str(fsync),
        synced=fsync is not Fsync.NONE,
        recovered=True,
        cut_bytes=cut_bytes,
    )


def check_sidecar(path: Path) -> bool:
    """Compare a file with its sidecar; False if it has none. Raises SampleError if they do not agree."""
    if not path.with_suffix(SUFFIX).exists():
        return False
    text, data = read_sidecar(path), map_file(path)
    for name, value in (("bytes", len(data)), ("crc32c", f"{crc32c(data.data):08x}"), ("events", len(Sample(path)))):
        if text.get(name) != value:
            raise SampleError(f"{path}: {name} {value}, its sidecar says {text.get(name)}; one of them is damaged")
    return True


def read_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of an output file. Raises SampleError if it is missing or no JSON object."""
    try:
        content = json.loads(path.with_suffix(SUFFIX).read_text())
    except (OSError, ValueError) as error:
        raise SampleError(f"{path}: its sidecar cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise SampleError(f"{path}: its sidecar is no JSON object")
    return content
