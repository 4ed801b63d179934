"""Room on the disks that an ingest writes to."""

from __future__ import annotations

import os
from pathlib import Path


def space(folder: Path) -> tuple[int, int]:
    """(free, size) in bytes of the file system that holds `folder`, free for this user; (0, 0) where it cannot be asked."""
    try:
        answer = os.statvfs(folder)
    except OSError:
        return 0, 0
    return answer.f_bavail * answer.f_frsize, answer.f_blocks * answer.f_frsize
