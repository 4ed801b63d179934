"""Uploaded model packages on disk: FOLDER/<name>/<hash>/, checked before they appear, never changed afterwards.

A package comes as a zip of its files, `model.json` and what its kind has besides, at the top or in one folder. Nothing else is taken out of
it: names are compared with the few that exist, never joined to a path.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.dnn.features import FEATURES
from hltfarm.workers.dnn.selector import EVENT_INPUTS
from hltfarm.workers.models import load
from hltfarm.workers.models.manifest import FILES, MANIFEST, MAX_MANIFEST_BYTES, Manifest
from hltfarm.workers.models.package import MAX_FILE_BYTES
from hltfarm.workers.models.registry import shipped

_END = struct.Struct("<4s4H2LH")  # of a zip: signature, disks, entries, bytes and offset of the directory, length of a comment
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES = 20
#: Largest upload, and largest file in it. Too low refuses models, too high lets an upload fill the disk.
MAX_UPLOAD_BYTES = 64 << 20
_MOST_ENTRIES = 16
_MOST_DIRECTORY_BYTES = _MOST_ENTRIES << 10
_KNOWN = frozenset({MANIFEST, *(name for names in FILES.values() for name in names)})
_READ_BYTES = 1 << 20


class ModelStore:
    """The packages below a folder that the workers can read. Calls block on the disk; raises ConfigError for what cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def place(self, name: str, model_hash: str) -> Path:
        """Where a model lies, or would."""
        return self.folder / name / model_hash

    def add(self, upload: IO[bytes]) -> tuple[Manifest, Path, int]:
        """Check an uploaded zip and keep it: what it says of itself, its folder, its bytes. The same model again changes nothing."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".upload-", dir=self.folder) as work:
                fresh = Path(work) / "package"
                fresh.mkdir()
                _unpack(upload, fresh)
                described = _checked(fresh)
                place = self.place(described.name, described.hash)
                if not place.is_dir():
                    place.parent.mkdir(exist_ok=True)
                    fresh.rename(place)
                return described, place, sum(file.stat().st_size for file in place.iterdir())
        except OSError as error:
            raise ConfigError(f"the model cannot be stored in {self.folder}: {error.strerror or error}") from error

    def remove(self, name: str, model_hash: str) -> None:
        """Take a package away; no effect if it is gone already."""
        place = self.place(name, model_hash)
        if not place.is_dir():
            return
        grave = Path(tempfile.mkdtemp(prefix=".removed-", dir=self.folder))
        try:
            place.rename(grave / "package")  # at once, for whoever looks
        finally:
            shutil.rmtree(grave)


def _checked(folder: Path) -> Manifest:
    """The package's own check, that of a worker. Messages name files of the package, not where it was unpacked."""
    try:
        described = load(folder).manifest
        load(folder, FEATURES if described.target == "track" else EVENT_INPUTS)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{folder}/", "").replace(str(folder), "the package")) from None
    if described.name in shipped():
        raise ConfigError(f"model {described.name!r} is the name of a shipped model; give yours another")
    return described


def _unpack(upload: IO[bytes], folder: Path) -> None:
    _check_end(upload)
    try:
        with zipfile.ZipFile(upload) as archive:
            for name, info in _wanted(archive).items():
                _write(archive, info, folder / name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(f"the upload is no zip of a model package: {' '.join(str(error).split()) or type(error).__name__}") from None


def _check_end(upload: IO[bytes]) -> None:
    """The directory of the zip is small. `zipfile` reads it whole before it can be asked: 64 MiB of empty entries take 20 s and 600 MB."""
    size = upload.seek(0, os.SEEK_END)
    tail = _ZIP64_LOCATOR_BYTES + _END.size
    upload.seek(max(0, size - tail))
    end = upload.read(tail)
    upload.seek(0)
    if len(end) < _END.size or not end[-_END.size :].startswith(b"PK\x05\x06"):
        raise ConfigError("the upload is no zip of a model package: it does not end as a zip without a comment does")
    if end.startswith(_ZIP64_LOCATOR):
        raise ConfigError("the upload is no zip of a model package: it has the form for large archives (zip64)")
    _, _, _, _, entries, directory_bytes, _, _ = _END.unpack(end[-_END.size :])
    if entries > _MOST_ENTRIES or directory_bytes > _MOST_DIRECTORY_BYTES:
        raise ConfigError(
            f"the upload has {entries} entries in {directory_bytes:,} bytes; a model package has {MANIFEST} and at most one more file"
        )


def _wanted(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries of a package by the names of its files. Raises ConfigError for any other entry."""
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise ConfigError(f"the upload has {len(entries)} entries; a model package has {MANIFEST} and at most one more file")
    found: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in entries:
        folder, _, name = info.filename.rpartition("/")
        if not name and info.is_dir():
            continue
        shown = repr(info.filename[:80])
        if name not in _KNOWN or "/" in folder or folder in ("..", "."):
            raise ConfigError(
                f"the upload has the entry {shown}; a model package has {', '.join(sorted(_KNOWN))}, at the top or in one folder"
            )
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ConfigError(f"the entry {shown} of the upload is no regular file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ConfigError(f"the entry {shown} of the upload is compressed in a way that is not taken; use deflate")
        limit = MAX_MANIFEST_BYTES if name == MANIFEST else MAX_FILE_BYTES
        if info.file_size > limit:
            raise ConfigError(f"the entry {shown} of the upload has {info.file_size:,} bytes; {limit:,} at most")
        if name in found:
            raise ConfigError(f"the upload has {name} twice")
        folders.add(folder)
        found[name] = info
    if MANIFEST not in found:
        raise ConfigError(f"the upload has no {MANIFEST}: zip the files of a model package")
    if len(folders) > 1:
        raise ConfigError(f"the files of the upload lie in {len(folders)} folders; put them into one")
    return found


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Take one entry out, no more bytes than it announced."""
    left = info.file_size
    with archive.open(info) as source, path.open("xb") as target:
        while chunk := source.read(min(_READ_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise ConfigError(f"the entry {info.filename[:80]!r} of the upload is larger than it says")
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
