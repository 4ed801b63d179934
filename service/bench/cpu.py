"""CPU time of the processes of a farm, by role, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: the name before may hold spaces."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all its threads, user and system. Raises FileNotFoundError when it is gone."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def farm_processes(serve: int) -> dict[int, str]:
    """Role (`control`, `ingest`, `worker`) of the process of `hltfarm serve` and of its children, by process id."""
    found = {serve: "control"}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if int(_fields(int(entry.name))[1]) != serve:
                continue
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        role = next((word for word in words if word in ("ingest", "worker")), None)
        if role is not None:
            found[int(entry.name)] = role
    return found


class CpuMeter:
    """CPU time by role between `start` and `used`. A process that ends in between is left out, one that begins counts from its start."""

    def __init__(self, serve: int) -> None:
        self._serve = serve
        self._before: dict[int, float] = {}

    def start(self) -> None:
        """Count from now."""
        self._before = self._now()

    def used(self) -> dict[str, float]:
        """CPU seconds by role since `start`."""
        roles = farm_processes(self._serve)
        total = dict.fromkeys(("control", "ingest", "worker"), 0.0)
        for pid, seconds in self._now().items():
            if pid in roles:
                total[roles[pid]] += seconds - self._before.get(pid, 0.0)
        return total

    def _now(self) -> dict[int, float]:
        found = {}
        for pid in farm_processes(self._serve):
            try:
                found[pid] = cpu_seconds(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
        return found
