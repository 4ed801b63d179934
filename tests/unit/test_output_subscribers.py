"""Consumers of the output stream as a pure machine: any history leaves every event with who claims it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hltfarm.proto.output_wire import Mode
from hltfarm.service.output.subscribers import WINDOW, WINDOW_BYTES, Subscribers


def joined(machine: Subscribers, name: str, mode: Mode, identity: bytes = b"i") -> int:
    found = machine.subscribe(identity, name, mode, (), 0.0)
    assert found is not None
    return found.session


def test_the_window_bounds_what_is_under_way_whatever_the_credit() -> None:
    machine = Subscribers(10.0)
    session = joined(machine, "a", Mode.MONITOR)
    machine.credit(session, 1 << 40, 0, 0.0)
    sends = [send for number in range(WINDOW + 10) for send in machine.offer(number, 1, ("s",))[0]]
    assert len(sends) == WINDOW
    assert machine.totals(session) == (WINDOW, 10)
    machine.credit(session, 1 << 40, 1 << 40, 0.0)  # a consumer cannot have read more than it was sent
    assert len([send for number in range(WINDOW + 10) for send in machine.offer(number, 1, ("s",))[0]]) == WINDOW


@pytest.mark.parametrize("mode", list(Mode))
def test_the_window_bounds_the_bytes_that_are_under_way(mode: Mode) -> None:
    machine = Subscribers(10.0)
    session = joined(machine, "a", mode)
    machine.credit(session, 100, 0, 0.0)
    third = WINDOW_BYTES // 3
    assert [len(machine.offer(number, third, ("s",))[0]) for number in range(5)] == [1, 1, 1, 0, 0]
    assert machine.totals(session) == (3, 2 if mode is Mode.MONITOR else 0)
    answer = machine.credit(session, 100, 2, 0.0)
    assert answer is not None
    assert len(answer[1]) == (0 if mode is Mode.MONITOR else 2), "what waited goes out when there is room"
    machine.credit(session, 100, 5, 0.0)
    assert len(machine.offer(9, 10 * WINDOW_BYTES, ("s",))[0]) == 1, "alone, an event may be of any size"
    assert len(machine.offer(10, 1, ("s",))[0]) == 0


def test_a_monitor_that_is_silent_is_forgotten_a_lossless_consumer_is_not() -> None:
    machine = Subscribers(10.0)
    for name, mode in (("m", Mode.MONITOR), ("l", Mode.LOSSLESS)):
        machine.subscribe(name.encode(), name, mode, (), 0.0)
    machine.tick(10.0)
    assert [s.present for s in machine.status(10.0)] == [True, True]
    machine.offer(1, 1, ("s",))
    machine.tick(10.1)
    (status,) = machine.status(10.1)
    assert (status.name, status.present, status.waiting) == ("l", False, 1)
    assert "consumer l of the output is gone, 1 events wait" in machine.problems()[0]


def test_there_is_room_for_so_many() -> None:
    machine = Subscribers(10.0, most=1)
    assert machine.subscribe(b"a", "a", Mode.MONITOR, (), 0.0) is not None
    assert machine.subscribe(b"b", "b", Mode.MONITOR, (), 0.0) is None
    assert machine.subscribe(b"c", "a", Mode.MONITOR, (), 0.0) is not None, "in place of the one of its name"


def test_who_comes_back_as_a_monitor_gives_up_its_claim() -> None:
    machine = Subscribers(10.0)
    machine.subscribe(b"a", "a", Mode.LOSSLESS, (), 0.0)
    machine.offer(5, 1, ("s",))
    found = machine.subscribe(b"b", "a", Mode.MONITOR, (), 0.0)
    assert found is not None
    assert (found.released, found.replaced) == ([5], b"a")
    assert machine.give_up() == []


class History(RuleBasedStateMachine):
    """Claims of events (consumers that have to confirm it) are released one by one, never twice, and all in the end."""

    @initialize()
    def start(self):
        self.machine = Subscribers(10.0, most=4)
        self.now = 0.0
        self.number = 0
        self.claims: Counter = Counter()
        self.sessions: dict[str, int] = {}
        self.got: dict[int, list[int]] = {}

    def sent(self, sends):
        for send in sends:
            mine = self.got.setdefault(send.session, [])
            mine.append(send.number)
            assert send.serial == len(mine), "serials count up"

    def released(self, numbers):
        for number in numbers:
            self.claims[number] -= 1
            assert self.claims[number] >= 0, "released more often than claimed"

    @rule(name=st.sampled_from("abc"), lossless=st.booleans(), streams=st.sampled_from(((), ("s",), ("t",), ("s", "t"))))
    def subscribe(self, name, lossless, streams):
        found = self.machine.subscribe(name.encode(), name, Mode.LOSSLESS if lossless else Mode.MONITOR, streams, self.now)
        self.sessions[name] = found.session
        self.released(found.released)

    @rule(name=st.sampled_from("abc"), more=st.integers(0, 3), confirm=st.integers(0, 9))
    def credit(self, name, more, confirm):
        session = self.sessions.get(name, 0)
        answer = self.machine.credit(session, len(self.got.get(session, ())) + more, confirm, self.now)
        if answer is not None:
            self.released(answer[0])
            self.sent(answer[1])

    @rule(streams=st.sampled_from((("s",), ("t",), ("s", "t"))), size=st.sampled_from((1, WINDOW_BYTES // 2, 2 * WINDOW_BYTES)))
    def event(self, streams, size):
        self.number += 1
        sends, claims = self.machine.offer(self.number, size, streams)
        self.claims[self.number] = claims
        self.sent(sends)

    @rule(name=st.sampled_from("abc"))
    def leave(self, name):
        self.released(self.machine.leave(self.sessions.get(name, 0)))

    @rule(name=st.sampled_from("abcd"))
    def detach(self, name):
        found = self.machine.detach(name)
        if found is not None:
            self.released(found[1])

    @rule(name=st.sampled_from("abc"))
    def lost(self, name):
        self.machine.lost(self.sessions.get(name, 0))

    @rule()
    def time(self):
        self.now += 11.0
        self.machine.tick(self.now)

    @rule()
    def give_up(self):
        self.released(self.machine.give_up())
        assert not +self.claims, "nobody waits any more"

    @invariant()
    def what_waits_is_what_is_claimed(self):
        if hasattr(self, "machine"):
            assert sum(s.waiting for s in self.machine.status(self.now)) == self.claims.total()


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
