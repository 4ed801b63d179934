"""An ingest with a worker that answers without looking: what the data path costs when nothing is computed. Processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from hltfarm.proto.columns import Tables
from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import Command, CommandReply, RunConfig, Snapshot
from hltfarm.proto.results import RESULT
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service.ingest.main import run_ingest
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.workers.engine import Built, Reconstruction
from hltfarm.workers.process import WorkerSettings, run_worker

ANSWER_S = 30.0  # longest wait for an ingest that is being started
STOP_S = 10.0
RUN = 1
BATCH = 64


@dataclass(slots=True)
class _Rejected:
    """A batch whose events are rejected."""

    results: NDArray[np.void]
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def reply(self, i: int) -> Tables | None:
        """No tables."""
        return None


class _Blind:
    """A reconstruction that rejects every event and reads none."""

    backend = "cpu"
    device = "none"
    parallel = 1

    def run(self, events: list[RawEvent], *, columns: list[bool] | None, programme: int) -> _Rejected:
        return _Rejected(np.zeros(len(events), RESULT))

    def forget(self, programme: int) -> None:
        pass

    def register(self, buffer: memoryview) -> None:
        pass

    def close(self) -> None:
        pass


def _build(config: RunConfig, present: Reconstruction | None) -> Built:
    return Built(_Blind(), 1, "0" * 16, (PathInfo("HLT_None", "physics"),))


def _worker(url: str) -> None:
    run_worker(WorkerSettings(name="blind", ingests=(url,), backend="cpu", max_events=BATCH, max_wait_s=0.0), _build)


@contextmanager
def running(settings: IngestSettings) -> Iterator[Commands]:
    """An ingest with these settings, a run that takes events, and its worker, until the end of the block.

    Raises HltfarmError if they do not come up.
    """
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=run_ingest, args=(settings,), name="ingest"),
        spawn.Process(target=_worker, args=(settings.workers_url,), name="worker"),
    ]
    commands = Commands(settings.control_url, processes)
    try:
        for process in processes:
            process.start()
        commands.give("configure", RunConfig(run=RUN))
        commands.give("start")
        yield commands
    finally:
        commands.close()
        for process in reversed(processes):
            if process.pid is not None:
                process.terminate()
                process.join(STOP_S)
                process.kill()
                process.join()


class Commands:
    """The control socket of an ingest, and the processes that must live while one waits for it."""

    def __init__(self, url: str, processes: Sequence[SpawnProcess]) -> None:
        self._url = url
        self._processes = processes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(url)

    def give(self, op: str, config: RunConfig | None = None) -> Snapshot:
        """Give a command; the state of the ingest afterwards. Raises HltfarmError if it is refused or not answered."""
        self._socket.send(msgspec.json.encode(Command(id=op, op=op, config=config)))
        for _ in range(int(ANSWER_S * 10)):
            if self._socket.poll(100):
                break
            self.check()
        else:
            raise HltfarmError(f"{self._url}: no answer to {op} within {ANSWER_S:g} s")
        reply = msgspec.json.decode(self._socket.recv(), type=CommandReply)
        if reply.snapshot is None:
            raise HltfarmError(f"{self._url}: {op}: {reply.error}")
        return reply.snapshot

    def check(self) -> None:
        """Raises HltfarmError if one of the processes has ended."""
        for process in self._processes:
            if process.pid is not None and process.exitcode is not None:
                raise HltfarmError(f"the {process.name} of the measurement ended with exit code {process.exitcode}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()
