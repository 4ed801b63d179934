"""Batches: by count, by bytes, by deadline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.workers.batching import Batcher


def batcher() -> Batcher[int]:
    return Batcher(max_events=3, max_bytes=100, max_wait_s=0.5)


def test_a_full_count_is_due_at_once():
    b = batcher()
    for item in range(4):
        b.add(item, 1, now=0.0)
    assert b.take(0.0) == [0, 1, 2]
    assert b.take(0.0) == []


def test_bytes_close_a_batch():
    b = batcher()
    for item in range(3):
        b.add(item, 60, now=0.0)
    assert b.take(0.0) == [0]
    assert b.take(0.0) == [1]
    assert b.due_in(0.0) == 0.5


def test_the_oldest_event_sets_the_deadline():
    b = batcher()
    assert b.due_in(0.0) is None
    b.add(1, 1, now=1.0)
    b.add(2, 1, now=1.4)
    assert b.due_in(1.4) == pytest.approx(0.1)
    assert b.take(1.4) == []
    assert b.take(1.5) == [1, 2]


def test_a_busy_engine_gets_full_batches_only():
    b = batcher()
    b.add(1, 1, now=0.0)
    assert b.take(9.0, only_full=True) == []
    assert b.take(9.0) == [1]


def test_suspects_are_alone_and_first():
    b = batcher()
    b.add(1, 1, now=0.0)
    b.add_alone([2])
    b.add_alone([3])
    assert b.take(0.0) == [2]
    assert b.take(0.0, only_full=True) == [3]
    assert b.take(1.0) == [1]


def test_an_event_larger_than_a_batch_goes_by_itself():
    b = batcher()
    b.add(1, 1000, now=0.0)
    b.add(2, 1, now=0.0)
    assert b.take(0.0) == [1]


def test_discarded_items_are_gone_and_the_others_keep_their_order():
    b = batcher()
    for item in range(4):
        b.add(item, 60, now=0.0)
    b.add_alone([4])
    b.add_alone([5])
    b.discard(lambda item: item % 2 == 0)
    assert len(b) == 3
    assert [b.take(0.0), b.take(0.0), b.take(0.5)] == [[5], [1], [3]]
    b.discard(lambda item: True)
    assert b.due_in(0.0) is None


def test_events_on_trial_together_are_one_batch_whatever_its_size():
    b = batcher()
    b.add(1, 1, now=0.0)
    b.add_alone([2, 3, 4, 5, 6])
    b.discard(lambda item: item == 4)
    assert len(b) == 5
    assert b.take(0.0) == [2, 3, 5, 6]


@given(st.lists(st.tuples(st.integers(0, 150), st.booleans()), max_size=40))
def test_nothing_is_lost_or_reordered(items):
    b = batcher()
    for number, (size, alone) in enumerate(items):
        if alone:
            b.add_alone([number])
        else:
            b.add(number, size, now=0.0)
    batches = []
    while batch := b.take(1.0):
        batches.append(batch)
        assert len(batch) <= 3
        assert len(batch) == 1 or sum(items[n][0] for n in batch) <= 100
    flat = [n for batch in batches for n in batch]
    assert sorted(flat) == list(range(len(items)))
    normal = [n for n in flat if not items[n][1]]
    assert normal == sorted(normal)
