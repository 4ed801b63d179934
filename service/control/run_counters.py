"""What was counted in the open run, from counters that run since each ingest started. Pure, but for `complete`."""

from __future__ import annotations

from hltfarm.proto.messages import LedgerCounts, Snapshot
from hltfarm.service.control.link import FarmView
from hltfarm.service.registry import Registry, RunCounts

#: Kind in the registry -> field of the snapshot.
KINDS = {
    "paths": "path_accepts",
    "prescaled": "path_prescaled",
    "streams": "stream_events",
    "stream_bytes": "stream_bytes",
    "failures": "failures",
    "refused": "frames_refused",
}
#: Kind of the numbers of the run's ledger.
LEDGER = "ledger"
#: What all ingests count: a number of these that went back means that the ingest was started again, and so does another start time.
_RECEIVED = "received"
_PROCESS = "process"


def _counters(snapshot: Snapshot) -> dict[str, dict[str, int]]:
    told = {_RECEIVED: {"events": snapshot.totals.received}, _PROCESS: {"started_us": int(snapshot.started * 1e6)}}
    return told | {kind: dict(getattr(snapshot, field)) for kind, field in KINDS.items()}


def _restarted(mark: dict[str, dict[str, int]], present: dict[str, dict[str, int]]) -> bool:
    if mark.get(_PROCESS, present[_PROCESS]) != present[_PROCESS]:
        return True
    return any(present.get(kind, {}).get(name, value) < value for kind, values in mark.items() for name, value in values.items())


def _process(mark: dict[str, dict[str, int]]) -> int:
    return mark.get(_PROCESS, {}).get("started_us", 0)


class RunCounters:
    """Counts of one run. `counts` is what is known so far: from the registry for a run that is adopted, empty for one that begins."""

    def __init__(self, counts: RunCounts) -> None:
        self.counts = counts

    def observe(self, view: FarmView) -> None:
        """Add what the ingests counted since the last look. The first look at an ingest is where its counting begins.

        One that left counts from a look before that; it is no first look at the process that came after it.
        """
        for ingest in (*view.left, *view.ingests):
            if ingest.snapshot is None or (ingest in view.left and ingest.endpoint not in self.counts.marks):
                continue
            present = _counters(ingest.snapshot)
            mark = self.counts.marks.get(ingest.endpoint, present)
            if ingest in view.left and _process(mark) > _process(present):
                continue  # another process is there since then
            since = {} if _restarted(mark, present) else mark  # a restarted ingest counts from nothing, for the run that it joined again
            for kind in KINDS:
                values = self.counts.values.setdefault(kind, {})
                for name, value in present[kind].items():
                    values[name] = values.get(name, 0) + value - since.get(kind, {}).get(name, 0)
            self.counts.marks[ingest.endpoint] = present

    def ledger(self, ledger: LedgerCounts) -> None:
        """The run's ledger, as the ingests keep it."""
        self.counts.values[LEDGER] = {name: getattr(ledger, name) for name in LedgerCounts.__struct_fields__}


def complete(run: int, view: FarmView, ledger: LedgerCounts, registry: Registry) -> None:
    """Write the counts of a run that ended while no control watched, with this ledger, and that is still the last one of every ingest."""
    counters = RunCounters(registry.counters.get(run))
    counters.observe(view)
    counters.ledger(ledger)
    registry.counters.put(run, counters.counts, registry.counters.activations(run))
