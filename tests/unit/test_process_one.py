"""The command as process 1 of a container: SIGTERM ends it, which the kernel does not do for a process 1 that leaves the signal alone."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

#: A namespace in which the command is process 1; with a user namespace for who is not root.
ISOLATED = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child")
COMMAND = """
import sys, time
import hltfarm.service.cli as cli

def wait(arguments):
    print("waits", flush=True)
    time.sleep(60)
    return 0

cli.run = wait
cli.main()
"""


@pytest.fixture(autouse=True)
def isolated() -> None:
    try:
        done = subprocess.run([*ISOLATED, "true"], capture_output=True, timeout=10, check=False)
    except OSError as error:
        pytest.skip(f"no unshare: {error}")
    if done.returncode:
        pytest.skip(f"no process namespaces here: {done.stderr.decode().strip()}")


def test_sigterm_ends_process_1() -> None:
    with subprocess.Popen([*ISOLATED, sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True) as outer:
        try:
            assert outer.stdout is not None
            assert outer.stdout.readline() == "waits\n"
            (inner,) = psutil.Process(outer.pid).children()
            inner.send_signal(signal.SIGTERM)
            assert outer.wait(20) == 128 + signal.SIGTERM
        finally:
            outer.kill()
