"""Canaries of a real ingest with real worker processes: outside of the books, and the end of a worker whose bits are wrong."""

from __future__ import annotations

from collections.abc import Callable

from hltfarm.proto.messages import RunState, Snapshot, WorkerStatus
from tests.integration.ingest_farm import Farm, stream


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


def test_a_worker_with_other_bits_gets_no_events(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(canary_s=0.1)
    farm.run(workers=3, wrong=["w1"])
    snapshot = farm.wait(lambda s: bool(by_name(s)["w1"].distrusted))
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
