"""Bundles of the error stream (service/ingest/error_stream.py writes them), read and checked as a whole before anything is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import EventId
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.wire import Reason
from hltfarm.service.ingest.error_stream import BUNDLE_VERSION
from hltfarm.service.ingest.sample_writer import EVENTS, MENU

RECORD = "bundle.json"


class Failure(msgspec.Struct, frozen=True):
    """An attempt that failed in the farm: in which worker, with how many events, and what that worker was."""

    worker: str
    error: str
    events: int
    where: dict[str, Any]
    stage: str = ""

    @property
    def device(self) -> str:
        """Backend and device, as far as they are known."""
        return " ".join(str(self.where[key]) for key in ("backend", "device") if self.where.get(key)) or "unknown device"


class FailedEvent(msgspec.Struct, frozen=True):
    """An event of a bundle and what the farm tried."""

    run: int
    lumi: int
    event: int
    bx: int
    bytes: int
    attempts: int
    failures: tuple[Failure, ...]

    @property
    def id(self) -> EventId:
        return EventId(self.run, self.lumi, self.event, self.bx)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """bundle.json. Hashes are empty where no worker had built the programme."""

    bundle_version: int
    reason: str
    unix_seconds: Annotated[float, msgspec.Meta(ge=0, lt=1e11)]
    run: int
    config: RunConfig
    menu_hash: str
    models: tuple[ModelInfo, ...]
    conditions: str
    versions: dict[str, str]
    events_file: str
    events: tuple[FailedEvent, ...]


class _Version(msgspec.Struct):
    bundle_version: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that is whole. `menu`: the text that decided, empty if the bundle names the built-in menu and does not have it."""

    folder: Path
    record: Record
    menu: str

    @property
    def events_file(self) -> Path:
        return self.folder / EVENTS


def find_bundles(path: Path) -> list[Path]:
    """The bundle that `path` is, or all below it in the order of their names; what looks like one counts. Raises SampleError for none."""
    if path.name == RECORD and path.is_file():
        return [path.parent]
    if not path.is_dir():
        raise SampleError(f"{path}: no such bundle; name a folder of the error stream (hltfarm-data/errors), or a bundle in it")
    if (path / RECORD).exists() or (path / EVENTS).exists():
        return [path]
    found = {file.parent for name in (RECORD, EVENTS) for file in path.rglob(name)}
    whole = sorted(folder for folder in found if not any(part.startswith(".") for part in folder.relative_to(path).parts))
    if not whole:
        raise SampleError(f"{path}: no bundles in it; name a folder of the error stream (hltfarm-data/errors), or a bundle in it")
    return whole


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle. Raises SampleError, which names the file, for everything that is not as the error stream writes it."""
    record = _record(folder / RECORD)
    if record.events_file != EVENTS:
        raise SampleError(f"{folder / RECORD}: its events are in {record.events_file[:60]!r}; only {EVENTS} can be replayed")
    if record.reason not in Reason.__members__ or record.reason == Reason.NONE.name:
        known = ", ".join(reason.name for reason in Reason if reason is not Reason.NONE)
        raise SampleError(f"{folder / RECORD}: reason {record.reason[:60]!r} is unknown; there are {known}")
    sample = Sample(folder / EVENTS)
    sample.verify()
    held = [(event.id, event.payload.nbytes) for event in sample]
    named = [(event.id, event.bytes) for event in record.events]
    if held != named:
        first = next((i for i, (a, b) in enumerate(zip(held, named, strict=False)) if a != b), min(len(held), len(named)))
        raise SampleError(
            f"{folder}: {EVENTS} has {len(held)} events, {RECORD} names {len(named)}, and number {first} is not the same; "
            f"the two files are of different bundles"
        )
    if not named:
        raise SampleError(f"{folder / RECORD}: no events in it")
    return Bundle(folder, record, record.config.menu or _menu(folder / MENU))


def _record(path: Path) -> Record:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SampleError(f"{path}: cannot be read ({error.strerror}); a bundle is a folder with {RECORD} and {EVENTS}") from None
    try:
        version = msgspec.json.decode(text, type=_Version).bundle_version
        if version != BUNDLE_VERSION:
            raise SampleError(f"{path}: a bundle of version {version}, this hltfarm reads {BUNDLE_VERSION}; use the one that wrote it")
        return msgspec.json.decode(text, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SampleError(f"{path}: not the record of a bundle, or damaged: {error}") from None


def _menu(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise SampleError(f"{path}: cannot be read: {error}") from None
