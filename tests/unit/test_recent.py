"""Copies of the latest events: how many there are, how few are made, which one goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.proto.messages import ACCEPTED, FAILED, Command, EventInfo, RunConfig
from hltfarm.service.ingest.programmes import Entry
from hltfarm.service.ingest.questions import answer
from hltfarm.service.ingest.recent import ACCEPTED_KEPT, BURST, FAILED_KEPT, FAILED_TOLD, FULL_PERIOD_NS, PERIOD_NS, RecentEvents

PROGRAMME = Entry(1, RunConfig(run=1, menu="text"), menu_hash="feed", conditions="c0")
SECOND_NS = 1_000_000_000


def info(event: int, *paths: str, run: int = 1, size: int = 10, kind: str = ACCEPTED) -> EventInfo:
    return EventInfo(
        id="", kind=kind, run=run, lumi=1, event=event, bx=3, decided_at=float(event), size_bytes=size, attempts=1, paths=paths
    )


def add(recent: RecentEvents, event: int, *paths: str, now_ns: int | None = None, **about: Any) -> None:
    given = info(event, *paths, **about)
    recent.accepted(given, PROGRAMME, lambda: bytes(given.size_bytes), event * SECOND_NS if now_ns is None else now_ns)


def fail(recent: RecentEvents, events: range, now_ns: int = 0, size: int = 10) -> list[int]:
    """Failed events; returns those whose payload was copied."""
    copied: list[int] = []

    def payload(event: int) -> Callable[[], bytes]:
        def copy() -> bytes:
            copied.append(event)
            return bytes(size)

        return copy

    recent.failed([(info(event, kind=FAILED, size=size), payload(event)) for event in events], PROGRAMME, now_ns)
    return copied


def events(recent: RecentEvents, kind: str = ACCEPTED) -> list[int]:
    return [info.event for info in recent.listed(kind, 1000)]


def test_the_latest_are_kept_newest_first() -> None:
    recent = RecentEvents(1 << 20, "aa")
    for event in range(100):
        add(recent, event, "p")
    assert events(recent) == list(range(99, 99 - ACCEPTED_KEPT, -1))
    assert [info.event for info in recent.listed("", 3)] == [99, 98, 97]
    assert recent.bytes == 10 * ACCEPTED_KEPT
    first = recent.listed(ACCEPTED, 1)[0]
    kept = recent.find(first.id)
    assert kept is not None
    assert (kept.info, kept.payload, kept.programme) == (first, bytes(10), PROGRAMME)
    assert recent.find("aa-1") is None, "it went"
    assert recent.find("bb-100") is None
    assert recent.find("nonsense") is None


@pytest.mark.parametrize("most", [ACCEPTED_KEPT, 4])
def test_five_a_second_are_due_and_one_when_there_is_no_room(most: int) -> None:
    recent = RecentEvents(10 * most, "aa")
    due = 0
    for now_ns in range(0, 10 * SECOND_NS, 1_000_000):  # a batch every millisecond
        if now_ns >= recent.due_ns:
            due += 1
            add(recent, due, "p", now_ns=now_ns)
    fast = most + 1  # the first that another had to go for, too
    rest_ns = 10 * SECOND_NS - (fast - 1) * PERIOD_NS
    assert due == recent.copies == fast + (rest_ns - 1) // FULL_PERIOD_NS
    assert len(events(recent)) == most


def test_a_rare_path_is_chosen_and_stays() -> None:
    recent = RecentEvents(1 << 20, "aa")
    assert recent.choose([("often",), ("often", "rare"), ("rare",)]) == 0, "none was copied yet"
    add(recent, 0, "often")
    assert recent.choose([("often",), ("often", "rare"), ("rare",)]) == 1
    add(recent, 1, "rare")
    assert recent.choose([("rare",), ("often",)]) == 1
    for event in range(2, 100):
        add(recent, event, "often")
    assert events(recent)[-1] == 1, "the only one of its path"
    add(recent, 100, "rare")
    add(recent, 101, "often")
    assert 1 not in events(recent)
    add(recent, 102, "often", run=2)
    assert 100 in events(recent)
    for event in range(103, 150):
        add(recent, event, "often", run=2)
    assert 100 not in events(recent), "those of another run go first"


def test_nothing_is_kept_where_there_is_to_be_none() -> None:
    recent = RecentEvents(0, "aa")
    assert recent.due_ns > 10**18
    assert fail(recent, range(5)) == []
    assert [(info.event, info.id) for info in recent.failures(10)] == [(event, "") for event in (4, 3, 2, 1, 0)]
    assert recent.listed("", 10) == []


def test_an_event_that_is_larger_than_all_room_is_not_copied() -> None:
    recent = RecentEvents(100, "aa")
    recent.accepted(info(1, "p", size=101), PROGRAMME, lambda: pytest.fail("it was copied"), 0)
    assert recent.due_ns == PERIOD_NS, "nor looked for again at once"
    assert recent.bytes == 0


def test_many_failures_at_once_cost_a_few_copies() -> None:
    recent = RecentEvents(1 << 20, "aa")
    assert fail(recent, range(1000)) == list(range(BURST))
    assert fail(recent, range(1000, 1010), now_ns=SECOND_NS - 1) == []
    assert fail(recent, range(1010, 1012), now_ns=SECOND_NS) == [1010, 1011]
    told = recent.failures(1000)
    assert len(told) == FAILED_TOLD
    assert [info.event for info in told[:3]] == [1011, 1010, 1009]
    assert [bool(info.id) for info in told[:3]] == [True, True, False]
    for second in range(2, 10):
        fail(recent, range(2000 + 10 * second, 2010 + 10 * second), now_ns=second * SECOND_NS)
    assert len(events(recent, FAILED)) == FAILED_KEPT
    assert [info.event for info in recent.failures(1000) if info.id] == events(recent, FAILED)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=60))
def test_never_more_bytes_than_allowed_and_none_lost_track_of(steps: list[tuple[bool, int]]) -> None:
    recent = RecentEvents(300, "aa")
    for event, (accepted, size) in enumerate(steps):
        if accepted:
            add(recent, event, "p", size=size)
        else:
            fail(recent, range(event, event + 1), event * SECOND_NS, size)
        kept = [recent.find(info.id) for info in recent.listed("", 100)]
        assert recent.bytes == sum(len(one.payload) for one in kept if one is not None) <= 300
        assert None not in kept
        assert recent.listed("", 1)[0].event == event, "the new one is there"


def test_answers_to_the_control_plane() -> None:
    recent = RecentEvents(1 << 20, "aa")
    add(recent, 1, "p")
    fail(recent, range(2, 5))
    reply, parts = answer(recent, Command(id="x", op="events", kind=FAILED, limit=2))
    assert ([info.event for info in reply.events], parts, reply.id, reply.error) == ([4, 3], [], "x", None)
    reply, _ = answer(recent, Command(id="x", op="failures", limit=1))
    assert [info.event for info in reply.events] == [4]
    reply, parts = answer(recent, Command(id="x", op="event", event_id="aa-1"))
    assert reply.event is not None
    assert (reply.event.info.event, reply.event.menu_hash, reply.event.config.menu, parts) == (1, "feed", "text", [bytes(10)])
    reply, parts = answer(recent, Command(id="x", op="event", event_id="aa-99"))
    assert (reply.event, reply.error, parts) == (None, None, [])
    for wrong in (Command(id="x", op="events", kind="rejected", limit=1), Command(id="x", op="events", limit=-1)):
        reply, _ = answer(recent, wrong)
        assert reply.error is not None
