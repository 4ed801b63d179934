"""Which processes no longer do their work although they live: pure; time is an argument, in seconds of any monotonic clock.

A process that is stopped or stuck in the kernel neither works nor ends, and a hung batch may keep one from ending by itself. The
watchdog compares what the supervisor knows (the process runs) with what the ingests say, and names processes that have to be killed:

  a worker that its ingests gave up, for `given_up_s`, or that none of them knows, for `unknown_s` (both while every ingest answers)
  an ingest that does not answer, for `silent_s`

Any sign of the contrary, and every new process, starts the time again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hltfarm.service.control.link import FarmView
from hltfarm.service.control.models import ProcessModel


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogSettings:
    """Patience, in seconds. Too little kills processes of a busy machine, too much leaves the farm without them.

    given_up_s: beyond the time in which a worker that wakes up says hello again, or ends by itself.
    unknown_s: beyond the start of a worker (its imports). silent_s: beyond the longest turn of an ingest, and its start.
    """

    given_up_s: float = 10.0
    unknown_s: float = 120.0
    silent_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Wedged:
    """A process to kill."""

    name: str
    pid: int
    why: str


@dataclass(slots=True)
class Watchdog:
    """Follows the processes of a farm. `endpoints`: control endpoint of each ingest process, by its name."""

    endpoints: Mapping[str, str]
    settings: WatchdogSettings = field(default_factory=WatchdogSettings)
    _since: dict[tuple[str, int, str], float] = field(default_factory=dict)  # (name, pid, complaint) -> since when

    def observe(self, view: FarmView, processes: Iterable[ProcessModel], now: float) -> list[Wedged]:
        """Take note of a look at the farm; returns the processes whose time is over, each once in a period of patience."""
        complaints = {
            (process.name, process.pid, complaint): patience
            for process in processes
            if process.pid is not None
            for complaint, patience in self._complaints(process, view)
        }
        self._since = {key: self._since.get(key, now) for key in complaints}
        wedged = []
        for (name, pid, complaint), patience in complaints.items():
            if now - self._since[name, pid, complaint] >= patience:
                wedged.append(Wedged(name, pid, f"{complaint} for {patience:g} s"))
                self._since[name, pid, complaint] = now
        return wedged

    def _complaints(self, process: ProcessModel, view: FarmView) -> list[tuple[str, float]]:
        if process.role != "worker":
            endpoint = self.endpoints.get(process.name)
            silent = any(ingest.endpoint == endpoint and ingest.snapshot is None for ingest in view.ingests)
            return [("it does not answer", self.settings.silent_s)] if silent else []
        snapshots = [ingest.snapshot for ingest in view.ingests]
        if any(snapshot is None for snapshot in snapshots):
            return []
        seen = [
            worker.up
            for snapshot in snapshots
            for worker in (snapshot.workers if snapshot is not None else ())
            if (worker.name, worker.pid) == (process.name, process.pid)
        ]
        if not seen:
            return [("no ingest knows it", self.settings.unknown_s)]
        return [] if any(seen) else [("its ingest gave it up and it does not end", self.settings.given_up_s)]
