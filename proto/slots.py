"""View of the slot ring: shared memory in which payloads travel from an ingest to the workers of the same machine.

The ring is a file in `/dev/shm` (or any tmpfs) of `slots` slots of `slot_bytes` bytes, one payload a slot. Every process maps it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import ConfigError


class SlotView:
    """Mapping of an existing ring, for a worker. Payload views are read-only; `buffer` is the whole ring (for registration with CUDA)."""

    def __init__(self, path: Path, slots: int, slot_bytes: int) -> None:
        """Raises ConfigError if the file is missing or of another size (another host, another ingest)."""
        try:
            with path.open("r+b") as file:
                status = os.fstat(file.fileno())
                if status.st_size != slots * slot_bytes:
                    raise ConfigError(f"{path} is not a ring of {slots} slots of {slot_bytes} bytes")
                self._map = mmap.mmap(file.fileno(), slots * slot_bytes)
        except OSError as error:
            raise ConfigError(f"cannot map the slot ring {path}: {error}; worker and ingest must share /dev/shm") from error
        self.path = path
        self.file = (status.st_dev, status.st_ino)  #: the same for two mappings of one ring, and only for those
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
