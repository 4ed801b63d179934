"""Output files over a disk that fills up and refuses: whatever it does, complete events are there once, and readable."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from crc32c import crc32c

from hltfarm.loadgen.records import ALIGN
from hltfarm.loadgen.sample import Sample
from hltfarm.proto.messages import LedgerCounts
from hltfarm.proto.results import OUTPUT_DECISION
from hltfarm.service.output import recovery
from hltfarm.service.output.events import OutputEvent
from hltfarm.service.output.hlt_file import Opening, OutputFile, Place, metadata_of
from hltfarm.service.output.jobs import Append, Close, NotWritten, Prepare, Report, Summarise, Written
from hltfarm.service.output.recovery import recover
from hltfarm.service.output.retention import Retention
from hltfarm.service.output.settings import Fsync, OutputSettings
from hltfarm.service.output.writer import FileWriter
from tests.unit.output_events import DECIDERS, accepted

PLACE = Place(7, 1, "physics")
EVENTS = [accepted(number, bits=1 + number % 2) for number in range(1, 7)]
PADDING = -OUTPUT_DECISION.itemsize % ALIGN  # behind the last byte of an event
WAIT_S = 20.0
COUNTS = LedgerCounts(received=9, accepted=6, rejected=3)


class Disk:
    """So many bytes of room for what is written with pwritev; `broken`: fsync fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 40
        self.broken = False
        self._pwritev, self._fdatasync = os.pwritev, os.fdatasync
        monkeypatch.setattr(os, "pwritev", self.pwritev)
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)

    def pwritev(self, descriptor: int, pieces: Sequence[bytes], offset: int) -> int:
        data = b"".join(bytes(piece) for piece in pieces)[: self.room]
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._pwritev(descriptor, [data], offset)
        self.room -= written
        return written

    def fdatasync(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._fdatasync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def opened(folder: Path) -> OutputFile:
    return OutputFile(folder / PLACE.name(1), Opening(PLACE, metadata_of(PLACE, DECIDERS.description(), None, True)))


def numbers_of(path: Path) -> list[int]:
    """Events of a file, each checked byte for byte."""
    sample = Sample(path)
    sample.verify()
    for i, raw in enumerate(sample):
        event = accepted(raw.id.event, bits=1 + raw.id.event % 2)
        assert raw.payload.tobytes() == bytes(event.payload)
        decision, tables = sample.decision(i), sample.columns(i)
        assert decision is not None
        assert decision.tobytes() == event.decision
        assert tables is not None
        assert len(tables["tracks"]["pt"]) == raw.id.event % 5
    return [raw.id.event for raw in sample]


def test_a_disk_that_fills_up_anywhere_in_an_event_leaves_complete_events(disk: Disk, tmp_path: Path) -> None:
    whole = opened(tmp_path)
    start = whole.end
    whole.append(EVENTS)
    size = whole.end - start
    whole.close(sync=False)
    whole.path.unlink()
    seen = set()
    for room in (*range(0, size, 97), size - 1):
        disk.room = 1 << 40
        file = opened(tmp_path)
        disk.room = room
        try:
            done = file.append(EVENTS)
        except OSError:
            done = 0
        assert done < len(EVENTS)
        assert file.part.stat().st_size == file.end, "what was not complete is cut off"
        assert file.events == done
        disk.room = 1 << 40
        assert file.append(EVENTS[done:]) == len(EVENTS) - done
        file.close(sync=True)
        assert numbers_of(file.path) == [event.id.event for event in EVENTS]
        assert crc32c(file.path.read_bytes()) == file.crc
        assert file.path_counts[:3] == [3, 3, 0]
        file.path.unlink()
        seen.add(done)
    assert seen == set(range(len(EVENTS))), "the disk was full in every event"


def test_a_file_that_cannot_be_closed_for_want_of_room_is_closed_later(disk: Disk, tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append(EVENTS)
    disk.room = 10
    with pytest.raises(OSError, match="No space left"):
        file.close(sync=False)
    assert not file.closed
    disk.room = 1 << 40
    file.close(sync=False)
    assert numbers_of(file.path) == [event.id.event for event in EVENTS]


def test_what_a_failed_sync_may_have_lost_is_written_again(disk: Disk, tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.append(EVENTS[:2])
    file.sync()
    file.append(EVENTS[2:])
    disk.broken = True
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    file.take_back()
    assert (file.events, file.well_synced) == (2, False)
    assert file.part.stat().st_size == file.end
    disk.broken = False
    file.append(EVENTS[2:])
    file.sync()
    file.close(sync=True)
    assert numbers_of(file.path) == [event.id.event for event in EVENTS]
    assert crc32c(file.path.read_bytes()) == file.crc


def test_a_writer_that_died_anywhere_leaves_its_complete_events(tmp_path: Path) -> None:
    """Cut the unfinished file at many places, as the death of a machine may: the recovery keeps every event whose decision is there."""
    folder = PLACE.folder(tmp_path)
    folder.mkdir(parents=True)
    file = opened(folder)
    ends = [file.end]
    for event in EVENTS:
        file.append([event])
        ends.append(file.end)
    file.abandon()
    content = file.part.read_bytes()
    for cut in (0, 1, *range(ends[0], len(content), 61), *ends[1:]):
        file.part.write_bytes(content[:cut])
        complete = sum(end - PADDING <= cut for end in ends[1:])
        found = recover(tmp_path, Fsync.NONE)
        assert [item.events for item in found] == ([complete] if complete else [])
        if complete:
            assert numbers_of(file.path) == [event.id.event for event in EVENTS[:complete]]
            text = json.loads(file.path.with_suffix(".json").read_text())
            assert (text["recovered"], text["events"], text["lumisection"]) == (True, complete, None)
        assert not file.part.exists()
        for path in folder.iterdir():
            path.unlink()


class Writing:
    """A writer's thread, what it reports, and what it is told."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.woken = threading.Event()
        self.reports: list[Report] = []
        options = {"folder": folder, "retry_s": 0.01, "reserve_bytes": 0, **settings}
        self.writer = FileWriter(OutputSettings(**options), self.woken.set)  # type: ignore[arg-type]

    def put(self, *groups: Sequence[OutputEvent]) -> None:
        self.writer.put([Append(1, PLACE, DECIDERS, tuple(group)) for group in groups])

    def until(self, what: str, condition: object) -> None:
        assert callable(condition)
        while True:
            self.woken.clear()
            while self.writer.reports:
                self.reports.append(self.writer.reports.popleft())
            if condition():
                return
            assert self.woken.wait(WAIT_S), f"{what}: {self.writer.trouble}, {self.reports}"

    def numbers(self, kind: type[Report]) -> list[int]:
        return [number for report in self.reports if isinstance(report, kind) for number in report.numbers]


@pytest.mark.parametrize("fsync", list(Fsync))
def test_a_writer_waits_for_a_full_disk_and_goes_on_by_itself(disk: Disk, tmp_path: Path, fsync: Fsync) -> None:
    writing = Writing(tmp_path, fsync=fsync)
    try:
        writing.put(EVENTS[:1])
        writing.until("the first", lambda: writing.numbers(Written) == [1])
        disk.room = 700  # for one more and a piece of the next
        writing.put(EVENTS[1:4], EVENTS[4:])
        writing.until("trouble", lambda: writing.writer.trouble is not None)
        assert "No space left on device; accepted events wait for it" in str(writing.writer.trouble)
        assert set(writing.numbers(Written)) < {event.number for event in EVENTS}
        disk.room = 1 << 40
        writing.writer.put([Close(1, COUNTS), Summarise(7, 1, COUNTS)])
        writing.until("the end", lambda: writing.writer.unfinished == 0)
        assert writing.writer.trouble is None
        assert writing.numbers(Written) == [event.number for event in EVENTS], "each is reported once, when it is there"
        assert writing.numbers(NotWritten) == []
        path = PLACE.folder(tmp_path) / PLACE.name(1)
        assert numbers_of(path) == [event.id.event for event in EVENTS]
        text = json.loads(path.with_suffix(".json").read_text())
        assert text["crc32c"] == f"{crc32c(path.read_bytes()):08x}"
    finally:
        assert writing.writer.close(WAIT_S)


def test_with_fsync_event_nothing_is_reported_before_it_is_on_the_medium(disk: Disk, tmp_path: Path) -> None:
    writing = Writing(tmp_path, fsync=Fsync.EVENT)
    try:
        disk.broken = True
        writing.put(EVENTS)
        writing.until("trouble", lambda: writing.writer.trouble is not None)
        assert "Input/output error" in str(writing.writer.trouble)
        assert writing.reports == []
        disk.broken = False
        writing.writer.put([Close(1, COUNTS)])
        writing.until("the end", lambda: writing.writer.unfinished == 0)
        assert writing.numbers(Written) == [event.number for event in EVENTS]
        path = PLACE.folder(tmp_path) / PLACE.name(1)
        assert numbers_of(path) == [event.id.event for event in EVENTS]
        assert json.loads(path.with_suffix(".json").read_text())["synced"] is False, (
            "a sync failed: whoever relies on the file should check it"
        )
    finally:
        assert writing.writer.close(WAIT_S)


def test_events_that_are_given_up_are_told_and_the_others_are_in_the_file(disk: Disk, tmp_path: Path) -> None:
    writing = Writing(tmp_path, fsync=Fsync.NONE)
    try:
        writing.put(EVENTS[:2])
        writing.until("two", lambda: writing.numbers(Written) == [1, 2])
        disk.room = 0
        writing.put(EVENTS[2:])
        writing.until("trouble", lambda: writing.writer.trouble is not None)
        writing.writer.abandon()
        writing.until("given up", lambda: writing.numbers(NotWritten) == [3, 4, 5, 6])
        disk.room = 1 << 40
        writing.writer.put([Close(1, COUNTS)])
        writing.until("the end", lambda: writing.writer.unfinished == 0)
        assert numbers_of(PLACE.folder(tmp_path) / PLACE.name(1)) == [1, 2]
    finally:
        assert writing.writer.close(WAIT_S)


def test_files_that_were_completed_after_a_death_are_removed_in_their_turn(tmp_path: Path) -> None:
    folder = PLACE.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "old.hlt").write_bytes(bytes(2 << 20))
    (folder / "old.json").write_text("{}")
    file = opened(folder)
    file.append(EVENTS)
    file.abandon()
    writing = Writing(tmp_path, keep_bytes=2 << 20, file_bytes=1 << 20)
    try:
        writing.put(EVENTS)  # after the recovery
        writing.until("the events", lambda: writing.writer.unfinished == 0)
        assert sorted(path.name for path in folder.glob("*.hlt")) == [PLACE.name(1)]
        assert writing.writer.counts().removed_bytes == 2 << 20
    finally:
        assert writing.writer.close(WAIT_S)


def test_events_behind_a_file_that_cannot_be_closed_are_given_up_as_well(disk: Disk, tmp_path: Path) -> None:
    """After a reset nobody waits for the disk, whatever the writer is busy with; what was in the file stays there."""
    writing = Writing(tmp_path, fsync=Fsync.NONE)
    try:
        writing.put(EVENTS[:2])
        writing.until("two", lambda: writing.numbers(Written) == [1, 2])
        disk.room = 0
        writing.writer.put([Close(1, COUNTS), Append(2, PLACE, DECIDERS, tuple(EVENTS[2:4])), Close(2, COUNTS)])
        writing.until("trouble", lambda: writing.writer.trouble is not None)
        writing.writer.put([Append(3, PLACE, DECIDERS, tuple(EVENTS[4:]))])
        writing.writer.abandon()
        writing.until("given up", lambda: writing.numbers(NotWritten) == [3, 4, 5, 6])
        disk.room = 1 << 40
        writing.writer.put([Close(3, COUNTS)])
        writing.until("the end", lambda: writing.writer.unfinished == 0)
        assert writing.numbers(NotWritten) == [3, 4, 5, 6], "each once"
        assert [path.name for path in sorted(PLACE.folder(tmp_path).glob("*.hlt"))] == [PLACE.name(1)]
        assert numbers_of(PLACE.folder(tmp_path) / PLACE.name(1)) == [1, 2]
    finally:
        assert writing.writer.close(WAIT_S)


def test_a_detector_that_cannot_be_read_holds_nothing_up(tmp_path: Path) -> None:
    """Its name comes over the API; the writer reads it before the first event (`Prepare`)."""
    writing = Writing(tmp_path)
    try:
        writing.writer.put([Prepare("/" + 300 * "d")])
        writing.put(EVENTS)
        writing.until("the events", lambda: writing.numbers(Written) == [event.number for event in EVENTS])
    finally:
        assert writing.writer.close(WAIT_S)


def test_the_oldest_closed_files_go_when_all_have_too_many_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "run000001" / "physics"
    folder.mkdir(parents=True)

    def made(name: str, size: int) -> Path:
        path = folder / f"{name}.hlt"
        path.write_bytes(bytes(size))
        path.with_suffix(".json").write_text("{}")
        return path

    os.utime(made("z", 50), ns=(1, 1))  # of an earlier ingest; the oldest, whatever its name
    os.utime(made("a", 40), ns=(2, 2))
    retention = Retention(tmp_path, 100)
    retention.closed(made("b", 30), 30)
    assert sorted(path.name for path in folder.iterdir()) == ["a.hlt", "a.json", "b.hlt", "b.json"]
    assert (retention.files, retention.bytes) == (1, 50)
    retention.closed(made("c", 500), 500)
    assert sorted(path.name for path in folder.iterdir()) == ["c.hlt", "c.json"], "the file that was closed last stays"
    keeps = Retention(tmp_path, 0)
    keeps.closed(made("d", 1 << 20), 1 << 20)
    assert keeps.files == 0
    assert sorted(path.name for path in folder.glob("*.hlt")) == ["c.hlt", "d.hlt"]


@pytest.mark.parametrize("refused", ["_complete", "write_text"])
def test_what_a_dead_writer_left_is_completed_when_the_disk_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """Found by hltfarm chaos: an ingest that was started on a full disk left the files of the one before as they were."""
    folder = PLACE.folder(tmp_path)
    folder.mkdir(parents=True)
    file = opened(folder)
    file.append(EVENTS)
    file.abandon()
    full, tried = threading.Event(), threading.Event()
    full.set()
    done = getattr(recovery, refused)

    def write(*arguments: object, **options: object) -> object:
        if full.is_set():
            tried.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return done(*arguments, **options)

    monkeypatch.setattr(recovery, refused, write)
    writing = Writing(tmp_path)
    try:
        assert tried.wait(WAIT_S)
        assert not file.path.with_suffix(".json").exists()
        full.clear()
        deadline = time.monotonic() + WAIT_S
        while not file.path.with_suffix(".json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)  # the interval of looking
    finally:
        assert writing.writer.close(WAIT_S)
    assert numbers_of(file.path) == [event.id.event for event in EVENTS]
    assert not file.part.exists()
