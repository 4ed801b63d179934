"""Which file an event goes to, and when files and lumisections end: histories without disks and clocks."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hltfarm.proto.messages import LedgerCounts
from hltfarm.service.output.book import OutputBook
from hltfarm.service.output.jobs import Append, Close, Job, Summarise
from tests.unit.output_events import DECIDERS, OTHER, accepted

GRACE = 5.0


class Counts:
    """Counts of a ledger that the test sets."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int], LedgerCounts] = {}

    def __call__(self, run: int, lumi: int) -> LedgerCounts:
        return self.of.get((run, lumi), LedgerCounts())


def book(**changes: int) -> OutputBook:
    return OutputBook(grace_s=GRACE, file_bytes=changes.get("file_bytes", 1 << 30), open_files=changes.get("open_files", 64))


def names(jobs: list[Job]) -> list[tuple[object, ...]]:
    out: list[tuple[object, ...]] = []
    for job in jobs:
        if isinstance(job, Append):
            out.append(("append", job.file, job.place.lumi, job.place.stream, [event.number for event in job.events]))
        elif isinstance(job, Close):
            out.append(("close", job.file))
        else:
            out.append(("summarise", job.lumi))
    return out


def test_an_event_goes_to_each_of_its_streams_once() -> None:
    jobs = book().accept([accepted(1, bits=0b011), accepted(2, bits=0b101), accepted(3, bits=0b100, lumi=2)], DECIDERS, Counts())
    assert names(jobs) == [
        ("append", 1, 1, "physics", [1, 2]),
        ("append", 2, 1, "monitoring", [2]),
        ("append", 3, 2, "monitoring", [3]),
    ]


def test_another_menu_begins_the_next_part() -> None:
    machine = book()
    machine.accept([accepted(1)], DECIDERS, Counts())
    assert names(machine.accept([accepted(2)], OTHER, Counts())) == [("close", 1), ("append", 2, 1, "physics", [2])]


def test_a_large_file_is_closed_and_the_least_used_one_makes_room() -> None:
    machine = book(file_bytes=1000, open_files=2)
    assert names(machine.accept([accepted(1, size=999, columns=False)], DECIDERS, Counts())) == [("append", 1, 1, "physics", [1])]
    assert names(machine.accept([accepted(2, size=4)], DECIDERS, Counts())) == [("append", 1, 1, "physics", [2]), ("close", 1)]
    machine.accept([accepted(3, lumi=1)], DECIDERS, Counts())
    machine.accept([accepted(4, lumi=2)], DECIDERS, Counts())
    machine.accept([accepted(5, lumi=1)], DECIDERS, Counts())
    assert names(machine.accept([accepted(6, lumi=3)], DECIDERS, Counts())) == [("close", 3), ("append", 4, 3, "physics", [6])]


def test_a_lumisection_ends_after_a_later_one_began_and_the_grace_time() -> None:
    machine, counts = book(), Counts()
    machine.accept([accepted(1)], DECIDERS, counts)
    counts.of[7, 1] = LedgerCounts(received=3, accepted=1, rejected=2)
    assert machine.look([(7, 1)], counts, 0.0) == []
    assert machine.look([], counts, 100.0) == [], "no later lumisection has begun"
    counts.of[7, 2] = LedgerCounts(received=1, in_flight=1)
    assert machine.look([(7, 2)], counts, 101.0) == []
    assert machine.look([], counts, 101.0 + GRACE - 0.1) == []
    counts.of[7, 1] = LedgerCounts(received=4, accepted=1, rejected=2, in_flight=1)
    assert machine.look([(7, 1)], counts, 101.0 + GRACE) == [], "an event arrived"
    assert machine.look([], counts, 150.0) == [], "it is in flight"
    counts.of[7, 1] = LedgerCounts(received=4, accepted=1, rejected=3)
    assert machine.look([], counts, 151.0) == [Close(1, counts(7, 1)), Summarise(7, 1, counts(7, 1))]
    assert machine.look([], counts, 200.0) == [], "once"
    late = machine.accept([accepted(9)], DECIDERS, counts)
    assert names(late) == [("append", 2, 1, "physics", [9])]
    counts.of[7, 1] = LedgerCounts(received=5, accepted=2, rejected=3)
    assert machine.look([(7, 1)], counts, 210.0) == []
    assert names(machine.look([], counts, 210.0 + GRACE)) == [("close", 2), ("summarise", 1)]


def test_lumisections_that_are_shorter_than_the_grace_time_end_too() -> None:
    machine, counts = book(), Counts()
    for lumi in range(1, 11):  # one a second
        counts.of[7, lumi] = LedgerCounts(received=1, accepted=1)
        machine.accept([accepted(lumi, lumi=lumi)], DECIDERS, counts)
        jobs = names(machine.look([(7, lumi)], counts, now=100.0 + lumi))
        ended = lumi - 1 - int(GRACE)  # the one after it began so long ago
        assert jobs == ([("close", ended), ("summarise", ended)] if ended >= 1 else [])
    assert machine.files == 6


def test_the_end_of_a_run_ends_its_lumisections_and_no_others() -> None:
    machine, counts = book(), Counts()
    machine.accept([accepted(1), accepted(2, lumi=3), accepted(3, run=8)], DECIDERS, counts)
    machine.look([(7, 1), (7, 2), (7, 3), (8, 1)], counts, 0.0)
    jobs = machine.end(7, counts)
    assert names(jobs) == [("close", 1), ("summarise", 1), ("summarise", 2), ("close", 2), ("summarise", 3)]
    assert machine.files == 1
    assert machine.end(7, counts) == []


class BookHistory(RuleBasedStateMachine):
    """Any history: every event is appended once to each of its streams, between the opening and the closing of a file; all files end."""

    @initialize(most=st.integers(1, 3))
    def start(self, most):
        self.book = book(file_bytes=1500, open_files=most)
        self.most = most
        self.counts = Counts()
        self.now = 0.0
        self.number = 0
        self.expected: Counter = Counter()
        self.written: Counter = Counter()
        self.closed: set[int] = set()
        self.places: dict[int, object] = {}

    def do(self, jobs):
        for job in jobs:
            if isinstance(job, Append):
                assert job.file not in self.closed
                assert self.places.setdefault(job.file, (job.place, job.deciders)) == (job.place, job.deciders)
                self.written.update((event.number, job.place.stream) for event in job.events)
            elif isinstance(job, Close):
                assert job.file not in self.closed
                self.closed.add(job.file)
        assert len(self.places.keys() - self.closed) == self.book.files <= self.most

    @rule(lumi=st.integers(1, 3), bits=st.integers(1, 7), other=st.booleans())
    def event(self, lumi, bits, other):
        self.number += 1
        counts = self.counts(7, lumi)
        self.counts.of[7, lumi] = LedgerCounts(received=counts.received + 1, accepted=counts.accepted + 1)
        self.do(self.book.look([(7, lumi)], self.counts, self.now))
        deciders = OTHER if other else DECIDERS
        self.expected.update((self.number, stream) for stream in deciders.streams_of(bits))
        self.do(self.book.accept([accepted(self.number, lumi=lumi, bits=bits)], deciders, self.counts))

    @rule(step=st.sampled_from((0.1, 3.0, 10.0)))
    def time(self, step):
        self.now += step
        self.do(self.book.look([], self.counts, self.now))

    @precondition(lambda self: self.number)
    @rule()
    def end(self):
        self.do(self.book.end(7, self.counts))
        assert self.book.files == 0

    @invariant()
    def every_event_is_in_its_files(self):
        if hasattr(self, "book"):
            assert self.written == self.expected


TestBookHistory = BookHistory.TestCase
TestBookHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
