"""An ingest with a worker that decides without looking: what the data path costs when nothing is computed. Processes of their own."""

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
MIX = 2654435761  #: multiplies event numbers modulo 2^32: accepted ones are spread evenly


@dataclass(frozen=True, slots=True)
class Decides:
    """What the worker says: accepts this share of the events (0 to 1), evenly spread; their tables have so many bytes."""

    share: float = 0.0
    columns_bytes: int = 0


REJECTS = Decides()


@dataclass(slots=True)
class _Decided:
    """A batch; accepted events have all the same tables."""

    results: NDArray[np.void]
    tables: Tables
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def reply(self, i: int) -> Tables | None:
        """Tables of an event."""
        return self.tables


class Blind:
    """A reconstruction that decides by the number of an event and reads nothing."""

    backend = "cpu"
    device = "none"
    parallel = 1

    def __init__(self, decides: Decides) -> None:
        self._below = int(decides.share * (1 << 32))
        self._tables: Tables = {"tracks": {"pt": np.zeros(decides.columns_bytes // 4, dtype=np.float32)}}

    def run(self, events: list[RawEvent], *, columns: list[bool] | None, programme: int) -> _Decided:
        results = np.zeros(len(events), RESULT)
        numbers = np.array([event.id.event for event in events], dtype=np.uint64)
        results["accept"] = results["path_bits"] = results["path_raw"] = (numbers * np.uint64(MIX) & np.uint64(0xFFFFFFFF)) < self._below
        return _Decided(results, self._tables)

    def forget(self, programme: int) -> None:
        pass

    def register(self, buffer: memoryview) -> None:
        pass

    def close(self) -> None:
        pass


def _worker(url: str, decides: Decides) -> None:
    def build(config: RunConfig, present: Reconstruction | None) -> Built:
        return Built(Blind(decides), 1, "0" * 16, (PathInfo("HLT_Blind", "physics"),))

    run_worker(WorkerSettings(name="blind", ingests=(url,), backend="cpu", max_events=BATCH, max_wait_s=0.0), build)


@contextmanager
def running(settings: IngestSettings, decides: Decides = REJECTS) -> Iterator[Commands]:
    """An ingest with these settings, a run that takes events, and its worker, until the end of the block.

    Raises HltfarmError if they do not come up.
    """
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=run_ingest, args=(settings,), name="ingest"),
        spawn.Process(target=_worker, args=(settings.workers_url, decides), name="worker"),
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

    @property
    def ingest_pid(self) -> int:
        """Of the ingest's process."""
        pid = self._processes[0].pid
        assert pid is not None, "it was started"
        return pid

    def check(self) -> None:
        """Raises HltfarmError if one of the processes has ended."""
        for process in self._processes:
            if process.pid is not None and process.exitcode is not None:
                raise HltfarmError(f"the {process.name} of the measurement ended with exit code {process.exitcode}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()
