"""`hltfarm serve` as a child process, for commands that need a farm for a while. Use it from the main thread."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hltfarm.service.api import FarmError
from hltfarm.service.supervisor.processes import LAUNCHER

STOP_S = 30.0  # the farm's own patience with its run and its processes is shorter
LOOPBACK = "127.0.0.1"
_HLTFARM = (sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()")


def free_ports(count: int) -> list[int]:
    """Consecutive ports of the loopback interface that nobody listens on now."""
    while True:
        sockets = []
        try:
            sockets.append(socket.create_server((LOOPBACK, 0)))
            first: int = sockets[0].getsockname()[1]
            sockets += [socket.create_server((LOOPBACK, first + index)) for index in range(1, count)]
            return list(range(first, first + count))
        except (OSError, OverflowError):
            continue  # one of them is taken
        finally:
            for item in sockets:
                item.close()


@contextmanager
def farm_process(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, role: str = "serve"
) -> Iterator[subprocess.Popen[bytes]]:
    """`hltfarm serve`, or another role, with these arguments; ended in order at the end of the block, and killed if that takes too long.

    It has a session of its own, so that Ctrl-C reaches the caller alone, and dies with the caller. environment: beside the caller's own.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *_HLTFARM, role, *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def watcher(process: subprocess.Popen[bytes], log: Path) -> Callable[[], None]:
    """A function that raises FarmError, with the end of the log, once the process has ended."""

    def check() -> None:
        code = process.poll()
        if code is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise FarmError(f"the farm ended with exit code {code}: {''.join(last) or 'it said nothing'} (see {log})")

    return check
