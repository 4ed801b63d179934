"""Tracks and vertices in the reply, over real sockets: with the real reconstruction, and with a fake one for what goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.events import RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.results import EventFlag
from hltfarm.proto.wire import Outcome
from hltfarm.service.client import Client, Decision
from hltfarm.workers.menu import Menu
from hltfarm.workers.reconstructor import BatchResult, Reconstructor
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm, event

WORKER = """
import sys
from hltfarm.workers.process import WorkerSettings, run_worker
run_worker(WorkerSettings(ingests=(sys.argv[1],), name=sys.argv[2], backend="cpu", threads=1, max_events=4))
"""
PATH = {"name": "HLT_Vertices", "stream": "physics", "prescale": 1, "require": {"vertices": {"min": 8}}}
MENU: dict[str, Any] = {"version": 1, "paths": [PATH]}
DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
TRACKS = ("pt", "eta", "phi", "tip", "zip", "chi2", "charge", "n_hits", "quality", "score", "cov", "hits")
LOOSE = 2


class RealFarm(Farm):
    """Its workers reconstruct."""

    def worker(self, name: str, max_events: int = 4) -> subprocess.Popen[bytes]:
        self.workers[name] = subprocess.Popen([sys.executable, "-c", WORKER, self.settings.workers_url, name], stderr=subprocess.DEVNULL)
        return self.workers[name]


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Farm]]:
    farms: list[Farm] = []

    def make(kind: type[Farm] = Farm, **changes: object) -> Farm:
        farms.append(kind(tmp_path_factory.mktemp("farm"), **changes))
        return farms[-1]

    yield make
    for farm in farms:
        farm.close()


@pytest.fixture
def real(make: Callable[..., Farm]) -> Farm:
    return make(RealFarm, limits=Limits(max_payload_bytes=1 << 18), worker_timeout_s=5.0)


@pytest.fixture(scope="module")
def events() -> list[RawEvent]:
    sample = open_source(DEMO)
    return [RawEvent(sample[i].id._replace(run=RUN), sample[i].payload) for i in range(len(sample))]


@pytest.fixture(scope="module")
def expected(events: list[RawEvent]) -> BatchResult:
    with Reconstructor(open_source(DEMO).detector(), Menu.parse(json.dumps(MENU)), backend="cpu", threads=1) as reconstructor:
        return reconstructor.run(events, keep=True)


def ask(client: Client, events: list[RawEvent], want: Callable[[int], bool] = lambda i: True) -> list[Decision]:
    """Send all, flush; decisions in the order of the events."""
    for i, item in enumerate(events):
        client.send(item, timeout=DEADLINE_S, want_columns=want(i))
    decisions = {decision.id: decision for decision in client.flush(DEADLINE_S)}
    return [decisions[item.id] for item in events]


def check(decision: Decision, expected: BatchResult, i: int) -> None:
    assert decision.digest == expected.results["digest"][i]
    assert decision.accepted == bool(expected.results["accept"][i])
    if not decision.accepted:
        assert decision.columns is None
        return
    assert decision.columns is not None
    assert list(decision.columns) == ["tracks", "vertices"]
    tracks, vertices = expected.tracks(i), expected.vertices(i)
    loose = tracks["quality"] >= LOOSE
    assert loose.any()
    assert tuple(decision.columns["tracks"]) == TRACKS
    for name, column in decision.columns["tracks"].items():
        wanted = tracks[name][loose].astype(np.int32) if name == "hits" else tracks[name][loose]
        assert (column.dtype, column.shape, column.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes()), name
    assert decision.columns["vertices"].keys() == vertices.keys()
    for name, column in decision.columns["vertices"].items():
        assert (column.dtype, column.tobytes()) == (vertices[name].dtype, vertices[name].tobytes()), name


def left_out(decision: Decision) -> bool:
    return bool(int(decision.result["flags"]) & EventFlag.COLUMNS_LEFT_OUT)


def test_the_columns_in_the_reply_are_those_of_the_reconstruction(real: Farm, events: list[RawEvent], expected: BatchResult) -> None:
    assert {0, 1} == set(expected.results["accept"].tolist())
    real.run(workers=1, **MENU)
    with real.client() as client:
        client.wait_open(DEADLINE_S)
        for i, decision in enumerate(ask(client, events)):
            check(decision, expected, i)
            assert decision.result.tobytes() == expected.results[i].tobytes()
    snapshot = real.snapshot()
    assert (snapshot.info["columns_sent"], snapshot.info["columns_left_out"]) == (snapshot.ledger.accepted, 0)


def test_who_does_not_ask_gets_none(real: Farm, events: list[RawEvent], expected: BatchResult) -> None:
    real.run(workers=1, **MENU)
    with real.client() as client:
        client.wait_open(DEADLINE_S)
        for i, decision in enumerate(ask(client, events, lambda i: i % 2 == 0)):
            assert not left_out(decision)
            if i % 2:
                assert decision.columns is None
            else:
                check(decision, expected, i)


def test_a_killed_worker_costs_no_columns(real: Farm, events: list[RawEvent], expected: BatchResult) -> None:
    real.run(workers=1, **MENU)
    with real.client() as client:
        client.wait_open(DEADLINE_S)
        real.workers["w0"].send_signal(signal.SIGSTOP)
        for item in events:
            client.send(item, timeout=DEADLINE_S, want_columns=True)
        real.wait(lambda s: s.workers[0].in_flight == len(events), client)
        real.workers["w0"].kill()
        real.reaper("w0")
        real.worker("w1")
        decisions = {decision.id: decision for decision in client.flush(DEADLINE_S)}
    for i, item in enumerate(events):
        check(decisions[item.id], expected, i)
        assert decisions[item.id].attempts == 2
    assert real.snapshot().ledger.received == len(events)


def test_columns_beyond_the_limit_are_left_out_and_flagged(make: Callable[..., Farm]) -> None:
    farm = make(limits=Limits(max_payload_bytes=1 << 16, max_columns_bytes=1000))
    farm.run(workers=1, rows=1000)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        rejected, accepted = ask(client, [event(0), event(1)])
    assert (rejected.columns, rejected.outcome, left_out(rejected)) == (None, Outcome.REJECT, False)
    assert (accepted.columns, accepted.outcome, left_out(accepted)) == (None, Outcome.ACCEPT, True)
    snapshot = farm.snapshot()
    assert (snapshot.info["columns_sent"], snapshot.info["columns_left_out"]) == (0, 1)


def test_a_decided_event_that_is_sent_again_gets_its_decision_without_columns(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.run(workers=1)
    with farm.client() as first, farm.client() as again:
        for client in (first, again):
            client.wait_open(DEADLINE_S)
        (decision,) = ask(first, [event(1)])
        assert decision.columns is not None
        assert decision.columns["tracks"]["pt"].tolist() == [0, 1, 2]
        (decision,) = ask(again, [event(1)])
        assert (decision.columns, decision.outcome, left_out(decision)) == (None, Outcome.ACCEPT, True)
        (decision,) = ask(again, [event(1)], lambda i: False)
        assert (decision.columns, left_out(decision)) == (None, False)
    assert farm.snapshot().ledger.received == 1


def test_an_event_of_the_error_stream_has_no_columns(make: Callable[..., Farm]) -> None:
    farm = make()
    farm.run(workers=1, **{"raise": [1]})
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        failed, good = ask(client, [event(1), event(3)])
    assert (failed.outcome, failed.columns, left_out(failed)) == (Outcome.ERROR, None, False)
    assert (good.outcome, good.columns is not None) == (Outcome.ACCEPT, True)
