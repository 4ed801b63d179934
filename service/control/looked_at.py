"""The events that somebody looked at lately: they can be looked at again when their ingest has replaced its copies by newer ones. Pure."""

from __future__ import annotations

from collections import OrderedDict

from hltfarm.proto.messages import KeptEvent

Found = tuple[str, KeptEvent, bytes]  #: endpoint of the ingest, what is known of the event, its payload


class LookedAt:
    """The latest ones, at most `count`, with payloads of at most `total_bytes` together.

    Too few, and what a page shows cannot be downloaded; too many only take memory.
    """

    def __init__(self, count: int = 32, total_bytes: int = 64 << 20) -> None:
        self._count = count
        self._limit = total_bytes
        self._bytes = 0
        self._events: OrderedDict[str, Found] = OrderedDict()

    def __len__(self) -> int:
        return len(self._events)

    def get(self, event_id: str) -> Found | None:
        """The event, if it was looked at; it counts as the latest one then."""
        found = self._events.get(event_id)
        if found is not None:
            self._events.move_to_end(event_id)
        return found

    def keep(self, event_id: str, found: Found) -> None:
        """Somebody looks at it."""
        before = self._events.pop(event_id, None)
        self._bytes += len(found[2]) - (0 if before is None else len(before[2]))
        self._events[event_id] = found
        while self._events and (len(self._events) > self._count or self._bytes > self._limit):
            _, (_, _, payload) = self._events.popitem(last=False)
            self._bytes -= len(payload)
