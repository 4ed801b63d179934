"""Ledger: counts, duplicates, the window; and the books of the whole event flow after any history."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hltfarm.proto import wire, worker_link
from hltfarm.proto.errors import WireCode, WireError
from hltfarm.proto.events import EventId
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import LedgerCounts, RunConfig
from hltfarm.proto.results import RESULT, EventFlag
from hltfarm.proto.wire import EventHeader, Outcome, Reason
from hltfarm.service.ingest.credit import CreditBook
from hltfarm.service.ingest.dispatch import Dispatcher
from hltfarm.service.ingest.error_stream import ErrorStream, write_frames
from hltfarm.service.ingest.flow import EventFlow
from hltfarm.service.ingest.ledger import KEPT_RUNS, Ledger
from hltfarm.service.ingest.lumisections import Lumisections
from hltfarm.service.ingest.programmes import MOST_ACTIVE, Programmes
from hltfarm.service.ingest.slots import SlotRing
from hltfarm.service.ingest.stats import Stats


def header(event: int, run: int = 1, cookie: int = 0) -> EventHeader:
    return EventHeader(run, 1, event, 0, wire.FED_TABLE, 0, cookie, 4, 0)


def rows(*accept: int) -> np.ndarray:
    results = np.zeros(len(accept), dtype=RESULT)
    results["accept"] = accept
    results["digest"] = 0xD16E57
    return results


def test_counts_follow_an_event():
    ledger = Ledger(4, 8)
    ledger.open(0, header(10), client=5, now_ns=1000)
    ledger.open(1, header(11), client=5, now_ns=1000)
    assert ledger.counts(1) == LedgerCounts(received=2, in_flight=2)
    records = ledger.decide(np.array([1, 0]), rows(1, 0), np.array([1, 2]), now_ns=4000)
    assert records["event"].tolist() == [11, 10]
    assert records["outcome"].tolist() == [Outcome.ACCEPT, Outcome.REJECT]
    assert records["attempts"].tolist() == [1, 2]
    assert records["latency_ns"].tolist() == [3000, 3000]
    assert records["result"]["digest"].tolist() == [0xD16E57] * 2
    assert ledger.counts(1) == ledger.totals() == LedgerCounts(received=2, accepted=1, rejected=1)


def test_a_forced_event_is_an_error():
    ledger = Ledger(4, 8)
    ledger.open(0, header(10), 5, 0)
    (record,) = ledger.decide(np.array([0]), None, 2, 1, Reason.WORKER_LOST, EventFlag.UNPROCESSED)
    assert (record["outcome"], record["reason"], record["result"]["flags"]) == (Outcome.ERROR, Reason.WORKER_LOST, EventFlag.UNPROCESSED)
    assert ledger.counts(1) == LedgerCounts(received=1, error=1)


def test_an_event_in_flight_that_is_sent_again_follows_its_client():
    ledger = Ledger(4, 8)
    ledger.open(2, header(10, cookie=1), 5, 0)
    slot = ledger.in_flight_slot(1, 10)
    assert slot == 2
    assert ledger.rebind(slot, client=6, cookie=9) == 5
    assert ledger.client[2] == 6
    (record,) = ledger.decide(np.array([2]), rows(1), 1, 1)
    assert record["cookie"] == 9
    assert ledger.counts(1) == LedgerCounts(received=1, accepted=1, duplicates=1)


def test_a_decided_event_that_is_sent_again_gets_the_same_decision():
    ledger = Ledger(4, 8)
    ledger.open(0, header(10, cookie=1), 5, 0)
    (record,) = ledger.decide(np.array([0]), rows(1), 1, 1)
    again = ledger.decided(1, 10, cookie=7)
    assert again is not None
    assert again["cookie"][0] == 7
    again["cookie"] = record["cookie"]
    assert again[0] == record
    assert ledger.decided(1, 11, 0) is None
    assert ledger.decided(2, 10, 0) is None
    assert ledger.counts(1).duplicates == 1


def test_the_window_forgets_the_oldest():
    ledger = Ledger(4, 4)
    for event in range(6):
        ledger.open(0, header(event), 5, 0)
        ledger.decide(np.array([0]), rows(event % 2), 1, 1)
    assert ledger.remembered == 4
    assert [event for event in range(6) if ledger.decided(1, event, 0) is not None] == [2, 3, 4, 5]
    assert ledger.decided(1, 3, 0)["outcome"][0] == Outcome.ACCEPT


def test_old_runs_are_forgotten_but_stay_in_the_totals():
    ledger = Ledger(4, 8)
    for run in range(1, KEPT_RUNS + 11):
        ledger.open(0, header(1, run=run), 5, 0)
        ledger.decide(np.array([0]), rows(1), 1, 1)
    assert ledger.counts(1) == LedgerCounts()
    assert ledger.counts(KEPT_RUNS + 10).accepted == 1
    assert ledger.totals().accepted == KEPT_RUNS + 10


EMPTY_TABLE = bytes(4)


class FlowHistory(RuleBasedStateMachine):
    """Any history of arrivals, duplicates, assignments, answers (also late ones), failures, losses, full disks and forced ends."""

    SLOTS = 6

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        limits = Limits(max_payload_bytes=4096, max_columns_bytes=64)
        self.ring = SlotRing(self.folder / "ring", self.SLOTS, 4096)
        self.ledger = Ledger(self.SLOTS, 64)
        self.dispatcher = Dispatcher(self.SLOTS)
        self.credit = CreditBook(self.SLOTS, self.SLOTS * 4096, max_payload_bytes=4096, max_clients=2)
        self.credit.join(1)
        self.disk_full = False
        self.delivered: Counter[int] = Counter()
        self.asked: set[int] = set()
        stats = Stats()
        stats.menu(self.built(0).paths)
        self.programmes = Programmes()
        self.programmes.configure(RunConfig(run=1)).settle(self.built(0))
        self.menus = [(0, 0)]  # first lumisection, menu
        self.lumis: dict[int, int] = {}
        self.flow = EventFlow(
            self.ring, self.ledger, self.dispatcher, self.credit, ErrorStream(self.folder / "errors", self.writer), stats, limits,
            self.deliver, lambda: 0.0, self.programmes,
        )  # fmt: skip
        self.flow.run = 1
        self.now = 0
        self.events = 0
        self.old: list = []  # assignments, answered or not
        self.workers = 0
        self.names: list[str] = []

    @staticmethod
    def built(menu):
        return worker_link.Configured(generation=0, menu_hash=f"{menu:016x}", paths=(worker_link.PathInfo("p", "s"),))

    def expected(self, lumi):
        return [menu for first, menu in self.menus if first <= lumi][-1]

    @rule(ahead=st.integers(0, 3))
    def exchange(self, ahead):
        """Another menu decides from a lumisection on that has not begun."""
        menu = self.menus[-1][1] + 1
        self.programmes.prepare(RunConfig(run=1, menu=str(menu))).settle(self.built(menu))
        now = self.programmes.lumi
        first = self.programmes.activate(now + ahead, ()).first_lumi if ahead else self.programmes.activate(0, ()).first_lumi
        assert first == (now + ahead if ahead else now + 1)
        self.menus = [entry for entry in self.menus if entry[0] <= now] + [(first, menu)]
        if len(self.menus) > MOST_ACTIVE:
            self.menus = [(0, self.menus[-MOST_ACTIVE][1]), *self.menus[1 - MOST_ACTIVE :]]
        self.programmes.retired()

    def writer(self, folder, events, config):
        if self.disk_full:
            raise OSError(28, "no space left")
        return write_frames(folder, events, config)

    def deliver(self, clients, records, columns):
        self.delivered.update(records["event"].tolist())
        for place, record in enumerate(records):
            assert record["menu"] == (0 if record["outcome"] == Outcome.ERROR else self.lumis[int(record["event"])])
            left_out = bool(record["result"]["flags"] & EventFlag.COLUMNS_LEFT_OUT)
            wanted = int(record["event"]) in self.asked and record["outcome"] == Outcome.ACCEPT
            assert (place in columns) + left_out == wanted, "columns or the word that there are none"
            assert columns.get(place, b"").endswith(b"of %d" % record["event"] if place in columns else b"")

    def send(self, event, want=False, step=0):
        flags = wire.EventFlags.WANT_COLUMNS if want else 0
        if self.delivered[event] == 0:
            (self.asked.add if want else self.asked.discard)(event)
        lumi = max(1, self.programmes.lumi + step)
        self.lumis.setdefault(event, self.expected(lumi))
        frame = wire.decode_header(wire.encode_event(EventId(1, lumi, event), EMPTY_TABLE, flags=flags))
        return self.flow.admit(1, frame, EMPTY_TABLE, licensed=True, now_ns=self.now)

    @rule(want=st.booleans(), step=st.sampled_from((0, 0, 0, -1, -2, 1, 2)))
    def new_event(self, want, step):
        if self.ring.free:
            self.events += 1
            assert self.send(self.events, want, step) is None
        else:
            with pytest.raises(WireError) as refused:
                self.send(self.events + 1)
            self.lumis.pop(self.events + 1)
            assert refused.value.code is WireCode.NO_CREDIT

    @precondition(lambda self: self.events)
    @rule(data=st.data(), want=st.booleans())
    def duplicate(self, data, want):
        event = data.draw(st.integers(1, self.events))
        decided = self.send(event, want)
        assert (decided is not None) == (self.delivered[event] == 1)
        if decided is not None:
            left_out = bool(decided["result"]["flags"][0] & EventFlag.COLUMNS_LEFT_OUT)
            assert left_out == (want and decided["outcome"][0] == Outcome.ACCEPT)

    @rule(capacity=st.integers(1, 4), cpu=st.booleans(), fallback=st.booleans())
    def worker_comes(self, capacity, cpu, fallback):
        if len(self.names) < 3:
            self.workers += 1
            self.names.append(f"w{self.workers}")
            self.dispatcher.add_worker(self.names[-1], capacity, cpu=cpu, fallback=fallback)
            self.dispatcher.set_ready(self.names[-1], True)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def worker_dies(self, data):
        name = self.names.pop(data.draw(st.integers(0, len(self.names) - 1)))
        self.flow.lost(name, "test", self.now)

    @rule()
    def dispatch(self):
        for assignment in self.dispatcher.assign():
            if assignment.alone:
                assert self.dispatcher.load(assignment.worker)[1] == len(assignment.slots)
            self.old.append(assignment)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def answer(self, data):
        assignment = data.draw(st.sampled_from(self.old))  # an old one again, too
        answers = np.zeros(len(assignment.slots), dtype=worker_link.ANSWER)
        answers["slot"], answers["ticket"] = assignment.slots, assignment.tickets
        answers["result"]["accept"] = assignment.slots % 2
        asked = [bool(flags) for flags in self.flow.descriptors(assignment.slots, assignment.tickets)["flags"]]
        answers["part"] = np.where(asked, np.cumsum(asked), 0)
        size = data.draw(st.sampled_from((0, 100)))  # small enough, too large
        events = self.ledger.events["event"][assignment.slots][asked]
        self.flow.answers(assignment.worker, answers, self.now, [bytes(size) + b"of %d" % event for event in events])

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def batch_fails(self, data):
        assignment = data.draw(st.sampled_from(self.old))
        assigned = np.zeros(len(assignment.slots), dtype=worker_link.ASSIGNED)
        assigned["slot"], assigned["ticket"] = assignment.slots, assignment.tickets
        self.flow.failed(assignment.worker, assigned, "test", self.now)

    @rule(full=st.booleans())
    def disk(self, full):
        self.disk_full = full
        self.flow.retry(self.now)
        assert full or self.flow.trouble is None

    @rule()
    def stop(self):
        self.flow.force(Reason.STOPPED, self.now)
        if not self.disk_full:
            self.flow.retry(self.now)
            assert self.ledger.in_flight == 0

    @invariant()
    def the_books_are_closed(self):
        if not hasattr(self, "ledger"):
            return
        counts = self.ledger.counts(1)
        assert counts.mismatch == 0
        assert counts.received == self.events
        assert counts.in_flight == self.ledger.in_flight == self.SLOTS - self.ring.free == self.credit.used[0]
        assert counts.accepted + counts.rejected + counts.error == self.delivered.total()
        assert all(times == 1 for times in self.delivered.values()), "every event is decided once"
        waiting = self.dispatcher.queued + sum(self.dispatcher.load(name)[1] for name in self.names)
        stranded = sum(len(slots) for _, slots in self.flow._stranded)
        assert counts.in_flight == waiting + stranded

    def teardown(self):
        if hasattr(self, "ring"):
            self.ring.close()
            shutil.rmtree(self.folder)


TestFlowHistory = FlowHistory.TestCase
TestFlowHistory.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def test_latency_is_never_negative():
    """An event can be admitted after the clock of the turn that decides it was read."""
    ledger = Ledger(4, 8)
    ledger.open(0, header(10), client=5, now_ns=2000)
    (record,) = ledger.decide(np.array([0]), rows(1), 1, now_ns=1000)
    assert record["latency_ns"] == 0


def test_lumisections_that_nobody_asks_about_are_forgotten() -> None:
    """An ingest without output files takes note of them, too; a client may number them as it likes."""
    book = Lumisections(kept=4)
    for lumi in range(100):
        book.opened(1, lumi)
        book.decided(np.array([1], np.uint32), np.array([lumi], np.uint32), np.array([Outcome.REJECT], np.uint8))
    assert book.touched() == [(1, lumi) for lumi in range(96, 100)]
