"""The thread that writes output files: takes jobs in their order, repeats what the disk refuses, reports what is written.

Many events at a time: whatever waits is written together and, if every event has to be on the medium before it is decided, synced together.
The queue is bounded by the slots: every event in it is one in flight.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hltfarm.service.output.detectors import DetectorBlocks
from hltfarm.service.output.hlt_file import PART, Opening, OutputFile, Place, metadata_of
from hltfarm.service.output.jobs import Append, Close, Job, NotWritten, Prepare, Report, Summarise, Written
from hltfarm.service.output.recovery import complete, left_behind
from hltfarm.service.output.retention import Retention
from hltfarm.service.output.settings import Fsync, OutputSettings
from hltfarm.service.output.sidecar import SUFFIX, file_sidecar, lumisection_summary, sync_folder, write_text

log = logging.getLogger(__name__)
NO_SPACE = 28  # ENOSPC
IDLE_S = 1.0  # how often the free space is looked at without work


@dataclass(frozen=True, slots=True)
class WriterCounts:
    """Counters since the writer started; free_bytes: of the disk, for everybody but root, -1 before the first look."""

    files: int
    bytes: int
    fsyncs: int
    removed_files: int
    removed_bytes: int
    recovered_files: int
    recovered_events: int
    free_bytes: int


class FileWriter:
    """Owns the folder and the thread. `wake` is called by the thread whenever `reports` has something new or `trouble` changed."""

    def __init__(self, settings: OutputSettings, wake: Callable[[], None]) -> None:
        assert settings.folder is not None
        self.reports: deque[Report] = deque()
        self.trouble: str | None = None  #: why nothing can be written now, if that is so
        self._settings = settings
        self._folder: Path = settings.folder
        self._wake = wake
        self._changed = threading.Condition()
        self._jobs: deque[tuple[int, Job]] = deque()  # with their numbers; this and the next four are guarded by _changed
        self._given = self._done = 0  # jobs
        self._abandoned = 0  # jobs of smaller numbers append nothing any more
        self._ended = False
        self._files: dict[int, OutputFile] = {}
        self._closed: dict[tuple[int, int], list[dict[str, Any]]] = {}  # sidecars of a lumisection that is not summarised yet
        self._detectors = DetectorBlocks()
        self._retention = Retention(self._folder, settings.keep_bytes)
        self._numbers = dict.fromkeys(("files", "bytes", "fsyncs", "recovered_files", "recovered_events"), 0)
        self._free = -1
        self._left: list[Path] = []  # files of an earlier ingest that are not complete
        self._complete_at = 0.0
        self._thread = threading.Thread(target=self._main, name="output writer", daemon=True)
        self._thread.start()

    # -- owner's thread ----------------------------------------------------------------------------------------------------

    def put(self, jobs: list[Job]) -> None:
        """Give the thread work."""
        if jobs:
            with self._changed:
                self._jobs.extend(enumerate(jobs, self._given))
                self._given += len(jobs)
                self._changed.notify()

    @property
    def unfinished(self) -> int:
        """Jobs that are not done."""
        return self._given - self._done

    def abandon(self) -> None:
        """Give up all events that are not written: each comes back in a NotWritten. Files are closed with what they have."""
        with self._changed:
            self._abandoned = self._given
            self._changed.notify()

    def counts(self) -> WriterCounts:
        """Counters now."""
        return WriterCounts(
            **self._numbers, removed_files=self._retention.files, removed_bytes=self._retention.bytes, free_bytes=self._free
        )

    def close(self, timeout_s: float) -> bool:
        """End the thread; what is not written stays undone and open files keep their `.part` for the recovery. False if it hangs in I/O."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        self._jobs.clear()  # they hold views of the slots
        return True

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._recover()
            while self._take():
                pass
        except Exception:
            log.exception("the writer of the output files failed")
            self._say("the writer of the output files failed; see the log. End the ingest: its clients send again what is in flight")
        for file in self._files.values():
            file.abandon()

    def _recover(self) -> None:
        self._left = left_behind(self._folder)
        self._complete()
        self._look_at_disk()

    def _complete(self, again: bool = False) -> None:
        """Complete what an earlier ingest left, or what of it the disk has refused so far."""
        found, self._left = complete(self._left, self._settings.fsync, again)
        self._numbers["recovered_files"] += len(found)
        self._numbers["recovered_events"] += sum(item.events for item in found)
        for item in found:
            self._retention.closed(item.path, item.path.stat().st_size)
        self._complete_at = time.monotonic() + self._settings.retry_s

    def _take(self) -> bool:
        """Wait for work and do what is there; False at the end."""
        with self._changed:
            if not (self._jobs or self._ended):
                self._changed.wait(IDLE_S)
            jobs = list(self._jobs)
            self._jobs.clear()
            if self._ended:
                return False
        if self._left and self.trouble is None and time.monotonic() >= self._complete_at:
            self._complete(again=True)
        if not jobs:
            self._look_at_disk()
        while jobs:
            appends = list(_appends(jobs))
            count = max(1, len(appends))
            job = jobs[0][1]
            del jobs[:count]
            if not self._until_done(job, appends, jobs):
                return False
            with self._changed:
                self._done += count
            self._wake()
        return True

    def _until_done(self, job: Job, appends: list[tuple[int, Append]], behind: list[tuple[int, Job]]) -> bool:
        """Do a job (or all of `appends`, if it is one), again and again while the disk refuses. False: the end came before.

        What is given up meanwhile of the jobs behind it need not wait for it.
        """
        while True:
            try:
                if isinstance(job, Append):
                    self._append(appends)
                elif isinstance(job, Close):
                    self._close(job)
                elif isinstance(job, Prepare):
                    self._detectors.of(job.detector)
                else:
                    self._summarise(job)
            except OSError as error:
                where = f" {error.filename}:" if error.filename else ""
                self._say(f"the output cannot be written:{where} {error.strerror or error}; accepted events wait for it")
            else:
                self._say(None)
                return True
            until = time.monotonic() + self._settings.retry_s
            with self._changed:
                while not (self._ended or self._given_up(appends) or self._given_up(self._jobs)) and (rest := until - time.monotonic()) > 0:
                    self._changed.wait(rest)
                if self._ended:
                    return False
                behind += self._jobs
                self._jobs.clear()
            for place, (number, other) in enumerate(behind):
                if isinstance(other, Append) and other.events and number < self._abandoned:
                    self._tell(NotWritten(tuple(event.number for event in other.events)))
                    behind[place] = (number, replace(other, events=()))

    def _given_up(self, jobs: Sequence[tuple[int, Job]]) -> bool:
        return bool(jobs) and jobs[0][0] < self._abandoned

    def _say(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            if trouble is not None:
                log.error("%s", trouble)
            elif self.trouble is not None:
                log.warning("the output can be written again")
            self.trouble = trouble
            self._wake()

    # -- jobs --------------------------------------------------------------------------------------------------------------

    def _append(self, appends: list[tuple[int, Append]]) -> None:
        """Append events of several files, then sync them if that is the policy. Takes done events out of the list; raises OSError."""
        each = self._settings.fsync is Fsync.EVENT
        failure: OSError | None = None
        unsynced: dict[int, list[tuple[int, Append]]] = {}
        while appends and failure is None:
            number, job = appends[0]
            if number < self._abandoned:
                self._tell(NotWritten(tuple(event.number for event in job.events)))
                del appends[0]
                continue
            try:
                self._check_space(job)
                done = self._file(job).append(job.events)
            except OSError as error:
                failure = error
                break
            written = replace(job, events=job.events[:done])
            if each:
                unsynced.setdefault(job.file, []).append((number, written))
            else:
                self._tell(Written(tuple(event.number for event in written.events)))
            if done < len(job.events):
                appends[0] = (number, replace(job, events=job.events[done:]))
            else:
                del appends[0]
        again: list[tuple[int, Append]] = []
        for file, parts in unsynced.items():
            try:
                self._files[file].sync()
            except OSError as error:
                self._files[file].take_back()
                again += parts
                failure = error
            else:
                self._numbers["fsyncs"] += 1
                self._tell(Written(tuple(event.number for _, part in parts for event in part.events)))
        appends[:0] = sorted(again, key=lambda entry: entry[0])
        if failure is not None:
            try:
                raise failure
            finally:
                failure = None  # it refers to this frame, and this frame to views of the slots

    def _file(self, job: Append) -> OutputFile:
        """The file of a job; opened if it is its first."""
        file = self._files.get(job.file)
        if file is None:
            folder = job.place.folder(self._folder)
            fresh = not folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True)
            detector, block = self._detectors.of(job.deciders.config.detector)
            metadata = metadata_of(job.place, job.deciders.description(), detector, self._settings.columns)
            file = OutputFile(_free_name(folder, job.place), Opening(job.place, metadata, block))
            self._files[job.file] = file
            if self._settings.fsync is not Fsync.NONE:
                for parent in (folder, *((folder.parent, self._folder) if fresh else ())):
                    sync_folder(parent)  # the name of the file has to survive as its content does
        return file

    def _close(self, job: Close) -> None:
        file = self._files.get(job.file)
        if file is None:
            return  # nothing was written to it
        sync = self._settings.fsync is not Fsync.NONE
        if not file.closed:
            file.close(sync=sync)
        text = file_sidecar(
            file.path,
            file.metadata,
            events=file.events,
            payload_bytes=file.payload_bytes,
            size=file.end,
            crc=file.crc,
            path_counts=file.path_counts,
            lumisection=job.counts,
            fsync=str(self._settings.fsync),
            synced=sync and file.well_synced,
        )
        write_text(file.path.with_suffix(SUFFIX), text, sync=sync)
        del self._files[job.file]
        self._numbers["files"] += 1
        self._numbers["bytes"] += file.end
        self._numbers["fsyncs"] += 3 * sync
        self._closed.setdefault((text["run"], text["lumi"]), []).append(text)
        self._retention.closed(file.path, file.end)

    def _summarise(self, job: Summarise) -> None:
        folder = self._folder / f"run{job.run:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"run{job.run:06d}_ls{job.lumi:04d}{SUFFIX}"
        texts = self._closed.get((job.run, job.lumi), [])
        write_text(path, lumisection_summary(path, job.run, job.lumi, job.counts, texts), sync=self._settings.fsync is not Fsync.NONE)
        self._closed.pop((job.run, job.lumi), None)

    def _tell(self, report: Report) -> None:
        self.reports.append(report)
        self._wake()

    def _check_space(self, job: Append) -> None:
        free = self._look_at_disk()
        size = sum(len(event.payload) + len(event.columns) for event in job.events)
        if free - size < self._settings.reserve_bytes:
            raise OSError(NO_SPACE, f"less than the {self._settings.reserve_bytes >> 20} MiB that stay free", str(self._folder))

    def _look_at_disk(self) -> int:
        status = os.statvfs(self._folder)
        self._free = status.f_bavail * status.f_frsize
        return self._free


def _appends(jobs: list[tuple[int, Job]]) -> Iterator[tuple[int, Append]]:
    """The Append jobs that `jobs` begins with."""
    for number, job in jobs:
        if not isinstance(job, Append):
            return
        yield number, job


def _free_name(folder: Path, place: Place) -> Path:
    """The first part that there is no file of yet, finished or not."""
    part = 1
    while (path := folder / place.name(part)).exists() or path.with_name(path.name + PART).exists():
        part += 1
    return path
