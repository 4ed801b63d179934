"""A load spread over client processes, for a farm that takes more than one process can send.

Every process has some of the connections; they start together, once all have credit, on the machine's monotonic clock.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
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


def run_in_processes(
    config: LoadConfig, source: Path, limit: int | None, processes: int, pids: Callable[[list[int]], None] = lambda pids: None
) -> LoadReport:
    """Run a load in `processes` processes (at most one for each connection), each of which reads the sample. Raises as `run_load`.

    pids: told which processes these are, once they run.
    """
    spawn = multiprocessing.get_context("spawn")
    count = min(processes, config.connections)
    barrier = spawn.Barrier(count)
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
        pids([child.pid for child in children if child.pid is not None])
        return report_of(config, _collect(pipes))
    finally:
        for child in children:
            child.terminate()
        for child, pipe in zip(children, pipes, strict=True):
            child.join()
            pipe.close()


def _collect(pipes: list[Pipe]) -> list[Done]:
    done: list[Done] = []
    open_pipes: list[Pipe] = list(pipes)
    while open_pipes:
        for pipe in wait(open_pipes):
            assert isinstance(pipe, Pipe)
            open_pipes.remove(pipe)
            try:
                answer: list[Done] | Exception = pipe.recv()
            except EOFError:
                raise HltfarmError("a process of the load ended without an answer; its messages are above") from None
            if isinstance(answer, Exception):
                raise answer
            done += answer
    return done


def _child(config: LoadConfig, source: Path, limit: int | None, numbers: range, barrier: Barrier, pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its children

    def start() -> None:
        try:
            barrier.wait(START_S)
        except BrokenBarrierError:
            raise HltfarmError(f"another process of the load did not start within {START_S:g} s") from None

    try:
        pipe.send(run_connections(config, read_events(source, limit), numbers, start=start))
    except HltfarmError as error:
        barrier.abort()
        pipe.send(HltfarmError(str(error)))  # of the root class: those with other arguments do not travel
