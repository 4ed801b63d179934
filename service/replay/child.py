"""The process in which events are replayed, or reconstructed again to be shown: it may crash, hang or run out of memory.
`python -m hltfarm.service.replay.child DESCRIPTOR NICE`.

It computes as a worker does: the same programme from the same configuration, the event in page-locked memory as in a slot, alone in its
batch.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.columns import encode_columns
from hltfarm.proto.detector import load_detector
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.soa import aligned_empty
from hltfarm.service.replay import link
from hltfarm.service.replay.columns import display_tables, occupancy_tables
from hltfarm.workers.engine import Build, Built
from hltfarm.workers.process import WorkerSettings

if TYPE_CHECKING:
    from hltfarm.workers.reconstructor import Reconstructor

NAME = "replay"  #: of the worker that the child stands for


class Child:
    """One programme, and the events of one sample file."""

    def __init__(self, asked: link.Prepare) -> None:
        """Raises what the building of the programme raises."""
        settings = WorkerSettings(name=NAME, backend=asked.backend, threads=1)
        self._sample = Sample(asked.events_file)
        self._built: Built = _build(settings)(asked.config, None)
        self._make_memory()

    def load(self, events_file: str) -> None:
        """Take the events of another file. Raises SampleError."""
        self._sample = Sample(events_file)
        self._make_memory()

    def _make_memory(self) -> None:
        largest = max(event.payload.nbytes for event in self._sample)
        self._memory = aligned_empty(max(128, -(-largest // 128) * 128))
        self._built.reconstruction.register(self._memory.data)

    def prepared(self) -> link.Prepared:
        """What was built."""
        built = self._built
        return link.Prepared(
            backend=built.reconstruction.backend,
            device=built.reconstruction.device,
            menu_hash=built.menu_hash,
            paths=built.paths,
            models=built.models,
            conditions=built.conditions,
        )

    def reconstruct(self, index: int, columns: bool = False) -> link.Done:
        """One event, alone. Raises what the reconstruction raises."""
        event = self._sample[index]
        payload = self._memory[: event.payload.nbytes]
        payload[:] = event.payload
        begin = time.perf_counter()
        events, programme = [RawEvent(event.id, payload)], self._built.programme
        if columns:  # the CPU's and the GPU's alike; the engine of a worker does not ask for so many
            whole = cast("Reconstructor", self._built.reconstruction)
            kept = whole.run(events, keep=True, programme=programme)
            tables = encode_columns(display_tables(whole.detector, whole.config.vertices, kept))
            row = np.ascontiguousarray(kept.results).tobytes()
            return link.Done(result=row, seconds=time.perf_counter() - begin, columns=tables)
        done = self._built.reconstruction.run(events, columns=None, programme=programme)
        seconds = time.perf_counter() - begin
        if len(done.results) != 1:
            raise RuntimeError(f"{len(done.results)} results for 1 events")
        return link.Done(result=np.ascontiguousarray(done.results).tobytes(), seconds=seconds)


def unpack(asked: link.Unpack) -> link.Unpacked:
    """The words of an event, by layer. Raises ConditionsError, SampleError, WireError."""
    return link.Unpacked(columns=encode_columns(occupancy_tables(load_detector(asked.detector), Sample(asked.events_file)[0].payload)))


def _build(settings: WorkerSettings) -> Build:
    """As `hltfarm worker` builds, with the faults that `hltfarm chaos` orders."""
    if faults := os.environ.get("HLTFARM_FAULTS"):
        from hltfarm.workers.faults import FaultFile, faulty

        return faulty(settings.build, FaultFile(Path(faults), settings.name))
    return settings.build


def serve(connection: Connection) -> None:
    """Answer until the other end is closed."""
    child: Child | None = None
    while True:
        try:
            asked = link.decode_to_child(connection.recv_bytes())
        except EOFError:
            return
        answer: link.FromChild
        try:
            if isinstance(asked, link.Prepare):
                child = Child(asked)
                answer = child.prepared()
            elif isinstance(asked, link.Unpack):
                answer = unpack(asked)
            elif child is None:
                raise ConfigError("nothing is prepared")
            elif isinstance(asked, link.Load):
                child.load(asked.events_file)
                answer = child.prepared()
            else:
                answer = child.reconstruct(asked.index, asked.columns)
        except Exception as error:  # the verdict is the other process's
            answer = link.Raised(error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        connection.send_bytes(link.encode(answer))


def main() -> None:
    """Serve on the descriptor that the command line names, so much nicer than others; a crash leaves the stacks of all threads."""
    faulthandler.enable()
    os.nice(int(sys.argv[2]))
    with Connection(int(sys.argv[1])) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
