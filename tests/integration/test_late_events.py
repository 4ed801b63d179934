"""Events that are still in flight when their programme is none of those that decide later ones any more."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.service.client import Client, Decision
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, payload


def exchange(farm: Farm, client: Client, number: int) -> list[Decision]:
    """Another programme, and the first event of its lumisection."""
    farm.command("prepare", config=RunConfig(run=RUN, menu=json.dumps({"number": number})))
    farm.wait(lambda s: s.pending is not None and s.pending.prepared, client)
    first = farm.command("activate").programmes[-1].first_lumi
    client.send(RawEvent(EventId(RUN, first, 100 + number, 0), payload(number)), timeout=DEADLINE_S)
    farm.wait(lambda s: s.lumi == first and s.ledger.in_flight == 1, client)
    return client.poll(0)


def test_an_event_outlives_the_programmes_that_are_kept(make_farm: Callable[..., Farm]) -> None:
    """It waits in a worker that an operator took out of service; five exchanges later the worker dies, and another has to decide it.

    A third worker, which cannot build its programme, gets work when nothing needs that any more.
    """
    farm = make_farm(worker_timeout_s=60.0)
    farm.run(workers=2, models={"w2": "another"})
    with farm.client(timeout_s=30.0) as client:
        client.wait_open(DEADLINE_S)
        farm.command("worker_quarantine", worker="w1")
        os.kill(farm.workers["w0"].pid, signal.SIGSTOP)
        client.send(RawEvent(EventId(RUN, 1, 1, 0), payload(1)), timeout=DEADLINE_S)
        farm.wait(lambda s: any(w.name == "w0" and w.in_flight == 1 for w in s.workers), client)
        farm.command("worker_release", worker="w1")
        farm.command("worker_quarantine", worker="w0")
        farm.wait(lambda s: [w.name for w in s.workers if w.ready] == ["w1"], client)
        decided = [decision for number in range(1, 6) for decision in exchange(farm, client, number)]
        assert len(farm.snapshot().programmes) == 4
        farm.worker("w2")
        farm.wait(lambda s: any("worker w2: loaded the models" in problem for problem in s.problems), client)
        farm.workers["w0"].kill()
        farm.reaper("w0")
        decided += client.flush(5.0)
        farm.wait(lambda s: {w.name for w in s.workers if w.ready} == {"w1", "w2"}, client)
    assert sorted(decision.id.event for decision in decided) == [1, 101, 102, 103, 104, 105]
    assert farm.snapshot().ledger.error == 0
