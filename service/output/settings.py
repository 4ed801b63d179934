"""Settings of the output of an ingest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hltfarm.proto.errors import ConfigError


class Fsync(StrEnum):
    """When files are forced to the medium. What the kernel has survives the end of the process in any case."""

    EVENT = "event"  # before an event is decided (many events at a time)
    LUMISECTION = "lumisection"  # before a file gets its name
    NONE = "none"  # never; the kernel writes when it likes


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """Where accepted events go.

    folder: files of the ingest, None for no files; it belongs to one ingest at a time. columns: the reconstructed tables go there too.
    file_bytes: a file that reaches it is closed and the next part begun. Too low makes many files, too high loses more to one damaged file.
    keep_bytes: the oldest closed files are removed when all closed files together exceed it; 0 keeps all. For demonstrations.
    reserve_bytes: the disk counts as full with less than this free; indices, the error stream and the run registry need room, too.
    grace_s: a lumisection is closed so long after its last arrival and the begin of a later one. Too short makes several parts.
    open_files: files open at a time; more are closed, the longest unused first.
    retry_s: time between two attempts at a disk that refuses.
    url: where consumers subscribe to streams over ZeroMQ, None for nowhere. consumer_timeout_s: silence after which one is gone.
    """

    folder: Path | None = None
    fsync: Fsync = Fsync.LUMISECTION
    columns: bool = True
    file_bytes: int = 4 << 30
    keep_bytes: int = 0
    reserve_bytes: int = 256 << 20
    grace_s: float = 5.0
    open_files: int = 64
    retry_s: float = 1.0
    url: str | None = None
    consumer_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError for values that cannot work."""
        if self.file_bytes < 1 << 20 or self.open_files < 1 or min(self.keep_bytes, self.reserve_bytes) < 0:
            raise ConfigError(
                f"output: files of {self.file_bytes} bytes (at least {1 << 20}), {self.open_files} open (at least 1), "
                f"keep {self.keep_bytes} and reserve {self.reserve_bytes} bytes (not negative)"
            )
        if 0 < self.keep_bytes < 2 * self.file_bytes:
            raise ConfigError(f"output: to keep {self.keep_bytes} bytes, files have at most half of that, not {self.file_bytes} bytes")

    @property
    def active(self) -> bool:
        """Accepted events go somewhere."""
        return self.folder is not None or self.url is not None

    def arguments(self, folder: Path | None, url: str | None) -> tuple[str, ...]:
        """Options of an `hltfarm ingest` with these settings and a folder and an endpoint of its own."""
        if folder is None and url is None:
            return ()
        return (
            *(("--output", str(folder)) if folder is not None else ()),
            *(("--output-url", url) if url is not None else ()),
            *("--fsync", str(self.fsync)),
            "--output-columns" if self.columns else "--no-output-columns",
            *("--output-file", str(self.file_bytes)),
            *("--output-keep", str(self.keep_bytes)),
            *("--output-reserve", str(self.reserve_bytes)),
            *("--output-grace-s", repr(self.grace_s)),
        )
