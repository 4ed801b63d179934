"""Ring of fixed-size slots in shared memory: one payload a slot, written once by the ingest, read in place by the workers.

The ring is a file in `/dev/shm` (or any tmpfs), mapped by every process. Pages are touched when first written and freed slots are
reused last in, first out, so that the memory really used follows the number of events in flight, not the size of the ring.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import ConfigError, LimitError
from hltfarm.proto.wire import Buffer

PAGE = 4096


class SlotView:
    """Mapping of an existing ring, for a worker. Payload views are read-only; `buffer` is the whole ring (for registration with CUDA)."""

    def __init__(self, path: Path, slots: int, slot_bytes: int) -> None:
        """Raises ConfigError if the file is missing or of another size (another host, another ingest)."""
        try:
            with path.open("r+b") as file:
                if os.fstat(file.fileno()).st_size != slots * slot_bytes:
                    raise ConfigError(f"{path} is not a ring of {slots} slots of {slot_bytes} bytes")
                self._map = mmap.mmap(file.fileno(), slots * slot_bytes)
        except OSError as error:
            raise ConfigError(f"cannot map the slot ring {path}: {error}; worker and ingest must share /dev/shm") from error
        self.path = path
        self.slots = slots
        self.slot_bytes = slot_bytes
        self.buffer: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self._read_only = self.buffer.view()
        self._read_only.flags.writeable = False

    def payload(self, slot: int, size: int) -> NDArray[np.uint8]:
        """View of the first `size` bytes of a slot; valid until the event is answered."""
        start = slot * self.slot_bytes
        return self._read_only[start : start + size]

    def close(self) -> None:
        """Unmap. Views that are still alive keep the mapping until they are gone."""
        del self.buffer, self._read_only
        try:
            self._map.close()
        except BufferError:
            # a view is still referenced somewhere; the mapping goes with the last of them
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class SlotRing(SlotView):
    """The ring with its free list, owned by one ingest. The file is created here and removed by `close`."""

    def __init__(self, path: Path, slots: int, slot_bytes: int) -> None:
        """Raises ConfigError if the file system cannot hold the ring: a page that cannot be provided later would kill the process."""
        slot_bytes = -(-slot_bytes // PAGE) * PAGE
        total = slots * slot_bytes
        path.unlink(missing_ok=True)  # left by an ingest that was killed
        free = os.statvfs(path.parent)
        if free.f_bavail * free.f_frsize < total:
            raise ConfigError(
                f"{path.parent} has {free.f_bavail * free.f_frsize >> 20} MiB free, the ring needs {total >> 20} MiB "
                f"({slots} slots of {slot_bytes} bytes): fewer slots, or a larger /dev/shm (docker run --shm-size)"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, total)
        finally:
            os.close(descriptor)
        super().__init__(path, slots, slot_bytes)
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
