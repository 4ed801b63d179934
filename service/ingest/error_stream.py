"""Error stream: events that could not be processed, on disk, in bundles that replay them.

A bundle is a folder `run<run>/<serial>-<reason>-<event>/` with the events as they came, `events.hlt`, a sample file that `hltfarm reco`
reads, the menu's text, `menu.yaml`, and `bundle.json`: the reason, what decides the events (the run's configuration, menu and models as
the workers built them, digest of the conditions), and for each event its identity and its failures (worker, device, versions, error).
`hltfarm replay` runs a bundle again. It is written beside its final name, synced, and renamed, so that a bundle that exists is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from hltfarm.proto import wire
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.versions import versions
from hltfarm.proto.wire import Reason
from hltfarm.service.ingest.programmes import Entry

#: Writes events into a new file in the folder given and returns its name.
EventWriter = Callable[[Path, Sequence[RawEvent], RunConfig], str]


BUNDLE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that failed. `events`: that the batch, or the lost worker, had; `where`: backend, device, versions of the worker;
    `stage`: of the chain, where it is known.
    """

    worker: str
    error: str
    events: int
    where: dict[str, Any]
    stage: str = ""


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """One event for the error stream. `payload` of the event may be a view of its slot."""

    event: RawEvent
    attempts: int
    failures: tuple[Failure, ...] = ()


def write_frames(folder: Path, events: Sequence[RawEvent], config: RunConfig) -> str:
    """Events as wire frames one after the other (header, payload), the form in which a client would send them again."""
    with (folder / "events.wire").open("wb") as file:
        for event in events:
            file.write(wire.encode_event(event.id, event.payload))
            file.write(event.payload.data)
    return "events.wire"


class ErrorStream:
    """Writes bundles below `folder`. One writer a folder."""

    def __init__(self, folder: Path, writer: EventWriter = write_frames) -> None:
        """Raises OSError if the folder cannot be made."""
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("run*/.*.partial"):
            shutil.rmtree(left)  # its events were still in flight when the writer died, and their clients send them again
        self._folder = folder
        self._writer = writer
        self._serial = 0
        self.bytes_written = 0

    def write(self, programme: Entry, reason: Reason, failed: Sequence[FailedEvent], when: float) -> Path:
        """Write one bundle (at least one event, all of one programme) and return its folder; it is on disk when this returns.

        when: unix seconds, for the record. Raises OSError if the disk refuses; nothing is left behind then.
        """
        run = failed[0].event.id.run
        parent = self._folder / f"run{run:06d}"
        parent.mkdir(exist_ok=True)
        final = self._free_name(parent, f"{reason.name.lower()}-{failed[0].event.id.event}")
        partial = parent / f".{final.name}.partial"
        try:
            partial.mkdir()
            name = self._writer(partial, [item.event for item in failed], programme.config)
            record = _record(programme, reason, failed, when) | {"run": run, "events_file": name}
            (partial / "bundle.json").write_text(json.dumps(record, indent=1))
            for path in (*partial.iterdir(), partial):
                _sync(path)
            partial.rename(final)
            _sync(parent)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.bytes_written += sum(len(item.event.payload) for item in failed)
        return final

    def _free_name(self, parent: Path, suffix: str) -> Path:
        while True:
            self._serial += 1
            path = parent / f"{self._serial:06d}-{suffix}"
            if not path.exists():
                return path


def _record(programme: Entry, reason: Reason, failed: Sequence[FailedEvent], when: float) -> dict[str, Any]:
    return {
        "bundle_version": BUNDLE_VERSION,
        "reason": reason.name,
        "unix_seconds": when,
        "config": msgspec.to_builtins(programme.config),
        "first_lumi": programme.first_lumi,
        "menu_hash": programme.menu_hash,
        "models": msgspec.to_builtins(programme.models),
        "conditions": programme.conditions,
        "versions": versions(),
        "events": [
            {
                **item.event.id._asdict(),
                "bytes": len(item.event.payload),
                "attempts": item.attempts,
                "failures": [asdict(failure) for failure in item.failures],
            }
            for item in failed
        ],
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
