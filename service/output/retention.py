"""Closed output files in order of their age, and which have to go where only so many bytes are to be kept."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path

from hltfarm.service.output.sidecar import SUFFIX

log = logging.getLogger(__name__)


class Retention:
    """Removes the oldest closed files with their sidecars while all together exceed `keep_bytes`; 0 keeps everything.

    files, bytes: removed so far.
    """

    def __init__(self, folder: Path, keep_bytes: int) -> None:
        self.files = self.bytes = 0
        self._keep = keep_bytes
        self._kept: deque[tuple[Path, int]] = deque()
        self._sum = 0
        if keep_bytes:
            known = sorted((path.stat().st_mtime_ns, path) for path in folder.glob("run*/*/*.hlt"))
            for _, path in known:
                self._enter(path, path.stat().st_size)

    def closed(self, path: Path, size: int) -> None:
        """A file was closed. Files that cannot be removed are logged and no longer counted."""
        if not self._keep:
            return
        self._enter(path, size)
        while self._sum > self._keep and len(self._kept) > 1:
            oldest, freed = self._kept.popleft()
            self._sum -= freed
            try:
                oldest.with_suffix(SUFFIX).unlink(missing_ok=True)
                oldest.unlink(missing_ok=True)
            except OSError as error:
                log.error("%s cannot be removed: %s", oldest, error)
                continue
            self.files += 1
            self.bytes += freed
            log.warning("%s was removed: the output keeps %d bytes", oldest, self._keep)

    def _enter(self, path: Path, size: int) -> None:
        self._kept.append((path, size))
        self._sum += size
