"""`hltfarm serve` as a user starts it: a worker that is killed, an orderly end, and an end without any order."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hltfarm.service.supervisor.leftovers import SHARED_MEMORY, remove_leftovers
from tests.leaks import children_of

COMMAND = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()", "serve"]


def free_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"tcp://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The farm and the URL of its API."""
    arguments = ["--backend", "cpu", "--threads", "1", "--http", "127.0.0.1:0", "--ingest", free_endpoint(), "--data", str(folder / "data")]
    log = (folder / "log").open("w")
    environment = {**os.environ, "TMPDIR": str(folder)}
    with log, subprocess.Popen([*COMMAND, *arguments, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as farm:
        try:
            assert farm.stdout is not None
            said = farm.stdout.readline()
            found = re.search(r"http://\S+:\d+", said)
            assert found, f"{said!r}; {(folder / 'log').read_text()}"
            yield farm, found[0]
        finally:
            farm.terminate()
            try:
                farm.wait(30)
            except subprocess.TimeoutExpired:
                farm.kill()


def until(url: str, condition: Callable[[Any], bool], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        body = httpx.get(url, trust_env=False).json()
        if condition(body):
            return body
        assert time.monotonic() < deadline, f"{url} stayed at {body}"
        time.sleep(0.05)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the names of local sockets have a limit of 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="serve-") as name:
        yield Path(name)


def test_a_killed_worker_comes_back_and_the_end_is_orderly(folder: Path) -> None:
    with serving(folder) as (farm, url):
        until(f"{url}/v2/health/ready", lambda answer: bool(answer["ready"]))
        (worker,) = httpx.get(f"{url}/v1/workers", trust_env=False).json()["workers"]
        os.kill(worker["process"]["pid"], signal.SIGKILL)
        worker = until(f"{url}/v1/workers/worker-0", lambda answer: answer["restarts"] == 1 and answer["ready"])
        assert worker["process"]["last_exit"] == "signal SIGKILL"
        until(f"{url}/v2/health/ready", lambda answer: bool(answer["ready"]))
        assert 'hlt_worker_restarts_total{worker="worker-0"} 1.0' in httpx.get(f"{url}/metrics", trust_env=False).text
        assert httpx.post(f"{url}/v1/workers/worker-0/release", trust_env=False).status_code == 409

        second = subprocess.run([*COMMAND, "--data", str(folder / "data")], capture_output=True, text=True, timeout=60, check=False)
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert "belongs to a farm that is running" in second.stderr

        farm.terminate()
        assert farm.wait(60) == 0
    log = (folder / "log").read_text()
    assert "run 1 ended: stopped" in log
    assert "worker-0 ended: exit code 0" in log
    assert "ingest ended: exit code 0" in log
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith("hltfarm-")] == []


def test_a_killed_farm_leaves_no_process_and_the_next_one_cleans_up(folder: Path) -> None:
    with serving(folder, "--workers", "2") as (farm, url):
        until(f"{url}/v2/health/ready", lambda answer: bool(answer["ready"]))
        children = children_of(farm.pid)
        assert len(children) == 3
        farm.kill()
        farm.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a process outlived its farm"
        time.sleep(0.02)
    (left,) = [entry for entry in folder.iterdir() if entry.name.startswith("hltfarm-")]
    ring = SHARED_MEMORY / f"{left.name}.0"
    assert ring.exists()
    assert remove_leftovers(folder) == [left]
    assert not ring.exists()


def test_an_endpoint_that_is_taken_ends_the_farm_with_one_line_that_says_so(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["--http", "127.0.0.1:0", "--ingest", endpoint, "--data", str(folder / "data")]
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"hltfarm: error: the ingest cannot run: cannot listen on {endpoint}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--http", "nowhere"], "HTTP address 'nowhere'"),
        (["--backend", "tpu"], "--backend 'tpu'"),
        (["--menu", "/no/such/menu.yaml"], "menu /no/such/menu.yaml cannot be read"),
        (["--detector", "/no/such/folder"], "detector '/no/such/folder'"),
        (["--workers", "0"], "--workers"),
        (["--model", "nothing"], "model 'nothing' is neither a directory nor shipped"),
        (["--event-model", "/no/such/model"], "model '/no/such/model'"),
        (["--engine", "warp"], "engine 'warp'"),
        (["--model", "none", "--working-point", "0.99"], "without a selector"),
    ],
)
def test_bad_options_end_with_one_line(options: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
