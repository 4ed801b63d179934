"""The slot ring as its owner sees it: a free list over the shared memory of `proto.slots`, each payload written once.

Pages are touched when first written and freed slots are reused last in, first out, so that the memory really used follows the number
of events in flight, not the size of the ring.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from hltfarm.proto.errors import ConfigError, LimitError
from hltfarm.proto.framing import Buffer
from hltfarm.proto.slots import SlotView

PAGE = 4096
TAKEN = "the slot ring {} is taken by another ingest that starts now; give each one of its own (--ring)"


class SlotRing(SlotView):
    """The ring with its free list, owned by one ingest. The file is created and locked here, and removed by `close`.

    The lock tells a ring that is in use from one that a killed ingest left, also where both were process 1 of a container.
    """

    def __init__(self, path: Path, slots: int, slot_bytes: int) -> None:
        """Raises ConfigError if the path is another ingest's or cannot be used, or if the file system cannot hold the ring: a page that
        cannot be provided later would kill the process.
        """
        slot_bytes = -(-slot_bytes // PAGE) * PAGE
        total = slots * slot_bytes
        _remove_left_over(path)
        free = os.statvfs(path.parent)
        if free.f_bavail * free.f_frsize < total:
            raise ConfigError(
                f"{path.parent} has {free.f_bavail * free.f_frsize >> 20} MiB free, the ring needs {total >> 20} MiB "
                f"({slots} slots of {slot_bytes} bytes): fewer slots, or a larger /dev/shm (docker run --shm-size)"
            )
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigError(TAKEN.format(path)) from None
        try:
            _lock(path, self._lock)
            os.ftruncate(self._lock, total)
            super().__init__(path, slots, slot_bytes)
        except BaseException:
            _remove(path, self._lock)
            raise
        self._memory = memoryview(self._map)
        self._free = list(range(slots - 1, -1, -1))

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def put(self, payload: Buffer) -> int:
        """Copy a payload into a free slot and return the slot. Raises LimitError if none is free or the payload is too large."""
        size = len(payload)
        if size > self.slot_bytes:
            raise LimitError(f"payload of {size} bytes, a slot has {self.slot_bytes}")
        if not self._free:
            raise LimitError(f"all {self.slots} slots are in use")
        slot = self._free.pop()
        start = slot * self.slot_bytes
        self._memory[start : start + size] = payload
        return slot

    def release(self, slots: list[int]) -> None:
        """Return slots to the free list; each must be in use."""
        self._free += slots

    def close(self) -> None:
        """Unmap and remove the file."""
        self._memory.release()
        super().close()
        _remove(self.path, self._lock)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether this file, and not one that was made later, is at the path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(path: Path, descriptor: int) -> None:
    """Make the file at a path one's own. Raises ConfigError if it is another ingest's, or not at the path any more."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"the slot ring {path} belongs to another ingest that is running; give each one of its own (--ring)") from None
    if not _is_at(path, descriptor):
        raise ConfigError(TAKEN.format(path))


def _remove(path: Path, descriptor: int) -> None:
    """Remove the file, if it is still at the path, and let go of it."""
    if _is_at(path, descriptor):
        path.unlink(missing_ok=True)
    os.close(descriptor)


def _remove_left_over(path: Path) -> None:
    """Remove the ring of an ingest that was killed. Raises ConfigError for one that is in use, and for a path that cannot be."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"the slot ring {path} cannot be used: {error}; give another file (--ring)") from error
    try:
        _lock(path, descriptor)
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
