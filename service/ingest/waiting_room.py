"""Accepted events between the worker's answer and their decision: they are in flight until every output has them.

Keeps the answers by slot, builds the events for the outputs, and gives the answers back. Books of its own it has none: the ledger, the
credit and the ring go on holding these events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.events import EventId
from hltfarm.proto.results import OUTPUT_DECISION, RESULT
from hltfarm.proto.worker_link import ANSWER
from hltfarm.service.ingest.ledger import Ledger
from hltfarm.service.ingest.programmes import Entry
from hltfarm.service.ingest.slots import SlotRing
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.outputs import Outputs

#: Slots -> what decides their events, each with a mask of its slots.
ProgrammesOf = Callable[[NDArray[np.int64]], Sequence[tuple[Entry, NDArray[np.bool_]]]]
KEPT_DECIDERS = 16  # programmes whose description is kept
#: Slots, ANSWER records, attempts and frames of columns, as `EventFlow.answers` has them.
Leaving = tuple[NDArray[np.int64], NDArray[np.void], NDArray[np.int64], list[bytes]]


class WaitingRoom:
    """`checksums`: CRC32C of the payload of each slot, as its client computed it."""

    def __init__(self, outputs: Outputs, ring: SlotRing, ledger: Ledger, programmes_of: ProgrammesOf) -> None:
        self.checksums = [0] * ring.slots
        self._outputs = outputs
        self._ring = ring
        self._ledger = ledger
        self._programmes_of = programmes_of
        self._deciders: dict[int, Deciders] = {}  # by generation
        self._answers = np.zeros(ring.slots, dtype=ANSWER)
        self._attempts = np.zeros(ring.slots, dtype=np.int64)
        self._parts: dict[int, bytes] = {}  # frames of columns by slot

    @property
    def slots(self) -> set[int]:
        """Slots of the events that wait."""
        return self._outputs.held

    @property
    def wants_columns(self) -> bool:
        """Workers are to send the columns of every accepted event."""
        return self._outputs.wants_columns

    def take(
        self, slots: NDArray[np.int64], answers: NDArray[np.void], attempts: NDArray[np.int64], parts: Sequence[bytes]
    ) -> tuple[NDArray[np.int64], NDArray[np.void], NDArray[np.int64]]:
        """Keep the accepted events of a batch of valid answers; returns the others."""
        accepted = answers["result"]["accept"] != 0
        if not accepted.any():
            return slots, answers, attempts
        mine, kept = slots[accepted], answers[accepted]
        self._answers[mine], self._attempts[mine] = kept, attempts[accepted]
        for slot, part in zip(mine.tolist(), kept["part"].tolist(), strict=True):
            if part:
                self._parts[slot] = parts[part - 1]
        for entry, chosen in self._programmes_of(mine):
            self._outputs.take(self._events(mine[chosen], kept[chosen], entry), self._described(entry))
        rest = ~accepted
        return slots[rest], answers[rest], attempts[rest]

    def _described(self, entry: Entry) -> Deciders:
        deciders = self._deciders.get(entry.generation)
        if deciders is None:
            deciders = self._deciders[entry.generation] = Deciders(entry.config, entry.menu_hash, entry.models, entry.paths)
            if len(self._deciders) > KEPT_DECIDERS:
                del self._deciders[next(iter(self._deciders))]
        return deciders

    def _events(self, slots: NDArray[np.int64], answers: NDArray[np.void], entry: Entry) -> list[tuple[int, OutputEvent]]:
        records = np.zeros(len(slots), dtype=OUTPUT_DECISION)
        records["menu"], records["models"] = entry.menu, entry.models_id
        for name in RESULT.names or ():
            records[name] = answers["result"][name]
        identities = self._ledger.events[slots]
        fields = [identities[name].tolist() for name in ("run", "lumi", "event", "bx")]
        events = []
        whole = records.tobytes()
        size = OUTPUT_DECISION.itemsize
        sizes, bits = self._ledger.size[slots].tolist(), records["path_bits"].tolist()
        for i, (slot, *identity) in enumerate(zip(slots.tolist(), *fields, strict=True)):
            event = OutputEvent(
                self._outputs.number(),
                EventId(*identity),
                self._ring.payload(slot, sizes[i]).data,
                self.checksums[slot],
                bits[i],
                whole[i * size : (i + 1) * size],
                self._parts.get(slot, b"") if self._outputs.wants_columns else b"",
            )
            events.append((slot, event))
        return events

    def leave(self) -> Leaving | None:
        """The events that every output has now; None if there are none. The parts of the answers count in the frames given."""
        if not self._outputs.released:
            return None
        slots = np.array(self._outputs.released, dtype=np.int64)
        self._outputs.released.clear()
        answers = self._answers[slots]
        parts: list[bytes] = []
        answers["part"] = 0
        for place, slot in enumerate(slots.tolist()):
            part = self._parts.pop(slot, None)
            if part is not None:
                parts.append(part)
                answers["part"][place] = len(parts)
        return slots, answers, self._attempts[slots], parts

    def given_up(self) -> list[int]:
        """Slots of the events that no output will have."""
        slots = list(self._outputs.given_up)
        self._outputs.given_up.clear()
        for slot in slots:
            self._parts.pop(slot, None)
        return slots
