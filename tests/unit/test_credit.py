"""Credit: capacity is never promised twice, everyone gets a share, a lowered licence counts once it is confirmed."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hltfarm.proto.errors import ConfigError
from hltfarm.service.ingest.credit import CreditBook

MAX = 100


def book(events=64, size=64 * MAX, clients=4):
    return CreditBook(events, size, max_payload_bytes=MAX, max_clients=clients)


def test_an_idle_client_gets_a_floor_and_an_active_one_everything():
    credit = book()
    credit.join(1)
    (grant,) = credit.plan(0.0, open_=True)
    assert (grant.events, grant.bytes, grant.confirm) == (4, MAX, False)
    assert credit.arrived(1, 50, now=0.0)
    credit.hold(1, 50)
    (grant,) = credit.plan(0.0, open_=True)
    assert grant.events == 64
    assert credit.reserved_events == 63


def test_active_clients_share_equally_and_the_first_has_to_confirm_what_it_loses():
    credit = book()
    for client in (1, 2):
        credit.join(client)
    credit.plan(0.0, open_=True)
    assert credit.arrived(1, 10, now=0.0)
    (grant,) = credit.plan(0.0, open_=True)
    assert grant.client == 1
    assert credit.reserved_events <= 64
    assert credit.arrived(2, 10, now=0.1)
    grants = {grant.client: grant for grant in credit.plan(0.1, open_=True)}
    assert grants[1].confirm
    assert credit.reserved_events <= 64
    credit.confirm(1, grants[1].serial, 1, 10)
    grants = {grant.client: grant for grant in credit.plan(0.2, open_=True)}
    assert grants[2].events == 1 + 32


def test_a_hello_from_before_the_lowering_does_not_confirm_it():
    credit = book()
    credit.join(1)
    (first,) = credit.plan(0.0, open_=True)
    (lowered,) = credit.plan(0.1, open_=False)
    assert lowered.confirm
    assert lowered.events == 0
    credit.confirm(1, first.serial, 0, 0)
    assert credit.reserved_events == 4
    assert credit.arrived(1, 10, now=0.2)
    credit.confirm(1, lowered.serial, 1, 10)
    assert credit.reserved_events == 0
    assert not credit.arrived(1, 10, now=0.3)


def test_events_beyond_the_licence_are_not_covered():
    credit = book()
    credit.join(1)
    credit.plan(0.0, open_=True)
    assert credit.arrived(1, 1, now=0.0)
    assert not credit.arrived(1, MAX, now=0.0), "bytes"
    credit.join(2)
    assert not credit.arrived(2, 1, now=0.0), "no licence at all"


def test_a_stalled_client_gets_nothing_new():
    credit = book()
    credit.join(1)
    assert credit.plan(0.0, open_=True, stalled=frozenset({1})) == []


def test_what_a_client_lost_on_the_way_is_settled_by_its_next_hello():
    credit = book()
    credit.join(1)
    credit.plan(0.0, open_=True)
    credit.confirm(1, 0, 3, 30)
    assert credit.reserved_events == 1


def test_the_number_of_clients_is_bounded():
    credit = book(clients=2)
    assert [credit.join(n) for n in range(3)] == [True, True, False]
    credit.leave(0)
    assert credit.join(3)


def test_too_little_room_is_a_config_error():
    with pytest.raises(ConfigError, match="more slots or fewer clients"):
        book(events=3)


class CreditHistory(RuleBasedStateMachine):
    """Clients that obey what they were told; messages reach them late. A licensed event must always find room."""

    def __init__(self):
        super().__init__()
        self.credit = book(events=16, size=6 * MAX)
        self.now = 0.0
        self.next = 0
        self.told: dict[int, list] = {}  # announcements under way
        self.known: dict[int, tuple[int, int, int]] = {}  # events, bytes, serial
        self.sent: dict[int, list[int]] = {}
        self.held: list[tuple[int, int]] = []

    @rule()
    def join(self):
        if self.credit.join(self.next):
            self.told[self.next], self.known[self.next], self.sent[self.next] = [], (0, 0, 0), [0, 0]
            self.next += 1

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def leave(self, data):
        client = data.draw(st.sampled_from(sorted(self.sent)))
        self.credit.leave(client)
        for book_ in (self.told, self.known, self.sent):
            del book_[client]

    @rule(open_=st.booleans(), elapsed=st.sampled_from([0.0, 1.0, 3.0]))
    def plan(self, open_, elapsed):
        self.now += elapsed
        for grant in self.credit.plan(self.now, open_=open_):
            self.told[grant.client].append(grant)

    @precondition(lambda self: any(self.told.values()))
    @rule(data=st.data())
    def read(self, data):
        client = data.draw(st.sampled_from(sorted(c for c, told in self.told.items() if told)))
        grant = self.told[client].pop(0)
        self.known[client] = (grant.events, grant.bytes, grant.serial)
        if grant.confirm:
            self.hello(client)

    def hello(self, client):
        self.credit.confirm(client, self.known[client][2], *self.sent[client])

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), size=st.integers(0, MAX))
    def send(self, data, size):
        client = data.draw(st.sampled_from(sorted(self.sent)))
        events, total, _ = self.known[client]
        sent = self.sent[client]
        if sent[0] + 1 <= events and sent[1] + size <= total:
            sent[0] += 1
            sent[1] += size
            assert self.credit.arrived(client, size, self.now), "a client that obeys is covered"
            self.credit.hold(client, size)
            self.held.append((client, size))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def decide(self, data):
        client, size = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.credit.release(client, 1, size)

    @invariant()
    def never_promised_twice(self):
        events, size = self.credit.used
        assert events == len(self.held)
        assert size == sum(size for _, size in self.held)
        assert events + self.credit.reserved_events <= self.credit.capacity_events
        assert size + self.credit.reserved_bytes <= self.credit.capacity_bytes

    def teardown(self):
        """Nobody starves: with everything decided, read and confirmed, every client can send one event of the largest size."""
        for client, size in self.held:
            self.credit.release(client, 1, size)
        self.held = []
        for _ in range(6):
            self.plan(True, 3.0)
            for client, told in self.told.items():
                for grant in told:
                    self.known[client] = (grant.events, grant.bytes, grant.serial)
                told.clear()
                self.hello(client)
        for client in self.sent:
            events, size, _ = self.known[client]
            assert events - self.sent[client][0] >= 1
            assert size - self.sent[client][1] >= MAX


TestCreditHistory = CreditHistory.TestCase
TestCreditHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_hello_cannot_claim_more_than_the_licence():
    """A claim of 2^64 - 1 events sent neither raises the next licence beyond the room nor beyond what the wire can say."""
    credit = book()
    credit.join(1)
    (grant,) = credit.plan(0.0, open_=True)
    credit.confirm(1, grant.serial, 2**64 - 1, 2**64 - 1)
    credit.arrived(1, 0, now=0.0)
    for grant in credit.plan(0.0, open_=True):
        assert grant.events <= 4 + 64 + 1
        assert grant.bytes <= 65 * MAX
