"""Way of an event through an ingest: frame -> slot -> worker -> decision. Ties the machines together; no sockets, time is an argument.

Every method leaves the books closed: a slot in use is an event in flight, in the ledger, in the dispatcher and in the credit book.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto import wire, worker_link
from hltfarm.proto.errors import WireCode, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.framing import Buffer
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import ACCEPTED, FAILED, EventInfo
from hltfarm.proto.raw import check_payload
from hltfarm.proto.results import EventFlag
from hltfarm.proto.wire import Reason
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service.ingest.credit import CreditBook
from hltfarm.service.ingest.dispatch import Dispatcher
from hltfarm.service.ingest.error_stream import ErrorStream, FailedEvent, Failure
from hltfarm.service.ingest.ledger import Ledger
from hltfarm.service.ingest.payload_formats import PayloadFormats
from hltfarm.service.ingest.programmes import Entry, Programmes
from hltfarm.service.ingest.recent import CANDIDATES, FAILED_TOLD, RecentEvents
from hltfarm.service.ingest.shadow import ShadowBook, sampled
from hltfarm.service.ingest.slots import SlotRing
from hltfarm.service.ingest.stats import Stats
from hltfarm.service.ingest.waiting_room import WaitingRoom

#: Called with the sessions and DECISION records (same length) of events that were just decided, and the columns of some by their place.
Deliver = Callable[[NDArray[np.int64], NDArray[np.void], Mapping[int, bytes]], None]
WANT_COLUMNS = int(wire.EventFlags.WANT_COLUMNS)  # the enum's & costs a microsecond an event
_NOT_OPEN = "no run takes events now; the event may be sent again when there is credit"


class EventFlow:
    """The events of one ingest. `run` is the run that takes events, None if none does."""

    def __init__(
        self, ring: SlotRing, ledger: Ledger, dispatcher: Dispatcher, credit: CreditBook, errors: ErrorStream, stats: Stats,
        limits: Limits, deliver: Deliver, wall_clock: Callable[[], float], programmes: Programmes,
    ) -> None:  # fmt: skip
        self.run: int | None = None
        self.describe: Callable[[str], dict[str, Any]] = lambda worker: {}  #: what a bundle says of a worker; the owner sets it
        self.trouble: str | None = None  #: why the error stream cannot be written, if it cannot
        self.formats = PayloadFormats()  #: what sources may send; the owner sets it
        self.recent: RecentEvents | None = None  #: copies of a few events for people; the owner sets it, None: nothing is copied
        self.waiting: WaitingRoom | None = None  #: accepted events on their way to the output; the owner sets it, None: they go nowhere
        self._ring = ring
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._credit = credit
        self._errors = errors
        self._stats = stats
        self._limits = limits
        self._deliver = deliver
        self._wall_clock = wall_clock
        self._programmes = programmes
        self._generation = np.zeros(ring.slots, dtype=np.uint32)  # that decides the event of each slot
        self._asked: set[int] = set()  # slots of events whose columns the client wants
        self._history: dict[int, list[Failure]] = {}  # of a slot's event
        self._stranded: list[tuple[Reason, list[int]]] = []  # events that the error stream did not take yet

    def admit(self, client: int, header: wire.EventHeader, body: Buffer, *, licensed: bool, now_ns: int) -> NDArray[np.void] | None:
        """An event arrived in this session. Returns its decision if it was decided before, else None. Raises WireError to refuse it."""
        wire.check_body(header, body, self._limits)
        slot = self._ledger.in_flight_slot(header.run, header.event)
        if slot is not None:
            former, size = self._ledger.rebind(slot, client, header.cookie), int(self._ledger.size[slot])
            self._credit.release(former, 1, size)
            self._credit.hold(client, size)
            self._note_asked(slot, header)
            return None
        decided = self._ledger.decided(header.run, header.event, header.cookie)
        if decided is not None:
            if header.flags & WANT_COLUMNS and decided["outcome"][0] == wire.Outcome.ACCEPT:
                self.leave_out(decided, 0)  # the ledger keeps decisions, not columns
            return decided
        if self.run is None:
            raise WireError(WireCode.NOT_RUNNING, _NOT_OPEN)
        if header.run != self.run:
            raise WireError(WireCode.WRONG_RUN, f"run {header.run}; the present run is {self.run}")
        if not licensed or not self._ring.free:
            raise WireError(WireCode.NO_CREDIT, "the event is not covered by the session's credit")
        came = header.body_bytes
        header, body = self.formats.fed_table(header, body, self._limits.max_payload_bytes)
        check_payload(np.frombuffer(body, dtype=np.uint8))
        slot = self._ring.put(body)
        self._ledger.open(slot, header, client, now_ns)
        self._generation[slot] = self._programmes.admit(header.lumi)
        self._credit.hold(client, header.body_bytes)
        self._note_asked(slot, header)
        if self.waiting is not None:
            self.waiting.checksums[slot] = header.body_crc
        self._dispatcher.submit(slot)
        self._stats.ingest_bytes += came
        return None

    def _note_asked(self, slot: int, header: wire.EventHeader) -> None:
        if header.flags & WANT_COLUMNS:
            self._asked.add(slot)
        elif self._asked:
            self._asked.discard(slot)

    def leave_out(self, records: NDArray[np.void], place: int) -> None:
        """Mark and count a decision that goes without the columns its client asked for."""
        records["result"]["flags"][place] |= EventFlag.COLUMNS_LEFT_OUT
        self._stats.columns_left_out += 1

    def descriptors(self, slots: NDArray[np.int64], tickets: NDArray[np.uint64], shadow: ShadowBook | None = None) -> NDArray[np.void]:
        """DESCRIPTOR records of an assignment; a shadow sees its share of the events."""
        events = self._ledger.events[slots]
        out = np.zeros(len(slots), dtype=worker_link.DESCRIPTOR)
        out["ticket"], out["slot"], out["size"] = tickets, slots, self._ledger.size[slots]
        for name in ("run", "lumi", "event", "bx"):
            out[name] = events[name]
        out["generation"] = self._generation[slots]
        if shadow is not None:
            out["shadow"] = np.where(sampled(out["run"], out["event"], shadow.fraction), shadow.generation, 0)
        if self.waiting is not None and self.waiting.wants_columns:
            out["flags"] = WANT_COLUMNS
        elif self._asked:
            out["flags"] = [WANT_COLUMNS if slot in self._asked else 0 for slot in slots.tolist()]
        return out

    def answers(self, worker: str, answers: NDArray[np.void], now_ns: int, parts: Sequence[bytes] = ()) -> int:
        """Results of a worker (ANSWER records, frames of columns). Returns how many were valid. Raises ValueError for a missing frame."""
        if answers["part"].max(initial=0) > len(parts):
            raise ValueError(f"{len(parts)} frames of columns, the answers name {answers['part'].max()}")
        slots = answers["slot"].astype(np.int64)
        valid, attempts = self._dispatcher.complete(worker, slots, answers["ticket"])
        if not valid.all():
            self._stats.stale_answers += int(np.count_nonzero(~valid))
            slots = slots[valid]
            answers = answers[valid]
        valid_answers = len(slots)
        if valid_answers and self._programmes.shadow is not None:
            self._compare(slots, answers)
        if valid_answers and self.recent is not None and now_ns >= self.recent.due_ns:
            self._copy_accepted(self.recent, worker, slots, answers["result"], attempts, now_ns)
        if valid_answers and self.waiting is not None:
            slots, answers, attempts = self.waiting.take(slots, answers, attempts, parts)
        if len(slots):
            self._decide(slots, answers["result"], attempts, now_ns, Reason.NONE, self._columns(slots, answers, parts))
        return valid_answers

    def programmes_of(self, slots: NDArray[np.int64]) -> list[tuple[Entry, NDArray[np.bool_]]]:
        """What decides the events in these slots, each programme with a mask of its slots."""
        found = []
        for generation in np.unique(self._generation[slots]).tolist():
            entry = self._programmes.get(generation)
            assert entry is not None, "the programme of an event in flight is kept"
            found.append((entry, self._generation[slots] == generation))
        return found

    def settle_waiting(self, now_ns: int) -> None:
        """Decide the accepted events that the output has, and give those that it gave up to the error stream."""
        if self.waiting is None:
            return
        leaving = self.waiting.leave()
        if leaving is not None:
            slots, answers, attempts, parts = leaving
            self._decide(slots, answers["result"], attempts, now_ns, Reason.NONE, self._columns(slots, answers, parts))
        self._give_up(Reason.RESET, self.waiting.given_up(), now_ns)

    def _compare(self, slots: NDArray[np.int64], answers: NDArray[np.void]) -> None:
        """Count what the shadow would have decided."""
        book = self._programmes.shadow
        entry = self._programmes.get(book.generation) if book is not None else None
        if book is None or entry is None or not entry.built:
            return
        answers = answers.copy()
        answers["shadow"][answers["shadow_generation"] != book.generation] = worker_link.ShadowOutcome.NOT_ASKED
        for generation in np.unique(self._generation[slots]).tolist():
            active = self._programmes.get(generation)
            if active is not None:
                book.add(answers[self._generation[slots] == generation], active.paths, entry.paths)

    def _columns(self, slots: NDArray[np.int64], answers: NDArray[np.void], parts: Sequence[bytes]) -> dict[int, bytes]:
        """Columns to relay by place in `slots`: of accepted events, still asked for and not too large."""
        if not parts:
            return {}
        numbers = np.where(answers["result"]["accept"] != 0, answers["part"], 0)
        named = zip(slots.tolist(), numbers.tolist(), strict=True)
        found = {place: parts[number - 1] for place, (slot, number) in enumerate(named) if number and slot in self._asked}
        return {place: part for place, part in found.items() if len(part) <= self._limits.max_columns_bytes}

    def failed(self, worker: str, assigned: NDArray[np.void], error: str, now_ns: int, stage: str = "") -> None:
        """A batch raised an exception in a worker that lives on (ASSIGNED records)."""
        slots = assigned["slot"].astype(np.int64)
        held = set(self._dispatcher.held(worker))  # not those that were taken away meanwhile
        failure = Failure(worker, error, len(slots), self.describe(worker), stage)
        for slot in slots.tolist():
            if slot in held:
                self._history.setdefault(slot, []).append(failure)
        self._give_up(Reason.WORKER_FAILED, self._dispatcher.failed(worker, slots, assigned["ticket"]), now_ns)

    def lost(self, worker: str, why: str, now_ns: int) -> None:
        """A worker is gone."""
        held = self._dispatcher.held(worker)
        failure = Failure(worker, why, len(held), self.describe(worker))
        for slot in held:
            self._history.setdefault(slot, []).append(failure)
        self._give_up(Reason.WORKER_LOST, self._dispatcher.remove_worker(worker), now_ns)

    def force(self, reason: Reason, now_ns: int) -> None:
        """Everything in flight goes to the error stream now, but for accepted events that wait for the output: those are decided."""
        stranded = {slot for _, slots in self._stranded for slot in slots}
        if self.waiting is not None:
            stranded |= self.waiting.slots
        slots = [slot for slot in self._ledger.slots_in_flight() if slot not in stranded]
        self._dispatcher.withdraw(slots)
        self._give_up(reason, slots, now_ns)

    def retry(self, now_ns: int) -> None:
        """Try again to write what the error stream did not take."""
        stranded, self._stranded, self.trouble = self._stranded, [], None
        for reason, slots in stranded:
            self._give_up(reason, slots, now_ns)

    def _give_up(self, reason: Reason, slots: list[int], now_ns: int) -> None:
        """Force-accept: to disk first, then decided. An event that cannot be written stays in flight."""
        if not slots:
            return
        generations = self._generation[slots]
        for generation in np.unique(generations).tolist():
            group = [slot for slot, number in zip(slots, generations.tolist(), strict=True) if number == generation]
            entry = self._programmes.get(generation)
            assert entry is not None, "the programme of an event in flight is kept"
            attempts = np.array([self._dispatcher.attempts(slot) for slot in group], dtype=np.int64)
            try:
                bundle = self._errors.write(entry, reason, [self._failed_event(slot) for slot in group], self._wall_clock())
            except OSError as error:
                self._stranded.append((reason, group))
                self.trouble = f"the error stream cannot be written, {len(group)} events wait for it: {error}"
                continue
            index = np.array(group, dtype=np.int64)
            if self.recent is not None:
                noted = [self._failed_info(slot, reason, bundle) for slot in group[-FAILED_TOLD:]]
                self.recent.failed(noted, entry, now_ns)
            self._decide(index, None, attempts, now_ns, reason)

    @property
    def stranded(self) -> int:
        """Events that the error stream did not take yet."""
        return sum(len(slots) for _, slots in self._stranded)

    @property
    def licensed_events(self) -> int:
        """Events that clients may still send on the credit they hold."""
        return self._credit.reserved_events

    def _failed_event(self, slot: int) -> FailedEvent:
        record = self._ledger.events[slot]
        event = EventId(int(record["run"]), int(record["lumi"]), int(record["event"]), int(record["bx"]))
        payload = self._ring.payload(slot, int(self._ledger.size[slot]))
        return FailedEvent(RawEvent(event, payload), self._dispatcher.attempts(slot), tuple(self._history.get(slot, ())))

    # -- copies for people -------------------------------------------------------------------------------------------------

    def _copy_accepted(
        self, recent: RecentEvents, worker: str, slots: NDArray[np.int64], results: NDArray[np.void], attempts: NDArray[np.int64],
        now_ns: int,
    ) -> None:  # fmt: skip
        """Keep one of the accepted events of a batch."""
        places = np.flatnonzero(results["accept"])[:CANDIDATES].tolist()
        if not places:
            return
        entries = [self._programmes.get(int(self._generation[slots[place]])) for place in places]
        chosen = [_paths(entry, int(results["path_bits"][place])) for entry, place in zip(entries, places, strict=True)]
        best = recent.choose([[path.name for path in paths] for paths in chosen])
        place, entry, slot = places[best], entries[best], int(slots[places[best]])
        assert entry is not None, "the programme of an event in flight is kept"
        info = self._info(
            slot, ACCEPTED, int(attempts[place]), worker,
            paths=tuple(path.name for path in chosen[best]),
            streams=tuple(dict.fromkeys(path.stream for path in chosen[best])),
            digest=f"{int(results['digest'][place]):016x}",
        )  # fmt: skip
        recent.accepted(info, entry, partial(self._payload, slot), now_ns)

    def _failed_info(self, slot: int, reason: Reason, bundle: Path) -> tuple[EventInfo, Callable[[], bytes]]:
        history = self._history.get(slot, ())
        last = history[-1] if history else None
        info = self._info(
            slot, FAILED, self._dispatcher.attempts(slot), last.worker if last is not None else "",
            reason=reason.name,
            error=last.error if last is not None else "",
            stage=last.stage if last is not None else "",
            bundle=f"{bundle.parent.name}/{bundle.name}",
        )  # fmt: skip
        return info, partial(self._payload, slot)

    def _info(self, slot: int, kind: str, attempts: int, worker: str, **rest: Any) -> EventInfo:
        record = self._ledger.events[slot]
        return EventInfo(
            id="",
            kind=kind,
            run=int(record["run"]),
            lumi=int(record["lumi"]),
            event=int(record["event"]),
            bx=int(record["bx"]),
            decided_at=self._wall_clock(),
            size_bytes=int(self._ledger.size[slot]),
            attempts=attempts,
            worker=worker,
            **rest,
        )

    def _payload(self, slot: int) -> bytes:
        return self._ring.payload(slot, int(self._ledger.size[slot])).tobytes()

    def _decide(
        self, slots: NDArray[np.int64], results: NDArray[np.void] | None, attempts: NDArray[np.int64], now_ns: int, reason: Reason,
        columns: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        clients, sizes = self._ledger.client[slots], self._ledger.size[slots]
        flags = EventFlag.UNPROCESSED if results is None else 0
        parts = self._programmes.decided(self._generation[slots], None if results is None else results["accept"] != 0)
        menus, models = np.zeros((2, len(slots)), dtype=np.uint64)
        for entry, mine in parts:
            menus[mine], models[mine] = entry.menu, entry.models_id
        records = self._ledger.decide(slots, results, attempts, now_ns, reason, flags, (menus, models))
        self._stats.decided(records, sizes)
        self._stats.last_decision = self._wall_clock()
        if results is not None:
            for entry, mine in parts:
                self._stats.selected(records["result"][mine], sizes[mine], entry.paths)
        first = int(clients[0])
        if (clients == first).all():
            self._credit.release(first, len(slots), int(sizes.sum()))
        else:
            for client in np.unique(clients).tolist():
                mine = clients == client
                self._credit.release(client, int(np.count_nonzero(mine)), int(sizes[mine].sum()))
        freed = slots.tolist()
        self._ring.release(freed)
        if self._asked:
            for place, slot in enumerate(freed):
                if slot in self._asked and place not in columns and records["outcome"][place] == wire.Outcome.ACCEPT:
                    self.leave_out(records, place)
            self._asked.difference_update(freed)
        if self._history:
            for slot in freed:
                self._history.pop(slot, None)
        self._deliver(clients, records, columns)


def _paths(entry: Entry | None, bits: int) -> list[PathInfo]:
    """Paths of a programme whose bits are set."""
    return [] if entry is None else [path for i, path in enumerate(entry.paths) if bits >> i & 1]
