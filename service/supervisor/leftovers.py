"""The folder in which a farm on one machine keeps its sockets, and the removal of what killed farms left behind.

    TMP/hltfarm-XXXXXXXX/   lock       held (flock) as long as the owning process lives; the kernel gives it free
                            ring       first part of the names of the farm's segments in /dev/shm
                            *.sock     ZeroMQ ipc endpoints

A folder whose lock can be taken belongs to nobody any more. A lock says so across containers, too, where process ids do not.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "hltfarm-"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class RuntimeFolder:
    """A farm's folder, owned by this process until `remove`."""

    path: Path
    descriptor: int

    @classmethod
    def create(cls, parent: Path | None = None) -> RuntimeFolder:
        """A new folder below `parent` (the system's temporary folder), for its user only."""
        hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))  # until it is locked: another farm may be looking for leftovers
        path = hidden.with_name(hidden.name[1:])
        descriptor = os.open(hidden / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (hidden / "ring").write_text(path.name)
        hidden.rename(path)
        return cls(path, descriptor)

    def ring(self, ingest: int) -> Path:
        """Where an ingest of this farm keeps its slots."""
        return SHARED_MEMORY / f"{self.path.name}.{ingest}"

    def endpoint(self, name: str) -> str:
        """A ZeroMQ ipc endpoint in the folder."""
        return f"ipc://{self.path / name}.sock"

    def remove(self) -> None:
        """Remove the folder and the segments, and give the lock free."""
        _remove(self.path)
        os.close(self.descriptor)


def _remove(folder: Path) -> None:
    named = folder / "ring"
    ring = named.read_text().strip() if named.is_file() else ""
    if ring.startswith(PREFIX) and "/" not in ring:
        for segment in SHARED_MEMORY.glob(f"{ring}.*"):
            segment.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path | None = None) -> list[Path]:
    """Remove the folders (and segments) of this user's farms that are gone; returns the folders."""
    removed = []
    for folder in sorted((parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*")):
        try:
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
                continue
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # not one of ours, or just being removed
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its farm lives
        else:
            log.info("removing %s, left by a farm that is gone", folder)
            _remove(folder)
            removed.append(folder)
        finally:
            os.close(descriptor)
    return removed
