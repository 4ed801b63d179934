"""Dispatch: order, credit, tickets, and the failure ladder."""

from __future__ import annotations

import numpy as np

from hltfarm.service.ingest.dispatch import Assignment, Dispatcher


def farm(workers: dict[str, int], slots: int = 32) -> Dispatcher:
    dispatcher = Dispatcher(slots)
    for name, capacity in workers.items():
        dispatcher.add_worker(name, capacity)
        dispatcher.set_ready(name, True)
    return dispatcher


def answer(dispatcher: Dispatcher, assignment: Assignment) -> int:
    return int(dispatcher.complete(assignment.worker, assignment.slots, assignment.tickets)[0].sum())


def given_out(assignments: list[Assignment]) -> list[int]:
    return [slot for assignment in assignments for slot in assignment.slots.tolist()]


def test_events_are_given_out_in_order_up_to_the_capacity():
    dispatcher = farm({"a": 4})
    for slot in range(6):
        dispatcher.submit(slot)
    (first,) = dispatcher.assign()
    assert first.slots.tolist() == [0, 1, 2, 3]
    assert dispatcher.assign() == []
    assert dispatcher.load("a") == (0, 4, 0)
    assert answer(dispatcher, first) == 4
    assert given_out(dispatcher.assign()) == [4, 5]


def test_the_queue_is_shared_between_workers():
    dispatcher = farm({"a": 8, "b": 8})
    for slot in range(8):
        dispatcher.submit(slot)
    assignments = dispatcher.assign()
    assert {a.worker for a in assignments} == {"a", "b"}
    assert sorted(given_out(assignments)) == list(range(8))
    assert abs(dispatcher.load("a")[1] - dispatcher.load("b")[1]) <= 1


def test_a_worker_that_is_not_ready_gets_nothing():
    dispatcher = farm({"a": 8})
    dispatcher.set_ready("a", False)
    dispatcher.submit(0)
    assert dispatcher.assign() == []
    assert dispatcher.ready_workers == 0


def test_answers_after_a_loss_are_stale():
    dispatcher = farm({"a": 8})
    dispatcher.submit(0)
    (old,) = dispatcher.assign()
    assert dispatcher.remove_worker("a") == []
    assert answer(dispatcher, old) == 0
    dispatcher.add_worker("a", 8)
    dispatcher.set_ready("a", True)
    (new,) = dispatcher.assign()
    assert answer(dispatcher, old) == 0
    valid, attempts = dispatcher.complete("a", new.slots, new.tickets)
    assert valid.all()
    assert attempts.tolist() == [2]
    assert answer(dispatcher, new) == 0, "an answer counts once"


def test_an_event_twice_in_one_answer_counts_once():
    dispatcher = farm({"a": 8})
    dispatcher.submit(3)
    (work,) = dispatcher.assign()
    valid, _ = dispatcher.complete("a", np.repeat(work.slots, 2), np.repeat(work.tickets, 2))
    assert valid.tolist() == [True, False]


def test_nonsense_in_an_answer_is_stale():
    dispatcher = farm({"a": 8})
    valid, _ = dispatcher.complete("a", np.array([0, 99, 5]), np.array([0, 1, 7], dtype=np.uint64))
    assert not valid.any()


def test_suspects_are_tried_alone_one_by_one_and_before_the_queue():
    dispatcher = farm({"a": 8})
    for slot in range(3):
        dispatcher.submit(slot)
    dispatcher.assign()
    dispatcher.remove_worker("a")
    dispatcher.submit(3)
    dispatcher.add_worker("b", 8)
    dispatcher.set_ready("b", True)
    for suspect in range(3):
        (work,) = dispatcher.assign()
        assert (work.slots.tolist(), work.alone) == ([suspect], True)
        assert dispatcher.assign() == []
        assert answer(dispatcher, work) == 1
    (work,) = dispatcher.assign()
    assert (work.slots.tolist(), work.alone) == ([3], False)


def test_a_busy_farm_reserves_one_worker_for_suspects():
    dispatcher = farm({"a": 2, "b": 2, "c": 2})
    for slot in range(6):
        dispatcher.submit(slot)
    work = {assignment.slots[0]: assignment for assignment in dispatcher.assign()}
    by_worker: dict[str, list[Assignment]] = {}
    for assignment in work.values():
        by_worker.setdefault(assignment.worker, []).append(assignment)
    dispatcher.remove_worker("c")
    for slot in range(6, 12):
        dispatcher.submit(slot)
    assert dispatcher.assign() == []
    for assignment in by_worker["a"] + by_worker["b"]:
        answer(dispatcher, assignment)
        new = dispatcher.assign()
        for item in new:
            assert not item.alone or len(item.slots) == 1
            others = dispatcher.load(item.worker)[1]
            assert others == 1 if item.alone else others <= 2
    assert dispatcher.suspects <= 1, "suspects made progress while the queue was full"


def test_the_second_failure_gives_up_and_a_poisonous_event_takes_nobody_along():
    dispatcher = farm({"a": 8})
    for slot in range(4):
        dispatcher.submit(slot)
    dispatcher.assign()
    poison = 2
    assert dispatcher.remove_worker("a") == []
    lost, finished = [], []
    for n in range(20):
        name = f"b{n}"
        dispatcher.add_worker(name, 8)
        dispatcher.set_ready(name, True)
        while work := dispatcher.assign():
            (item,) = work
            if poison in item.slots:
                lost += dispatcher.remove_worker(name)
                break
            answer(dispatcher, item)
            finished += item.slots.tolist()
    assert lost == [poison]
    assert sorted(finished) == [0, 1, 3]


def test_a_batch_that_fails_in_a_living_worker_is_tried_alone_too():
    dispatcher = farm({"a": 8})
    for slot in range(2):
        dispatcher.submit(slot)
    (work,) = dispatcher.assign()
    assert dispatcher.failed("a", work.slots, work.tickets) == []
    (work,) = dispatcher.assign()
    assert work.alone
    assert dispatcher.failed("a", work.slots, work.tickets) == work.slots.tolist()


def test_withdrawn_events_are_nowhere():
    dispatcher = farm({"a": 1})
    for slot in range(3):
        dispatcher.submit(slot)
    (work,) = dispatcher.assign()
    dispatcher.withdraw([0, 1, 2])
    assert dispatcher.queued == 0
    assert dispatcher.load("a") == (1, 0, 0)
    assert answer(dispatcher, work) == 0


def test_a_slot_that_is_used_again_starts_without_guilt():
    dispatcher = farm({"a": 1})
    dispatcher.submit(0)
    dispatcher.assign()
    dispatcher.remove_worker("a")
    dispatcher.withdraw([0])
    dispatcher.submit(0)
    assert dispatcher.attempts(0) == 0


def failing(dispatcher: Dispatcher, slot: int = 0) -> list[str]:
    """Workers that an event comes to, in order, if all of them fail on it."""
    dispatcher.submit(slot)
    workers = []
    while True:
        (work,) = dispatcher.assign()
        workers.append(work.worker)
        if dispatcher.failed(work.worker, work.slots, work.tickets):
            return workers


def with_fallback(*others: tuple[str, bool]) -> Dispatcher:
    dispatcher = Dispatcher(8)
    for name, cpu, fallback in (("fallback", True, True), *((name, cpu, False) for name, cpu in others)):
        dispatcher.add_worker(name, 4, cpu=cpu, fallback=fallback)
        dispatcher.set_ready(name, True)
    return dispatcher


def test_a_fallback_worker_gets_what_all_others_failed_on():
    assert failing(with_fallback(("gpu", False)))[-2:] == ["gpu", "fallback"]
    two = failing(with_fallback(("gpu0", False), ("gpu1", False)))
    assert set(two[:-1]) == {"gpu0", "gpu1"}
    assert two.count("fallback") == 1
    assert two[-1] == "fallback"


def test_a_fallback_worker_is_the_last_rung_beside_cpu_workers_too():
    assert failing(with_fallback(("cpu", True)))[-2:] == ["cpu", "fallback"]
    three = failing(with_fallback(("cpu0", True), ("cpu1", True), ("cpu2", True)))
    assert three[-1] == "fallback", "it is meant for the last try, and no further regular worker"
    assert len(set(three)) == 3


def test_a_fallback_worker_gets_events_of_the_queue_only_while_there_is_no_other():
    dispatcher = with_fallback(("gpu", False))
    for slot in range(6):
        dispatcher.submit(slot)
    first = dispatcher.assign()
    assert ({a.worker for a in first}, len(given_out(first))) == ({"gpu"}, 4), "it is full"
    assert dispatcher.assign() == []
    dispatcher.set_ready("gpu", False)
    assert {a.worker for a in dispatcher.assign()} == {"fallback"}
    dispatcher.set_ready("gpu", True)
    dispatcher.submit(6)
    assert dispatcher.assign() == [], "it waits for the one that is meant"


def test_alone_a_fallback_worker_is_a_worker_like_any_other():
    assert failing(with_fallback()) == ["fallback"] * 2
