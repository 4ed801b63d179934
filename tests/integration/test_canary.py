"""Canaries of a real ingest with real worker processes: outside of the books, and the end of a worker whose bits are wrong."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest

from hltfarm.proto.messages import RunConfig, RunState, Snapshot, WorkerStatus
from tests.integration.ingest_farm import RUN, Farm, stream

#: Worker: ready, distrusted.
FOUND_OUT = {"w0": (True, False), "w1": (False, True), "w2": (True, False)}


def by_name(snapshot: Snapshot) -> dict[str, WorkerStatus]:
    return {worker.name: worker for worker in snapshot.workers}


def test_every_worker_sings_and_nobody_counts_it(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(canary_s=0.1)
    farm.run(workers=2)
    first = farm.wait(lambda s: all(worker.canary_at > 0 for worker in s.workers))
    with farm.client() as client:
        client.wait_open(20)
        decisions = stream(client, range(300))
    assert len(decisions) == 300
    later = farm.wait(lambda s: all(worker.canary_at > by_name(first)[worker.name].canary_at for worker in s.workers))
    assert later.totals.received == 300
    assert sum(worker.processed for worker in later.workers) == 300
    assert sum(later.event_latency.counts) == 300
    assert later.batch_events.sum == 300.0, "batches are those of the events"
    assert [(worker.canary_failures, worker.distrusted) for worker in later.workers] == [(0, "")] * 2
    assert 0 <= later.workers[0].canary_age_s < 20
    assert (later.state, later.problems) == (RunState.RUNNING, [])


def with_a_wrong_one(farm: Farm) -> Snapshot:
    """Three workers, of which w1 has been found out; the first that is ready may be it."""
    for number in range(3):
        farm.worker(f"w{number}")
    farm.command("configure", config=RunConfig(run=RUN, menu=json.dumps({"wrong": ["w1"]})))
    farm.command("start")
    return farm.wait(lambda s: {w.name: (w.ready, bool(w.distrusted)) for w in s.workers} == FOUND_OUT)


def test_a_worker_with_other_bits_gets_no_events(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(canary_s=0.1)
    snapshot = with_a_wrong_one(farm)
    workers = by_name(snapshot)
    assert "its device is broken" in workers["w1"].distrusted
    assert [workers[name].ready for name in ("w0", "w1", "w2")] == [True, False, True]
    assert workers["w1"].canary_failures == 1
    assert snapshot.state is RunState.RUNNING_DEGRADED
    assert any("worker w1: canary digest" in problem for problem in snapshot.problems)
    before = workers["w1"].processed
    with farm.client() as client:
        client.wait_open(20)
        assert len(stream(client, range(200))) == 200
    assert by_name(farm.snapshot())["w1"].processed == before
    farm.workers["w1"].kill()
    farm.reaper("w1")
    farm.worker("w1")  # a new process is asked anew; it is as wrong as the one before
    farm.wait(lambda s: by_name(s)["w1"].canary_failures == 2 and not by_name(s)["w1"].ready)


def test_an_operator_and_the_canaries_do_not_undo_each_other(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(canary_s=0.1)
    with_a_wrong_one(farm)
    farm.command("worker_quarantine", worker="w1", reason="fan is loud")
    held = farm.command("worker_quarantine", worker="w0", reason="to be moved")
    assert [by_name(held)[name].quarantined for name in ("w0", "w1", "w2")] == ["to be moved", "fan is loud", ""]
    assert held.problems == [], "what an operator took out is none"
    farm.wait(lambda s: s.state is RunState.RUNNING)
    released = farm.command("worker_release", worker="w1")
    assert not by_name(released)["w1"].ready, "its bits are as wrong as before"
    assert any("worker w1: canary digest" in problem for problem in released.problems)

    sung = by_name(released)["w0"].canary_at
    farm.wait(lambda s: by_name(s)["w0"].canary_at > sung)  # in quarantine it sings on, and does not come back by that
    assert not by_name(farm.snapshot())["w0"].ready
    with farm.client() as client:
        client.wait_open(20)
        assert len(stream(client, range(50))) == 50
    assert {worker.name: worker.processed for worker in farm.snapshot().workers} == {"w0": 0, "w1": 0, "w2": 50}
    assert by_name(farm.command("worker_release", worker="w0"))["w0"].ready

    farm.command("worker_quarantine", worker="w0", reason="again")
    farm.workers["w0"].kill()
    farm.reaper("w0")
    farm.worker("w0")
    back = farm.wait(lambda s: by_name(s)["w0"].up and by_name(s)["w0"].canary_at > 0)
    assert (by_name(back)["w0"].ready, by_name(back)["w0"].quarantined) == (False, "again"), "a new process of that name is held, too"


def test_a_canary_that_fails_is_counted_and_stops_nothing(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(canary_s=0.1)
    farm.run(workers=2, lost_canary=["w0"])
    snapshot = farm.wait(lambda s: by_name(s)["w0"].canary_failures >= 2 and by_name(s)["w1"].canary_at > 0)
    worker = by_name(snapshot)["w0"]
    assert (worker.ready, worker.distrusted, worker.canary_at, worker.canary_age_s) == (True, "", 0.0, -1.0)
    with farm.client() as client:
        client.wait_open(20)
        assert len(stream(client, range(100))) == 100
    assert farm.snapshot().failures == dict.fromkeys(snapshot.failures, 0)


def test_without_canaries_nothing_is_asked(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(canary_s=0.0)
    farm.run(workers=1, wrong=["w0"])
    with farm.client() as client:
        client.wait_open(20)
        stream(client, range(50))
    snapshot = farm.snapshot()
    assert (snapshot.canary_s, snapshot.workers[0].canary_at, snapshot.workers[0].canary_failures) == (0.0, 0.0, 0)


def test_a_worker_that_was_lost_over_a_question_sings_as_soon_as_it_is_back(make_farm: Callable[..., Farm]) -> None:
    """The same process, after a time in which it could not be heard; a question would stay open for `batch_timeout_s`."""
    farm = make_farm(canary_s=0.1)
    farm.run(workers=1)
    farm.wait(lambda s: s.workers[0].canary_at > 0)
    os.kill(farm.workers["w0"].pid, signal.SIGSTOP)
    farm.wait(lambda s: not s.workers[0].up)
    os.kill(farm.workers["w0"].pid, signal.SIGCONT)
    back = farm.wait(lambda s: s.workers[0].ready and s.workers[0].canary_age_s < 0.5)  # it was lost after a second
    assert back.workers[0].pid == farm.workers["w0"].pid
    assert back.workers[0].canary_failures == 0


def test_trust_that_is_restored_gives_no_work_to_a_worker_without_the_programme(
    make_farm: Callable[..., Farm], caplog: pytest.LogCaptureFixture
) -> None:
    """w1 is found out, cannot build what becomes active meanwhile, and is then proved right by w2."""
    farm = make_farm(canary_s=0.1, worker_timeout_s=60.0)
    plan = {"wrong": ["w1", "w2"]}
    farm.run(**plan)
    farm.wait(lambda s: s.workers[0].canary_at > 0)
    farm.worker("w1")
    farm.wait(lambda s: {w.name: (w.ready, bool(w.distrusted)) for w in s.workers} == {"w0": (True, False), "w1": (False, True)})
    os.kill(farm.workers["w1"].pid, signal.SIGSTOP)  # w0 says what the programme is
    farm.command("prepare", config=RunConfig(run=RUN, menu=json.dumps(plan | {"models": {"w1": "another"}})))
    farm.wait(lambda s: s.pending is not None and s.pending.prepared)
    os.kill(farm.workers["w1"].pid, signal.SIGCONT)
    farm.wait(lambda s: "worker w1 cannot be configured" in caplog.text)
    farm.command("activate")
    farm.worker("w2")
    turned = farm.wait(lambda s: {w.name: bool(w.distrusted) for w in s.workers} == {"w0": True, "w1": False, "w2": False})
    assert [by_name(turned)[name].ready for name in ("w0", "w1", "w2")] == [False, False, True]
    turned = farm.wait(lambda s: any("worker w1: loaded the models" in problem for problem in s.problems))
    assert not by_name(turned)["w1"].ready
