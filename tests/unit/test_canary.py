"""Canaries as a machine: who is asked when, which digest stands, who is not trusted."""

from __future__ import annotations

import numpy as np

from hltfarm.proto.raw import check_payload
from hltfarm.service.ingest.canary import EMPTY_TABLE, Canaries, payload_for

GOOD, BAD = 0x1111, 0x2222


def canaries() -> Canaries:
    return Canaries(interval_s=5.0, timeout_s=30.0)


def ask(book: Canaries, now: float, **digests: int | None) -> None:
    """Everybody named is asked and answers; who is not due says nothing. `g...` names are GPU workers."""
    for name, serial in book.due(list(digests), now):
        book.answered(name, serial, 1, digests[name], cpu=not name.startswith("g"), now=now)


def test_each_worker_is_asked_once_an_interval() -> None:
    book = canaries()
    assert [name for name, _ in book.due(["a", "b"], 0.0)] == ["a", "b"]
    assert book.due(["a", "b"], 4.0) == [], "one question at a time"
    ((name, serial),) = book.due(["a", "b", "c"], 4.0)
    book.answered(name, serial, 1, GOOD, cpu=True, now=4.1)
    assert book.due(["c"], 8.9) == []
    assert [name for name, _ in book.due(["c"], 9.0)] == ["c"]
    assert Canaries(0.0, 30.0).due(["a"], 100.0) == []


def test_a_question_that_expires_is_a_failure_and_its_late_answer_nothing() -> None:
    book = canaries()
    ((_, first),) = book.due(["a"], 0.0)
    assert book.due(["a"], 29.0) == []
    ((_, second),) = book.due(["a"], 30.0)
    assert book.health("a").failures == 1
    book.answered("a", first, 1, BAD, cpu=True, now=31.0)
    assert book.health("a").good is None
    book.answered("a", second, 1, GOOD, cpu=True, now=32.0)
    assert (book.health("a").good, book.health("a").failures, book.distrusted) == (32.0, 1, {})


def test_an_error_is_counted_and_leaves_the_last_good_answer_where_it_was() -> None:
    book = canaries()
    ask(book, 0.0, a=GOOD)
    ask(book, 5.0, a=None)
    assert (book.health("a").good, book.health("a").failures, book.distrusted) == (0.0, 1, {})


def test_the_majority_stands_whoever_came_first() -> None:
    book = canaries()
    ask(book, 0.0, ga=BAD, gb=GOOD)
    assert set(book.distrusted) == {"gb"}, "one against one: the first stands"
    ask(book, 5.0, gc=GOOD)
    assert set(book.distrusted) == {"ga"}
    assert "2222" in book.distrusted["ga"]
    assert book.health("ga").failures == 1
    assert book.health("ga").good is None
    ask(book, 10.0, gb=GOOD)
    assert book.health("gb").good == 10.0


def test_one_against_one_the_cpu_is_right() -> None:
    book = canaries()
    ask(book, 0.0, gpu=BAD, cpu=GOOD)
    assert set(book.distrusted) == {"gpu"}


def test_a_worker_that_differs_from_itself_is_broken() -> None:
    book = canaries()
    ask(book, 0.0, g=GOOD)
    ask(book, 5.0, g=BAD)
    assert set(book.distrusted) == {"g"}
    ask(book, 10.0, g=GOOD)
    assert set(book.distrusted) == {"g"}, "one good answer does not mend a device"


def test_programmes_are_compared_each_with_itself() -> None:
    book = canaries()
    ask(book, 0.0, a=GOOD)
    for name, serial in book.due(["b"], 0.0):
        book.answered(name, serial, 2, BAD, cpu=True, now=0.0)
    assert book.distrusted == {}


def test_a_new_run_does_not_restore_trust_and_a_new_process_does() -> None:
    book = canaries()
    ask(book, 0.0, a=GOOD, b=GOOD, c=BAD)
    book.begin()
    assert set(book.distrusted) == {"c"}
    assert [name for name, _ in book.due(["a", "b", "c"], 1.0)] == ["a", "b"], "it is not asked either: its vote counts no more"
    book.forget("c")
    assert book.distrusted == {}
    assert [name for name, _ in book.due(["c"], 2.0)] == ["c"]
    assert book.health("c").failures == 1, "counters never go back"


def test_the_vote_of_a_process_that_ended_is_gone() -> None:
    book = canaries()
    ask(book, 0.0, ga=BAD)
    book.forget("ga")
    ask(book, 1.0, gb=GOOD)
    assert book.distrusted == {}


def test_the_shipped_event_is_a_small_real_one() -> None:
    real = payload_for("phase1")
    check_payload(np.frombuffer(real, dtype=np.uint8))
    assert 10_000 < len(real) < 150_000
    assert int(np.frombuffer(real, dtype="<u4")[0]) > 100, "FEDs with data"
    check_payload(np.frombuffer(payload_for("/some/where"), dtype=np.uint8))
    assert payload_for("/some/where") == EMPTY_TABLE
