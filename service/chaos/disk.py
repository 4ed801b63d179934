"""A disk that fills up: a small file system of its own where this user may mount one, else a limit on the size of the ingests' files."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

SIZE_MB = 64
BLOCK = 1 << 16


class SmallDisk:
    """The disk below a folder, until the end of the block. `mounted`: it is a file system of its own, whose errors are the real ones.

    mount: False leaves that out even where it is possible.
    """

    def __init__(self, folder: Path, size_mb: int = SIZE_MB, mount: bool = True) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "hltfarm-chaos", str(folder)]
        may = mount and shutil.which("mount") is not None
        self.mounted = may and subprocess.run(command, capture_output=True, check=False).returncode == 0
        self._limited: list[int] = []

    def fill(self, writers: list[int]) -> None:
        """No more room. writers: process ids of those who write there, whose files are limited where nothing is mounted."""
        if not self.mounted:
            for pid in writers:
                _limit(pid, 1)
            self._limited = writers
            return
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            room = os.statvfs(self.folder)
            with suppress(OSError):  # somebody was faster; the rest comes below
                os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize)
            filler.seek(0, os.SEEK_END)
            block = bytes(BLOCK)
            while len(block) > 1:
                try:
                    filler.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    block = block[: len(block) // 2]  # to the last bytes

    def free(self) -> None:
        """Room again."""
        for pid in self._limited:
            _limit(pid, resource.RLIM_INFINITY)
        self._limited = []
        (self.folder / "filler").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.free()
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=True)


def _limit(pid: int, size: int) -> None:
    """Largest size of the files that a process may write to; it gets EFBIG beyond. Memory that is mapped is not concerned."""
    try:
        _soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
    except ProcessLookupError:
        return  # it ended, and writes nothing any more
