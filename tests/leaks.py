"""What a test may leave behind: child processes, threads, segments in /dev/shm. Reads /proc (Linux).

All of a machine's processes share /dev/shm, and another test run, bench or farm may be killed, or kill its ingest, while a test of
ours runs. A segment is not ours if somebody has mapped it, or if it belongs to a farm that lives (its folder is locked). Of what then
remains, names with our process id are ours; the others are, too, unless another run is under way that may have left them.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SHM = Path("/dev/shm")
POLL_S = 0.05
#: Children that Python keeps on purpose until it exits.
TOLERATED_CHILDREN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
#: Threads that pyzmq keeps on purpose until it exits.
TOLERATED_THREADS = ("GarbageCollectorThread",)


def children_of(pid: int) -> dict[int, str]:
    """Living children of a process, with their command lines (also zombies, which nobody has waited for)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if parent == pid and not any(name in command for name in TOLERATED_CHILDREN):
            found[int(entry.name)] = command or "(zombie)"
    return found


def segments() -> set[str]:
    """Names in /dev/shm that belong to this user; what others have mapped there could not be seen."""
    found = set()
    for entry in os.scandir(SHM) if SHM.is_dir() else ():
        try:
            if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                found.add(entry.name)
        except FileNotFoundError:
            continue  # gone while we looked
    return found


def mapped_segments() -> set[str]:
    """Names in /dev/shm that some living process has mapped."""
    names = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        names |= {line.rpartition("/dev/shm/")[2].split()[0] for line in text.splitlines() if "/dev/shm/" in line}
    return names


def of_a_living_farm(name: str, folders: Path | None = None) -> bool:
    """Whether the segment is that of a farm whose folder is locked: its ingest may just be started again."""
    lock = (folders or Path(tempfile.gettempdir())) / name.partition(".")[0] / "lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def other_runs() -> list[int]:
    """Python processes that run tests or parts of hltfarm and neither descend from this one nor are its ancestors."""
    parents, runs = {}, set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if b"python" in command and (b"pytest" in command or b"hltfarm" in command):
            runs.add(int(entry.name))

    def ancestors(pid: int) -> set[int]:
        found = set()
        while pid in parents and pid not in found:
            found.add(pid)
            pid = parents[pid]
        return found

    own = ancestors(os.getpid())
    return sorted(pid for pid in runs if pid not in own and os.getpid() not in ancestors(pid))


def ours(names: set[str]) -> list[str]:
    """Those of these segments, which nobody has mapped, that this test run left behind."""
    dead = {name for name in names if not of_a_living_farm(name)}
    named = {name for name in dead if str(os.getpid()) in re.findall(r"[0-9]+", name)}
    return sorted(named if dead - named and other_runs() else dead)


@dataclass(frozen=True)
class Footprint:
    """Children, threads and shared-memory segments at one moment."""

    children: frozenset[int]
    threads: frozenset[int | None]
    segments: frozenset[str]

    @classmethod
    def now(cls) -> Footprint:
        """The footprint of this process at this moment."""
        return cls(
            frozenset(children_of(os.getpid())),
            frozenset(thread.ident for thread in threading.enumerate()),
            frozenset(segments()),
        )

    def _left(self) -> list[str]:
        left = [f"process {pid}: {command}" for pid, command in children_of(os.getpid()).items() if pid not in self.children]
        left += [
            f"thread {thread.name}"
            for thread in threading.enumerate()
            if thread.ident not in self.threads and type(thread).__name__ not in TOLERATED_THREADS
        ]
        new = segments() - self.segments
        if new:
            left += [f"/dev/shm/{name}" for name in ours(new - mapped_segments())]
        return left

    def left_behind(self, deadline_s: float) -> list[str]:
        """What is here now and was not then, in words; waits up to `deadline_s` for it to go away."""
        deadline = time.monotonic() + deadline_s
        left = self._left()
        while left and time.monotonic() < deadline:
            time.sleep(POLL_S)
            left = self._left()
        return left
