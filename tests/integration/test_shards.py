"""Two ingests side by side and workers that serve both."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from hltfarm.proto.messages import RunConfig
from hltfarm.proto.wire import Outcome
from tests.integration.ingest_farm import DEADLINE_S, RUN, WORKER, Farm, event, stream


class Shards:
    """Two farms of the ingest tests, without workers of their own, and workers that both share."""

    def __init__(self, farms: list[Farm]) -> None:
        self.farms = farms

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        urls = ",".join(farm.settings.workers_url for farm in self.farms)
        process = subprocess.Popen([sys.executable, str(WORKER), urls, name, "8"], stderr=subprocess.DEVNULL)
        self.farms[0].workers[name] = process  # closed with that farm
        return process

    def run(self, workers: int, **plan: object) -> None:
        for number in range(workers):
            self.worker(f"w{number}")
        for farm in self.farms:
            self.start(farm, workers, **plan)

    @staticmethod
    def start(farm: Farm, workers: int, **plan: object) -> None:
        farm.command("configure", config=RunConfig(run=RUN, menu=json.dumps(plan)))
        farm.command("start")
        farm.wait(lambda s: sum(w.ready for w in s.workers) == workers)


@pytest.fixture
def shards(make_farm: Callable[..., Farm]) -> Shards:
    return Shards([make_farm(), make_farm()])


def test_one_worker_decides_for_both_and_both_books_close(shards: Shards) -> None:
    shards.run(workers=1)
    first, second = shards.farms
    with first.client() as one, second.client() as two:
        for number in range(100):
            one.send(event(number), timeout=DEADLINE_S)
            two.send(event(1000 + number), timeout=DEADLINE_S)
        decisions = one.flush(DEADLINE_S), two.flush(DEADLINE_S)
    assert [sorted(d.id.event for d in part) for part in decisions] == [list(range(100)), list(range(1000, 1100))]
    assert all(d.digest == d.id.event and d.accepted == bool(d.id.event % 2) for part in decisions for d in part)
    ledgers = [farm.wait(lambda s: s.ledger.in_flight == 0).ledger for farm in shards.farms]
    assert [(counts.received, counts.accepted, counts.rejected) for counts in ledgers] == [(100, 50, 50)] * 2
    assert sum(farm.snapshot().batch_events.sum for farm in shards.farms) == 200, "a mixed batch is counted once"


def test_a_killed_worker_costs_neither_ingest_an_event(shards: Shards) -> None:
    shards.run(workers=2, delay_s=0.02)
    first, second = shards.farms
    with first.client() as one, second.client() as two:
        for number in range(40):
            one.send(event(number), timeout=DEADLINE_S)
            two.send(event(1000 + number), timeout=DEADLINE_S)
        shards.farms[0].workers["w0"].send_signal(signal.SIGKILL)
        shards.farms[0].workers["w0"].wait(DEADLINE_S)
        for farm in shards.farms:
            farm.command("worker_lost", worker="w0")
        decisions = [*one.flush(DEADLINE_S), *two.flush(DEADLINE_S)]
    assert len(decisions) == 80
    assert all(decision.outcome is not Outcome.ERROR for decision in decisions)
    assert [farm.wait(lambda s: s.ledger.in_flight == 0).ledger.received for farm in shards.farms] == [40, 40]


def test_an_ingest_that_starts_again_gets_the_worker_back_and_the_other_goes_on(shards: Shards) -> None:
    shards.run(workers=1)
    first, second = shards.farms
    with first.client() as one, second.client() as two:
        two.send(event(1), timeout=DEADLINE_S)
        assert [d.id.event for d in two.flush(DEADLINE_S)] == [1]
        second.stop_ingest()
        assert len(stream(one, range(100, 150))) == 50, "the other ingest does not notice"
        second.start_ingest()
        shards.start(second, 1)
        two.send(event(2), timeout=DEADLINE_S)
        assert [d.id.event for d in two.flush(DEADLINE_S)] == [2]
        assert len(stream(one, range(200, 250))) == 50
    assert first.snapshot().ledger.received == 100
    assert second.snapshot().ledger.received == 1


def test_a_worker_that_is_asked_to_go_finishes_the_work_of_both(shards: Shards) -> None:
    shards.run(workers=1, delay_s=0.05)
    first, second = shards.farms
    with first.client() as one, second.client() as two:
        for number in range(20):
            one.send(event(number), timeout=DEADLINE_S)
            two.send(event(1000 + number), timeout=DEADLINE_S)
        first.wait(lambda s: s.ledger.received == 20)
        second.wait(lambda s: s.ledger.received == 20)
        shards.worker("w1")
        for farm in shards.farms:
            farm.wait(lambda s: sum(w.ready for w in s.workers) == 2)
        first.workers["w0"].terminate()
        assert first.workers["w0"].wait(DEADLINE_S) == 0
        decisions = [*one.flush(DEADLINE_S), *two.flush(DEADLINE_S)]
    assert len(decisions) == 40
    for farm in shards.farms:
        snapshot = farm.wait(lambda s: s.ledger.in_flight == 0)
        assert [worker.name for worker in snapshot.workers] == ["w1"]
        assert snapshot.failures == dict.fromkeys(snapshot.failures, 0)
