"""A worker process with a reconstruction that is told by the run's "menu" (JSON here) what to do; run as a script by the ingest tests.

{"wrong": [names of workers whose digest of a canary is one too high], "lost_canary": [names of workers on which canaries fail],
 "kill": [events on which the process dies], "raise": [events on which the batch fails], "hang": [events on which it sleeps],
 "refuse": "text of a ConfigError", "break": "text of a BackendError", "delay_s": seconds a batch (default: that of FAKE_DELAY_S),
 "rows": length of the columns,
 "models": {name of a worker: name of the model that it says it loaded}}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.results import RESULT
from hltfarm.proto.worker_link import PathInfo
from hltfarm.workers.engine import CANARY, Built
from hltfarm.workers.process import WorkerSettings, run_worker


class FakeReconstruction:
    backend = "cpu"
    device = "fake"
    parallel = 1

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._kill, self._raise, self._hang = (set(plan.get(key, ())) for key in ("kill", "raise", "hang"))

    def run(self, events: list[RawEvent], *, columns: list[bool] | None, programme: int) -> Any:
        numbers = [event.id.event for event in events]
        canary = events[0].id == CANARY
        if canary and sys.argv[2] in self._plan.get("lost_canary", ()):
            raise MemoryError("no room for a canary")
        if self._kill.intersection(numbers):
            os.kill(os.getpid(), signal.SIGKILL)
        if poison := self._raise.intersection(numbers):
            raise ValueError(f"poison {sorted(poison)}")
        if self._hang.intersection(numbers):
            time.sleep(3600)
        time.sleep(self._plan.get("delay_s", float(os.environ.get("FAKE_DELAY_S", "0"))))
        results = np.zeros(len(events), dtype=RESULT)
        results["digest"] = [int(event.payload[-4:].view("<u4")[0]) for event in events]
        results["digest"] += canary and sys.argv[2] in self._plan.get("wrong", ())
        results["accept"] = results["path_bits"] = results["path_raw"] = [number % 2 for number in numbers]
        tables = {"tracks": {"pt": np.arange(self._plan.get("rows", 3), dtype=np.float32)}}
        return SimpleNamespace(results=results, stage_seconds={"unpack": 1e-4}, reply=lambda i: tables)

    def register(self, buffer: memoryview) -> None:
        assert len(buffer) > 0

    def forget(self, programme: int) -> None:
        pass

    def close(self) -> None:
        pass


def build(config: RunConfig, present: Any) -> Built:
    plan = json.loads(config.menu or "{}")
    if "refuse" in plan:
        raise ConfigError(plan["refuse"])
    if "break" in plan:
        raise BackendError(plan["break"])
    loaded = plan.get("models", {}).get(sys.argv[2])
    models = () if loaded is None else (model(loaded),)
    return Built(FakeReconstruction(plan), 1, "c0ffee", (PathInfo("odd", "physics"),), models)


def model(name: str) -> ModelInfo:
    """A model of which only the name matters."""
    points = {"0.99": {"triplets": 0.5, "longer": 0.5}}
    return ModelInfo(
        target="track",
        name=name,
        version=1,
        hash="0",
        kind="cuts",
        engine="fused",
        working_point="0.99",
        features=("pt",),
        working_points=points,
    )


if __name__ == "__main__":
    url, name, max_events = sys.argv[1:]
    run_worker(WorkerSettings(name=name, ingests=tuple(url.split(",")), max_events=int(max_events)), build)
