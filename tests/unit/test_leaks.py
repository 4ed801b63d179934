"""The watch for what tests leave behind: it sees what is ours, and does not blame us for others."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that calls itself hltfarm and does not descend from this one."""
    code = "import os,sys\nif os.fork(): os._exit(0)\nos.setsid()\nprint(os.getpid(), flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, "hltfarm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        pid = int(process.stdout.readline())
        yield pid
        process.stdin.close()


def test_other_runs(stranger: int) -> None:
    assert stranger in leaks.other_runs()
    assert os.getpid() not in leaks.other_runs()
    assert os.getppid() not in leaks.other_runs()


def test_a_child_is_no_other_run() -> None:
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "hltfarm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert child.pid not in leaks.other_runs()
        child.stdin.close()


def test_whose_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, unknown = f"hltfarm-test-{os.getpid()}-x", "hltfarm-abcdef12.0"
    monkeypatch.setattr(leaks, "other_runs", list)
    assert leaks.ours({mine, unknown}) == sorted([mine, unknown])
    monkeypatch.setattr(leaks, "other_runs", lambda: [1])
    assert leaks.ours({mine, unknown}) == [mine]
    assert leaks.ours({f"hltfarm-{os.getpid()}1"}) == []


def test_the_segment_of_a_farm_that_lives(tmp_path: Path) -> None:
    folder = tmp_path / "hltfarm-abcdef12"
    assert not leaks.of_a_living_farm("hltfarm-abcdef12.0", tmp_path)
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        assert not leaks.of_a_living_farm("hltfarm-abcdef12.0", tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert leaks.of_a_living_farm("hltfarm-abcdef12.0", tmp_path)
    assert not leaks.of_a_living_farm("hltfarm-abcdef12.0", tmp_path)


def test_segments_of_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.NamedTemporaryFile(dir=leaks.SHM, prefix=f"hltfarm-test-{os.getpid()}-") as file:
        name = Path(file.name).name
        assert name in leaks.segments()
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
        assert name not in leaks.segments()
