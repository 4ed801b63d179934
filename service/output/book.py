"""Which file an accepted event goes to, and when a file ends. Pure; time is an argument (seconds, any origin).

A file belongs to a run, a lumisection, a stream and to what decided its events; when another menu or model decides, or when it is large
enough, the next part begins. A lumisection ends when a later one has begun, nothing of it is in flight, and nothing of it arrived for a
grace time; an event that arrives after that begins the next part, and the lumisection ends again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hltfarm.proto.messages import LedgerCounts
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.hlt_file import Place
from hltfarm.service.output.jobs import Append, Close, Job, Summarise

#: Counts of a lumisection: (run, lumi) -> counts.
Counts = Callable[[int, int], LedgerCounts]


@dataclass(slots=True)
class _Open:
    number: int
    deciders: Deciders
    bytes: int = 0


@dataclass(slots=True)
class _Lumisection:
    received: int
    since: float  # its last arrival
    passed: float | None = None  # when a later lumisection began


class OutputBook:
    """Open files and lumisections. The methods return jobs for the writer, to be done in their order."""

    def __init__(self, *, grace_s: float, file_bytes: int, open_files: int) -> None:
        self._grace_s = grace_s
        self._file_bytes = file_bytes
        self._most = open_files
        self._files: OrderedDict[Place, _Open] = OrderedDict()  # the longest unused first
        self._lumis: dict[tuple[int, int], _Lumisection] = {}
        self._highest: dict[int, tuple[int, float]] = {}  # run -> its highest lumisection, and when it was first seen
        self._next = 1

    @property
    def files(self) -> int:
        """Files that are open."""
        return len(self._files)

    def accept(self, events: Sequence[OutputEvent], deciders: Deciders, counts: Counts) -> list[Job]:
        """Accepted events: one Append for each file that gets some, and Close for those that ended over it."""
        jobs: list[Job] = []
        groups: dict[Place, list[OutputEvent]] = {}
        for event in events:
            for stream in deciders.streams_of(event.bits):
                groups.setdefault(Place(event.id.run, event.id.lumi, stream), []).append(event)
        for place, group in groups.items():
            file = self._files.get(place)
            if file is not None and file.deciders != deciders:
                jobs.append(self._close(place, counts))
                file = None
            if file is None:
                if len(self._files) >= self._most:
                    jobs.append(self._close(next(iter(self._files)), counts))
                file = self._files[place] = _Open(self._next, deciders)
                self._next += 1
            self._files.move_to_end(place)
            jobs.append(Append(file.number, place, deciders, tuple(group)))
            file.bytes += sum(len(event.payload) + len(event.columns) for event in group)
            if file.bytes >= self._file_bytes:
                jobs.append(self._close(place, counts))
        return jobs

    def look(self, touched: Sequence[tuple[int, int]], counts: Counts, now: float) -> list[Job]:
        """Events arrived in the lumisections `touched` since the last look. Returns what ends those that are due."""
        for run, lumi in touched:
            self._lumis.setdefault((run, lumi), _Lumisection(0, now))
            if lumi > self._highest.get(run, (-1, now))[0]:
                self._highest[run] = (lumi, now)
        jobs: list[Job] = []
        for (run, lumi), state in list(self._lumis.items()):
            present = counts(run, lumi)
            if present.received != state.received:
                state.received, state.since = present.received, now
            highest, began = self._highest[run]
            if lumi < highest and state.passed is None:
                state.passed = began
            if state.passed is not None and not present.in_flight and now - max(state.since, state.passed) >= self._grace_s:
                jobs += self._end(run, lumi, counts)
        return jobs

    def end(self, run: int, counts: Counts) -> list[Job]:
        """The run is over, nothing of it is in flight: what ends all its lumisections."""
        lumis = {lumi for number, lumi in self._lumis if number == run} | {place.lumi for place in self._files if place.run == run}
        jobs = [job for lumi in sorted(lumis) for job in self._end(run, lumi, counts)]
        self._highest.pop(run, None)
        return jobs

    def _end(self, run: int, lumi: int, counts: Counts) -> list[Job]:
        places = [place for place in self._files if (place.run, place.lumi) == (run, lumi)]
        jobs: list[Job] = [self._close(place, counts) for place in places]
        self._lumis.pop((run, lumi), None)
        return [*jobs, Summarise(run, lumi, counts(run, lumi))]

    def _close(self, place: Place, counts: Counts) -> Close:
        return Close(self._files.pop(place).number, counts(place.run, place.lumi))
