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
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._lock, total)
            super().__init__(path, slots, slot_bytes)
        except BaseException:
            os.close(self._lock)
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
        self.path.unlink(missing_ok=True)
        os.close(self._lock)


def _remove_left_over(path: Path) -> None:
    """Remove the ring of an ingest that was killed. Raises ConfigError for one that is in use, and for a path that cannot be."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"the slot ring {path} cannot be used: {error}; give another file (--ring)") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        raise ConfigError(f"the slot ring {path} belongs to another ingest that is running; give each one of its own (--ring)") from None
    finally:
        os.close(descriptor)
