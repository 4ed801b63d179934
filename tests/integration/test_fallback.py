"""A fallback worker beside one that fails, as `hltfarm serve` starts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from hltfarm.loadgen.source import read_events
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.wire import Outcome
from hltfarm.service.client import Client
from hltfarm.workers.faults import VARIABLE, Act, Order, give
from tests.integration.test_serve import folder, serving, until

__all__ = ["folder"]
BAD = 5


def processed(answer: dict[str, Any]) -> dict[str, int]:
    """Events by worker, of an answer of the list of workers."""
    return {worker["name"]: worker["processed"] for worker in answer["workers"]}


def test_events_that_a_worker_fails_on_and_all_while_it_is_away(folder: Path, demo_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = folder / "faults.json"
    give(faults, [Order(number=1, act=Act.FAIL, worker="worker-0", events=(BAD,))])
    monkeypatch.setenv(VARIABLE, str(faults))
    payloads = [event.payload for event in read_events(demo_sample)]
    with serving(folder, "--fallback") as (_farm, url):
        until(f"{url}/v2/health/ready", lambda answer: bool(answer["ready"]))
        until(f"{url}/v1/workers", lambda answer: sum(worker["ready"] for worker in answer["workers"]) == 2)
        clients = until(f"{url}/v1/status", lambda _: True)["ingests"][0]["clients_url"]
        with Client(clients) as client:
            client.wait_open(20)
            for number in range(20):
                client.send(RawEvent(EventId(1, 1, number), payloads[number % 4]), timeout=20)
            decided = {decision.id.event: decision for decision in client.flush(60)}
            assert len(decided) == 20
            assert not [number for number, decision in decided.items() if decision.outcome is Outcome.ERROR]
            until(f"{url}/v1/workers", lambda answer: all((worker["resident_bytes"] or 0) > 20 << 20 for worker in answer["workers"]))
            assert decided[BAD].attempts > 2, "in company or alone, once more alone, and then elsewhere"
            assert decided[BAD].digest == decided[BAD - 4].digest, "the same payload, reconstructed by the fallback"
            until(f"{url}/v1/workers", lambda answer: processed(answer) == {"fallback": 1, "worker-0": 19})

            assert httpx.post(f"{url}/v1/workers/worker-0/drain", trust_env=False).status_code == 202
            until(f"{url}/v1/workers/worker-0", lambda worker: not worker["joined"] and worker["process"]["phase"] == "drained")
            for number in range(20, 30):
                client.send(RawEvent(EventId(1, 1, number), payloads[number % 4]), timeout=20)
            assert len(client.flush(60)) == 10, "all events, while no other worker is ready"
        until(f"{url}/v1/workers", lambda answer: processed(answer)["fallback"] == 11)  # a look may be 0.1 s old
