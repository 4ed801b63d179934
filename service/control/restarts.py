"""Restarts of ingests, seen from their start times: works under a supervisor and in containers alike. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from hltfarm.service.control.link import FarmView


@dataclass(slots=True)
class IngestRestarts:
    """How often the ingest behind each endpoint came back as a new process while this control watched."""

    counts: dict[str, int] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)

    def observe(self, view: FarmView) -> None:
        """Take note of a look at the farm; an ingest that does not answer is judged when it does again."""
        for left in view.left:  # what comes after one that left in order is no restart
            if left.snapshot is not None and self._started.get(left.endpoint) == left.snapshot.started:
                del self._started[left.endpoint]
        for ingest in view.ingests:
            known = self.counts.setdefault(ingest.endpoint, 0)
            if ingest.snapshot is None:
                continue
            started = ingest.snapshot.started
            if self._started.setdefault(ingest.endpoint, started) != started:
                self._started[ingest.endpoint] = started
                self.counts[ingest.endpoint] = known + 1
