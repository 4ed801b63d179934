"""What the processes of a farm use: memory, descriptors, threads, shared memory."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec
import psutil

from hltfarm.service.bench.cpu import farm_processes
from hltfarm.service.chaos.leftovers import segments


class Usage(msgspec.Struct, frozen=True):
    """One process at one moment. private_bytes: resident memory that is its own, without what it shares with others (libraries, slots)."""

    pid: int
    resident_bytes: int
    private_bytes: int
    descriptors: int
    threads: int


class Footprint(msgspec.Struct, frozen=True):
    """A farm at one moment, in seconds since the start of the load. processes: by name; shared_bytes: of its segments in /dev/shm."""

    at_s: float
    processes: dict[str, Usage]
    shared_bytes: int


def farm_footprint(serve: int, at_s: float) -> Footprint:
    """What `hltfarm serve` of this process id and its children use now. Processes that are just ending or starting are left out."""
    found = dict(_usages(farm_processes(serve)))
    names = {name for usage in found.values() for name in segments(usage.pid)}
    return Footprint(at_s, found, sum(_used(name) for name in names))


def _usages(roles: dict[int, str]) -> Iterable[tuple[str, Usage]]:
    numbers: dict[str, int] = {}
    for pid, role in sorted(roles.items()):
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                name = _name(role, process.cmdline(), numbers)
                memory = process.memory_info()
                usage = Usage(pid, memory.rss, memory.rss - memory.shared, process.num_fds(), process.num_threads())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        yield name, usage


def _name(role: str, command: list[str], numbers: dict[str, int]) -> str:
    """Name of a process: that of its command line, else its role, with a number if there are several."""
    if "--name" in command[:-1]:
        return command[command.index("--name") + 1]
    number = numbers[role] = numbers.get(role, -1) + 1
    return f"{role}-{number}" if number else role


def _used(segment: str) -> int:
    """Memory of a segment that is really used; 0 once it is gone."""
    try:
        return os.stat(segment).st_blocks * 512
    except FileNotFoundError:
        return 0
