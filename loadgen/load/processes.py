"""A load spread over client processes, for a farm that takes more than one process can send.

Every process has some of the connections; they start together, once all have credit, on the machine's monotonic clock.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError

from hltfarm.loadgen.load.driver import Done, LoadConfig, report_of, run_connections
from hltfarm.loadgen.load.report import LoadReport
from hltfarm.loadgen.source import read_events
from hltfarm.proto.errors import HltfarmError

START_S = 60.0  # longest wait for the other processes: they read the sample, and wait for credit


@dataclass(frozen=True, slots=True)
class _Share:
    """What one process did; `cpu_seconds` from the common start to its end."""

    done: list[Done]
    cpu_seconds: float


def run_in_processes(
    config: LoadConfig, source: Path, limit: int | None, processes: int, started: Callable[[], None] = lambda: None
) -> LoadReport:
    """Run a load in `processes` processes (at most one for each connection), each of which reads the sample. Raises as `run_load`.

    started: called when all of them begin to send.
    """
    spawn = multiprocessing.get_context("spawn")
    count = min(processes, config.connections)
    barrier = spawn.Barrier(count + 1)
    children, pipes = [], []
    try:
        for index in range(count):
            mine, theirs = spawn.Pipe(duplex=False)
            numbers = range(index, config.connections, count)
            child = spawn.Process(target=_child, args=(config, source, limit, numbers, barrier, theirs), name=f"load-{index}", daemon=True)
            child.start()
            theirs.close()
            children.append(child)
            pipes.append(mine)
        try:
            barrier.wait(START_S)
            started()
        except BrokenBarrierError:
            pass  # one of them could not start, and says why
        shares = _collect(pipes)
        return report_of(config, [item for share in shares for item in share.done], sum(share.cpu_seconds for share in shares))
    finally:
        for child in children:
            child.terminate()
        for child, pipe in zip(children, pipes, strict=True):
            child.join()
            child.close()
            pipe.close()


def _collect(pipes: list[Pipe]) -> list[_Share]:
    """What the processes say, in whatever order; raises the first error, an honest one before that of a process that waited for it."""
    shares: list[_Share] = []
    errors: list[Exception] = []
    waiting = list(pipes)
    while waiting and not any(not isinstance(error, _NotStartedError) for error in errors):
        for pipe in wait(waiting):
            assert isinstance(pipe, Pipe)
            waiting.remove(pipe)
            try:
                answer: _Share | Exception = pipe.recv()
            except EOFError:
                answer = HltfarmError("a process of the load ended without an answer; its messages are above")
            if isinstance(answer, _Share):
                shares.append(answer)
            else:
                errors.append(answer)
    if errors:
        raise errors[-1]
    return shares


class _NotStartedError(HltfarmError):
    """Another process of the load did not come to the start."""


def _child(config: LoadConfig, source: Path, limit: int | None, numbers: range, barrier: Barrier, pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its children
    begin = 0.0

    def start() -> None:
        nonlocal begin
        try:
            barrier.wait(START_S)
        except BrokenBarrierError:
            raise _NotStartedError(f"another process of the load did not start within {START_S:g} s") from None
        begin = time.process_time()

    try:
        done = run_connections(config, read_events(source, limit), numbers, start=start)
        pipe.send(_Share(done, time.process_time() - begin))
    except _NotStartedError as error:
        pipe.send(error)
    except HltfarmError as error:
        barrier.abort()
        pipe.send(HltfarmError(str(error)))  # of the root class: those with other arguments do not travel
