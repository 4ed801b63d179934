"""A worker that reconstructs nothing and accepts a share of the events, to measure what the farm does around it (`hltfarm bench output`).

Run as a script: endpoint of the ingest for workers, accepted share (0 to 1), bytes of columns of an accepted event.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.columns import Tables
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.results import RESULT
from hltfarm.proto.worker_link import PathInfo
from hltfarm.workers.engine import Built
from hltfarm.workers.process import WorkerSettings, run_worker

MIX = 2654435761  #: multiplies event numbers modulo 2^32, so that the accepted ones are spread evenly
BATCH = 64


@dataclass(slots=True)
class Results:
    """Rows of a batch; every accepted event has the same tables."""

    results: NDArray[np.void]
    tables: Tables
    stage_seconds: dict[str, float]

    def reply(self, i: int) -> Tables:
        """Tables of an event."""
        return self.tables


class Instant:
    """Decides by the number of the event alone; payloads are not read."""

    backend = "cpu"
    device = "none"
    parallel = 1

    def __init__(self, share: float, columns_bytes: int) -> None:
        self._below = int(share * (1 << 32))
        self._tables: Tables = {"tracks": {"pt": np.zeros(columns_bytes // 4, dtype=np.float32)}}

    def run(self, events: list[RawEvent], *, columns: list[bool] | None, programme: int) -> Results:
        """Result rows: accepted or not."""
        results = np.zeros(len(events), dtype=RESULT)
        numbers = np.array([event.id.event for event in events], dtype=np.uint64)
        results["accept"] = results["path_bits"] = results["path_raw"] = (numbers * np.uint64(MIX) & np.uint64(0xFFFFFFFF)) < self._below
        return Results(results, self._tables, {})

    def register(self, buffer: memoryview) -> None:
        """Nothing reads the slots."""

    def forget(self, programme: int) -> None:
        """There is one programme."""

    def close(self) -> None:
        """Nothing is held."""


def main(url: str, share: float, columns_bytes: int) -> None:
    """Work until SIGTERM."""

    def build(config: RunConfig, present: Any) -> Built:
        return Built(Instant(share, columns_bytes), 1, "0", (PathInfo("instant", "physics"),))

    run_worker(WorkerSettings(name="instant", ingests=(url,), backend="cpu", max_events=BATCH), build)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
