"""What a farm may leave behind when it has ended: processes and segments in /dev/shm; and what this process gained meanwhile."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SHM = "/dev/shm/"
PATIENCE_S = 5.0
POLL_S = 0.05
#: Threads that pyzmq keeps on purpose until it exits.
TOLERATED_THREADS = ("GarbageCollectorThread",)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; none if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def segments(pid: int) -> set[str]:
    """Files in /dev/shm that a process has mapped."""
    try:
        text = Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {SHM + line.rpartition(SHM)[2].split()[0] for line in text.splitlines() if SHM in line}


@dataclass(slots=True)
class Footprints:
    """Everything that the processes of a farm were seen to own."""

    processes: set[psutil.Process] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def look(self, pids: list[int]) -> None:
        """Note these processes, their children and their segments."""
        for pid in pids:
            for process in family(pid):
                self.processes.add(process)
                self.files |= segments(process.pid)

    def left(self, patience_s: float = PATIENCE_S) -> list[str]:
        """What is still there, in words; waits so long for it to go."""
        deadline = time.monotonic() + patience_s
        while (found := self._left()) and time.monotonic() < deadline:
            time.sleep(POLL_S)  # the interval of looking
        return found

    def _left(self) -> list[str]:
        # psutil tells a process from another that got its number later by the time of its start
        found = [f"process {process.pid} is left" for process in self.processes if process.is_running()]
        return found + [f"{name} is left" for name in sorted(self.files) if os.path.exists(name.removesuffix(" (deleted)"))]


@dataclass(frozen=True, slots=True)
class Own:
    """Threads and descriptors of this process."""

    threads: frozenset[int | None]
    descriptors: int

    @classmethod
    def now(cls) -> Own:
        """Those of this moment."""
        return cls(frozenset(thread.ident for thread in threading.enumerate()), psutil.Process().num_fds())

    def left(self) -> list[str]:
        """What was not there then, in words."""
        new = [thread for thread in threading.enumerate() if thread.ident not in self.threads]
        found = [f"thread {thread.name} is left" for thread in new if type(thread).__name__ not in TOLERATED_THREADS]
        more = psutil.Process().num_fds() - self.descriptors
        return [*found, f"{more} descriptors are left open"] if more > 0 else found
