"""Copies of the latest events, for people who want to see them: accepted ones, and those of the error stream. Pure; time is an argument.

The payload of an event leaves with its slot. A few of them are copied before, so few that it costs nothing: whether one is due is a
comparison of two numbers for a whole batch, made before anything is looked at. What is kept is bounded in number and in bytes; the oldest
goes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from hltfarm.proto.messages import ACCEPTED, FAILED, EventInfo
from hltfarm.service.ingest.programmes import Entry

ACCEPTED_KEPT = 32
FAILED_KEPT = 16
FAILED_TOLD = 256  # events of the error stream that are told of without their payload
PERIOD_NS = 200_000_000  # between two copies of accepted events, as long as there is room
FULL_PERIOD_NS = 1_000_000_000  # and when one has to go for each: too short, and what somebody sees in a list is gone when he asks for it
BURST = 8  # copies of failed events within a second
PATHS_SEEN = 1024  # names that are remembered; menus come and go
CANDIDATES = 16  # accepted events of a batch among which one is chosen
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """An event with its payload, and what decided it."""

    info: EventInfo
    programme: Entry
    payload: bytes


class RecentEvents:
    """What one ingest keeps. `max_bytes`: of payloads, 0 keeps none. `prefix`: of the ids, another one for each process of an ingest."""

    def __init__(self, max_bytes: int, prefix: str) -> None:
        self.due_ns = 0  #: when the next accepted event may be copied
        self.copies = 0  #: payloads copied so far
        self.bytes = 0  #: of the payloads that are kept
        self._max_bytes = max_bytes
        self._prefix = prefix
        self._serial = 0
        self._accepted: deque[Kept] = deque()
        self._failed: deque[Kept] = deque()
        self._told: deque[EventInfo] = deque(maxlen=FAILED_TOLD)
        self._seen: dict[str, int] = {}  # path -> serial of the last event of it
        self._second_ns = -_SECOND_NS
        self._in_second = 0
        if not max_bytes:
            self.due_ns = (1 << 63) - 1

    # -- accepted ----------------------------------------------------------------------------------------------------------

    def choose(self, candidates: Sequence[Sequence[str]]) -> int:
        """Which one of accepted events to copy, given the paths of each: the one with the path that was copied longest ago, or never."""
        ages = [min((self._seen.get(path, -1) for path in paths), default=self._serial) for paths in candidates]
        return ages.index(min(ages))

    def accepted(self, info: EventInfo, programme: Entry, payload: Callable[[], bytes], now_ns: int) -> None:
        """Keep an accepted event; `payload` makes the copy and is called if it is kept."""
        self.due_ns = now_ns + PERIOD_NS
        if info.size_bytes > self._max_bytes:
            return
        before = len(self._accepted)
        self._make_room(info.size_bytes)
        kept = self._copy(info, programme, payload)
        self._seen |= dict.fromkeys(info.paths, self._serial)
        if len(self._seen) > PATHS_SEEN:
            self._seen = dict.fromkeys(info.paths, self._serial)
        if len(self._accepted) >= ACCEPTED_KEPT:
            self._drop(self._accepted, self._least_wanted(kept))
        self._accepted.append(kept)
        if len(self._accepted) <= before:
            self.due_ns = now_ns + FULL_PERIOD_NS

    def _least_wanted(self, new: Kept) -> int:
        """Place of the event that goes: the oldest one of another run, or all of whose paths later ones have; else the oldest of all."""
        present = set(new.info.paths)
        spare = []
        for place in range(len(self._accepted) - 1, -1, -1):
            info = self._accepted[place].info
            if info.run != new.info.run or present.issuperset(info.paths):
                spare.append(place)
            present.update(info.paths)
        return min(spare, default=0)

    # -- failed ------------------------------------------------------------------------------------------------------------

    def failed(self, events: Iterable[tuple[EventInfo, Callable[[], bytes]]], programme: Entry, now_ns: int) -> None:
        """Note events of the error stream, in the order in which they failed, and keep the first of them, a few in a second."""
        if now_ns - self._second_ns >= _SECOND_NS:
            self._second_ns, self._in_second = now_ns, 0
        for info, payload in events:
            if self._in_second < BURST and info.size_bytes <= self._max_bytes:
                self._in_second += 1
                self._make_room(info.size_bytes)
                kept = self._copy(info, programme, payload)
                if len(self._failed) >= FAILED_KEPT:
                    self._drop(self._failed, 0)
                self._failed.append(kept)
                info = kept.info
            self._told.append(info)

    # -- both --------------------------------------------------------------------------------------------------------------

    def _copy(self, info: EventInfo, programme: Entry, payload: Callable[[], bytes]) -> Kept:
        self._serial += 1
        self.copies += 1
        kept = Kept(_with_id(info, f"{self._prefix}-{self._serial}"), programme, payload())
        self.bytes += len(kept.payload)
        return kept

    def _make_room(self, size: int) -> None:
        """Drop the oldest events, of the kind that takes more, until one of this size fits."""
        while self.bytes + size > self._max_bytes:
            sizes = [sum(len(kept.payload) for kept in kind) for kind in (self._accepted, self._failed)]
            self._drop(self._accepted if sizes[0] >= sizes[1] else self._failed, 0)

    def _drop(self, kind: deque[Kept], place: int) -> None:
        self.bytes -= len(kind[place].payload)
        del kind[place]

    # -- questions ---------------------------------------------------------------------------------------------------------

    def listed(self, kind: str, limit: int) -> list[EventInfo]:
        """The latest events that are kept, newest first; an empty kind: of both."""
        kinds = [kept for name, kept in ((ACCEPTED, self._accepted), (FAILED, self._failed)) if kind in ("", name)]
        infos = sorted((kept.info for part in kinds for kept in part), key=lambda info: _number(info.id), reverse=True)
        return infos[:limit]

    def failures(self, limit: int) -> list[EventInfo]:
        """The latest events of the error stream, newest first; the id is empty where no copy is kept."""
        present = {kept.info.id for kept in self._failed}
        return [info if info.id in present else _with_id(info, "") for info in list(self._told)[: -limit - 1 : -1]]

    def find(self, event_id: str) -> Kept | None:
        """An event by its id, None if it is not kept (any more)."""
        return next((kept for kept in self._all() if kept.info.id == event_id), None)

    def _all(self) -> Iterator[Kept]:
        yield from self._accepted
        yield from self._failed


def _number(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


def _with_id(info: EventInfo, event_id: str) -> EventInfo:
    return msgspec.structs.replace(info, id=event_id)
