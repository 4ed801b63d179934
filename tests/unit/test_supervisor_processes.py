"""The supervisor with real (tiny) processes: restarts, output, order of the end, and what is left behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hltfarm.service.supervisor.leftovers import RuntimeFolder, remove_leftovers
from hltfarm.service.supervisor.policy import RestartPolicy
from hltfarm.service.supervisor.processes import Exit, ProcessSpec, Supervisor, describe_exit

PATIENT = "import signal, sys; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
QUICK = RestartPolicy(first_s=0.01, quarantine_after=3, window_s=60.0)


def spec(name: str, program: str, role: str = "worker") -> ProcessSpec:
    return ProcessSpec(name=name, role=role, command=(sys.executable, "-I", "-S", "-c", program))


class Farm:
    """A supervisor, its output and the exits it reported."""

    def __init__(self, *specs: ProcessSpec, leave_s: float = 10.0) -> None:
        self.lines: list[tuple[str, str]] = []
        self.exits: list[str] = []
        self.changed = asyncio.Event()
        self.supervisor = Supervisor(specs, on_exit=self.on_exit, emit=self.emit, clock=time.monotonic, policy=QUICK, leave_s=leave_s)

    async def on_exit(self, end: Exit) -> None:
        self.exits.append(end.spec.name)
        self.changed.set()

    def emit(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def pid(self, name: str) -> int:
        return next(process.pid for process in self.supervisor.processes() if process.name == name and process.pid is not None)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_killed_process_is_reported_and_started_again() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", PATIENT))
        farm.supervisor.start()
        await farm.until(lambda: farm.lines.count(("w0", "up")) == 1)
        first = farm.pid("w0")
        os.kill(first, signal.SIGKILL)
        await farm.until(lambda: farm.lines.count(("w0", "up")) == 2)
        (process,) = farm.supervisor.processes()
        assert (process.restarts, process.last_exit, process.phase) == (1, "signal SIGKILL", "running")
        assert process.pid not in (None, first)
        assert farm.exits == ["w0"]
        await farm.supervisor.stop(grace_s=10)
        (process,) = farm.supervisor.processes()
        assert (process.phase, process.pid, farm.exits) == ("stopped", None, ["w0"])

    asyncio.run(main())


def test_quarantine_and_release() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", "raise SystemExit(3)"))
        farm.supervisor.start()
        await farm.until(lambda: len(farm.exits) == 3)
        (process,) = farm.supervisor.processes()
        assert (process.phase, process.last_exit, process.restarts) == ("quarantined", "exit code 3", 2)
        assert farm.supervisor.release("w0")
        await farm.until(lambda: len(farm.exits) == 6)
        with pytest.raises(KeyError):
            farm.supervisor.release("w7")
        await farm.supervisor.stop(grace_s=10)

    asyncio.run(main())


def test_a_configuration_that_cannot_work_is_not_tried_again() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", "import sys; print('no such menu', file=sys.stderr); raise SystemExit(2)"))
        farm.supervisor.start()
        await farm.until(lambda: farm.exits == ["w0"])
        (process,) = farm.supervisor.processes()
        assert (process.phase, process.restarts, farm.lines) == ("quarantined", 0, [("w0", "no such menu")])
        await farm.supervisor.stop(grace_s=10)

    asyncio.run(main())


def test_stop_ends_the_last_role_first_and_kills_the_stubborn() -> None:
    async def main() -> None:
        farm = Farm(spec("ingest", PATIENT, role="ingest"), spec("w0", STUBBORN))
        farm.supervisor.start()
        await farm.until(lambda: len(farm.lines) == 2)
        pids = {name: farm.pid(name) for name in ("ingest", "w0")}
        stopping = asyncio.create_task(farm.supervisor.stop(grace_s=0.3))
        async with asyncio.timeout(0.2):  # the worker is still in its grace
            while farm.supervisor.processes()[1].phase != "stopped":
                await asyncio.sleep(0)
        assert not gone(pids["ingest"])
        await stopping
        assert all(gone(pid) for pid in pids.values())
        assert {process.name: process.last_exit for process in farm.supervisor.processes()} == {
            "ingest": "signal SIGTERM",
            "w0": "signal SIGKILL",
        }

    asyncio.run(main())


def test_long_lines_and_unfinished_ones_are_forwarded() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", "import sys; sys.stdout.write('x' * 40000 + '\\nlast'); sys.stdout.flush()\nimport signal; signal.pause()"))
        farm.supervisor.start()
        await farm.until(lambda: sum(len(line) for _name, line in farm.lines) == 40000)
        await farm.supervisor.stop(grace_s=10)
        assert "".join(line for _name, line in farm.lines) == "x" * 40000 + "last"

    asyncio.run(main())


SUPERVISOR = """
import asyncio, sys, time
from hltfarm.service.supervisor.processes import ProcessSpec, Supervisor
async def on_exit(spec): pass
async def main():
    spec = ProcessSpec(name="w0", role="worker", command=(sys.executable, "-I", "-S", "-c", sys.argv[1]))
    s = Supervisor([spec], on_exit=on_exit, emit=lambda n, l: print(s.processes()[0].pid, flush=True), clock=time.monotonic)
    s.start()
    await s.failed()
asyncio.run(main())
"""


def test_no_orphans_when_the_supervisor_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, STUBBORN], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert not gone(child)
        supervisor.kill()
    deadline = time.monotonic() + 10
    while not gone(child):
        assert time.monotonic() < deadline, f"process {child} outlived its supervisor"
        time.sleep(0.01)


def test_a_folder_that_is_just_being_made_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another_farm_looks(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        assert remove_leftovers(tmp_path) == []
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr("hltfarm.service.supervisor.leftovers.fcntl.flock", another_farm_looks)
    folder = RuntimeFolder.create(tmp_path)
    assert remove_leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.path.name]
    folder.remove()


def test_leftovers_of_a_killed_farm_are_removed_and_a_living_farm_is_not(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path\n"
        "from hltfarm.service.supervisor.leftovers import RuntimeFolder\n"
        "f = RuntimeFolder.create(Path(sys.argv[1])); f.ring(1).write_bytes(b'x'); print(f.path, f.ring(1), flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as farm:
        assert farm.stdout is not None
        folder, ring = (Path(word) for word in farm.stdout.readline().split())
        assert remove_leftovers(tmp_path) == []
        assert ring.exists()
        farm.kill()
    living = RuntimeFolder.create(tmp_path)
    (tmp_path / "hltfarm-of-somebody-else").mkdir()
    assert remove_leftovers(tmp_path) == [folder]
    assert not ring.exists()
    living.remove()
    assert [entry.name for entry in tmp_path.iterdir()] == ["hltfarm-of-somebody-else"]


def test_exits_in_words() -> None:
    assert [describe_exit(code) for code in (0, 2, -9, -200)] == ["exit code 0", "exit code 2", "signal SIGKILL", "signal 200"]
