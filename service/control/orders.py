"""What the ingests were told, and which of them did not hear it. Pure.

An ingest that was away when a command was given (restarting, wedged, cut off) goes on as before when it is back. It is told again until its
snapshot shows that it obeys. That holds for the last command of a run, and for workers that an operator took out of service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hltfarm.proto.messages import RunState, Snapshot
from hltfarm.service.control.link import FarmView
from hltfarm.service.runcontrol import ADMITTING, OPEN

#: Whether an ingest obeys a command on its open run. An ingest that drains for a stop says so in `info`.
_OBEYED: Mapping[str, Callable[[Snapshot], bool]] = MappingProxyType(
    {
        "pause": lambda snapshot: snapshot.state not in ADMITTING,
        "resume": lambda snapshot: snapshot.state is not RunState.PAUSED,
        "drain": lambda snapshot: snapshot.state is RunState.DRAINING,
        "stop": lambda snapshot: bool(snapshot.info.get("ending")),
        "reset": lambda snapshot: False,
    }
)


@dataclass(frozen=True, slots=True)
class Reminder:
    """A command that an ingest has to be told again."""

    endpoint: str
    op: str
    worker: str | None = None
    reason: str = ""


@dataclass(slots=True)
class Orders:
    """The last command of a run, and the workers that are held, by name with the reason."""

    run: int | None = None
    op: str | None = None
    held: dict[str, str] = field(default_factory=dict)
    _freed: set[str] = field(default_factory=set)
    _adopted: set[str] = field(default_factory=set)

    def told(self, op: str, run: int | None) -> None:
        """A command was given; a start, or one without a run, leaves nothing to remind of."""
        self.op, self.run = (op, run) if op in _OBEYED and run is not None else (None, None)

    def adopt(self, view: FarmView) -> None:
        """Take over, from the first answer of each ingest, the workers that are held by order of an earlier control process."""
        for ingest in view.ingests:
            if ingest.snapshot is None or ingest.endpoint in self._adopted:
                continue
            self._adopted.add(ingest.endpoint)
            for worker in ingest.snapshot.workers:
                if worker.quarantined and worker.name not in self._freed:
                    self.held.setdefault(worker.name, worker.quarantined)

    def hold(self, worker: str, reason: str) -> None:
        """An operator took a worker out of service."""
        self.held[worker] = reason
        self._freed.discard(worker)

    def free(self, worker: str) -> None:
        """The end of `hold`, also on an ingest that is heard of later."""
        self.held.pop(worker, None)
        self._freed.add(worker)

    def reminders(self, view: FarmView) -> list[Reminder]:
        """What has to be said again, and to which ingests."""
        found = []
        for ingest in view.ingests:
            snapshot = ingest.snapshot
            if snapshot is None:
                continue
            if self.op is not None and snapshot.run == self.run and snapshot.state in OPEN and not _OBEYED[self.op](snapshot):
                found.append(Reminder(ingest.endpoint, self.op))
            for worker in snapshot.workers:
                if worker.name in self.held and not worker.quarantined:
                    found.append(Reminder(ingest.endpoint, "worker_quarantine", worker.name, self.held[worker.name]))
                elif worker.quarantined and worker.name not in self.held:
                    found.append(Reminder(ingest.endpoint, "worker_release", worker.name))
        return found
