"""Menus and models exchanged under load, and a shadow beside them, with real processes: two ingests, two workers, the HTTP API."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hltfarm.loadgen.source import read_events
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.chaos.farm import Farm, FarmSettings, chaos_farm
from hltfarm.service.chaos.plan import Timing
from hltfarm.service.client import Client, Decision
from hltfarm.service.endpoints import client_endpoints
from hltfarm.workers.menu.menu import Menu

FIRST = "version: 1\nname: first\npaths:\n  - {name: HLT_Hard, require: {vertex_ht: {min: 150}, vertex_pt2: {min: 450}}}\n"
SECOND = (
    "version: 1\nname: second\npaths:\n"
    "  - {name: HLT_Hard, require: {vertex_ht: {min: 200}}}\n"
    "  - {name: HLT_Few, require: {tracks: {max: 100}}}\n"
)
EVENTS_A_LUMISECTION = 12
#: Events that a feeder has under way: the farm is never without work, and a lumisection takes longer than a command.
UNDER_WAY = 6
WAIT_S = 60.0
#: Nothing hangs here; a batch of a machine that is busy must not be taken for one that does.
TIMING = Timing(worker_timeout_s=10.0, batch_timeout_s=30.0, hang_s=60.0)


class Feeder:
    """A data source in a thread: sends events one lumisection after the other until it is told to end, and keeps every decision."""

    def __init__(self, url: str, run: int, payloads: Sequence[RawEvent], first_event: int, lumi: int) -> None:
        self.sent = 0
        self.decisions: list[Decision] = []
        self.fault: BaseException | None = None
        self._url, self._run, self._payloads = url, run, payloads
        self._first, self._lumi = first_event, lumi
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="feeder")
        self._thread.start()

    def _guarded(self) -> None:
        try:
            self._feed()
        except BaseException as fault:  # told in the test's thread
            self.fault = fault

    def _feed(self) -> None:
        with Client(self._url) as client:
            client.wait_open(WAIT_S)
            while not self._end.is_set():
                if client.unacknowledged < UNDER_WAY:
                    number = self._first + self.sent
                    lumi = self._lumi + self.sent // EVENTS_A_LUMISECTION
                    payload = self._payloads[number % len(self._payloads)].payload
                    client.send(RawEvent(EventId(self._run, lumi, number), payload), timeout=WAIT_S)
                    self.sent += 1
                self.decisions += client.poll(0.05 if client.unacknowledged >= UNDER_WAY else 0.0)
            self.decisions += client.flush(WAIT_S)
            assert client.refused == []

    def end(self) -> list[Decision]:
        self._end.set()
        self._thread.join(WAIT_S)
        if self.fault is not None:
            raise self.fault
        assert len(self.decisions) == self.sent
        return self.decisions


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    left: list[str] = []
    with chaos_farm(FarmSettings(folder=tmp_path_factory.mktemp("farm"), timing=TIMING, ingests=2), False, left) as running:
        running.ready()
        yield running
    assert left == []


@pytest.fixture
def farm(processes: Farm) -> Farm:
    """With a new run of the first menu."""
    processes.api.command("stop", WAIT_S)
    processes.api.command("configure", WAIT_S, menu=FIRST)
    processes.api.command("start", WAIT_S)
    processes.api.wait_ready(WAIT_S, processes.check)
    return processes


def exchange(farm: Farm, command: str, **body: Any) -> int:
    """The lumisection from which it decides."""
    done = farm.api.follow(farm.api.ask("POST", f"/v1/control/{command}", body), WAIT_S)
    lumisection: int = done["lumisection"]
    farm_wait_begun(farm, lumisection + 1)
    return lumisection


def farm_wait_begun(farm: Farm, lumi: int) -> None:
    """Until a lumisection has begun."""
    begun = threading.Event()
    for _ in range(600):
        if farm.api.ask("GET", "/v1/programmes")["lumisection"] >= lumi:
            return
        begun.wait(0.1)  # the interval of asking
    raise AssertionError(f"lumisection {lumi} did not begin")


def test_every_lumisection_has_one_menu_and_one_set_of_models(farm: Farm, demo_sample: Path) -> None:
    payloads = read_events(demo_sample)
    run: int = farm.api.status()["run"]
    urls = client_endpoints(farm.ingests[0], 2)
    second = farm.api.ask("POST", "/v1/menus", content=SECOND.encode(), kind="application/yaml")
    feeders = [Feeder(url, run, payloads, 1_000_000 * (place + 1), 1 + 2 * place) for place, url in enumerate(urls)]
    try:
        farm_wait_begun(farm, 3)
        limits = [0, exchange(farm, "activate", menu_ref="second")]
        limits += [exchange(farm, "activate", model="none", event_model="none"), exchange(farm, "rollback")]
    finally:
        decisions = [decision for feeder in feeders for decision in feeder.end()]
    assert limits == sorted(set(limits))
    told = farm.api.ask("GET", "/v1/programmes")["programmes"]
    assert [(part["first_lumi"], part["menu_hash"]) for part in told] == [
        (limits[0], Menu.parse(FIRST).hash),
        *((limit, second["hash"]) for limit in limits[1:]),
    ]
    assert [bool(part["models"]) for part in told] == [True, True, False, True]

    by_programme: list[list[Decision]] = [[] for _ in limits]
    for decision in decisions:
        by_programme[max(place for place, limit in enumerate(limits) if decision.id.lumi >= limit)].append(decision)
    named = [{(decision.menu, decision.models) for decision in part} for part in by_programme]
    assert [len(names) for names in named] == [1, 1, 1, 1], "an event of a lumisection was decided by something else"
    (first, with_menu, without_model, back) = (names.pop() for names in named)
    assert first[0] == Menu.parse(FIRST).hash
    assert with_menu == back == (second["hash"], first[1])
    assert without_model == (second["hash"], 0)

    farm.api.command("stop", WAIT_S)
    record = farm.api.run(run)
    sent = sum(feeder.sent for feeder in feeders)
    assert {decision.id.event for decision in decisions} == {
        1_000_000 * (i + 1) + k for i, feeder in enumerate(feeders) for k in range(feeder.sent)
    }
    assert (record["outcome"], record["ledger"]["received"], record["ledger"]["mismatch"]) == ("stopped", sent, 0)
    assert record["ledger"]["accepted"] + record["ledger"]["rejected"] == sent
    counted = [(part["first_lumi"], part["accepted"], part["rejected"]) for part in record["activations"]]
    assert counted == [
        (limit, sum(decision.accepted for decision in part), sum(not decision.accepted for decision in part))
        for limit, part in zip(limits, by_programme, strict=True)
    ]
    farm.api.command("start", WAIT_S)
    farm.api.wait_ready(WAIT_S, farm.check)
    assert farm.api.status()["menu_hash"] == second["hash"], "later runs have the newest menu"


def decide(farm: Farm, run: int, payloads: Sequence[RawEvent], first_event: int) -> list[bool]:
    """What the farm decides of every payload, half of them over each ingest."""
    found: dict[int, bool] = {}
    for place, url in enumerate(client_endpoints(farm.ingests[0], 2)):
        with Client(url) as client:
            client.wait_open(WAIT_S)
            for i in range(place, len(payloads), 2):
                client.send(RawEvent(EventId(run, 1, first_event + i), payloads[i].payload), timeout=WAIT_S)
            found |= {decision.id.event - first_event: decision.accepted for decision in client.flush(WAIT_S)}
    return [found[i] for i in range(len(payloads))]


def shadow_of(farm: Farm, events: int) -> dict[str, Any]:
    """The shadow once it has seen so many events."""
    pause = threading.Event()
    for _ in range(300):
        found: dict[str, Any] = farm.api.ask("GET", "/v1/shadow")
        assert found["error"] is None
        if not found["waits_for"] and found["events"] + found["failed"] >= events:
            return found
        pause.wait(0.1)  # the interval of asking
    raise AssertionError(f"the shadow did not see {events} events: {found}")


def test_a_shadow_tells_what_its_menu_would_have_decided(farm: Farm, demo_sample: Path) -> None:
    payloads = read_events(demo_sample)[:40]
    run: int = farm.api.status()["run"]
    farm.api.ask("PUT", "/v1/shadow", {"menu": SECOND, "fraction": 1.0})
    shadow_of(farm, 0)
    active = decide(farm, run, payloads, 0)
    told = shadow_of(farm, len(payloads))
    assert farm.api.ask("DELETE", "/v1/shadow")["events"] == len(payloads)

    farm.api.follow(farm.api.ask("POST", "/v1/control/activate", {"menu": SECOND, "lumisection": 2}), WAIT_S)
    farm.api.command("stop", WAIT_S)
    farm.api.command("start", WAIT_S)
    farm.api.wait_ready(WAIT_S, farm.check)
    really = decide(farm, run + 1, payloads, 0)
    names = {(True, True): "both", (True, False): "active_only", (False, True): "shadow_only", (False, False): "neither"}
    expected = Counter(names[pair] for pair in zip(active, really, strict=True))
    assert len(expected) > 2, "menus that differ too little to tell"
    assert told["matrix"] == {name: expected[name] for name in names.values()}
    assert sum(told["matrix"].values()) == told["events"] == len(payloads)
    assert (told["failed"], told["events_fraction"], set(told["paths"])) == (0, 1.0, {"HLT_Hard", "HLT_Few"})
    assert told["active"]["fraction"] == sum(active) / len(payloads)
    assert told["shadow"]["low"] <= sum(really) / len(payloads) <= told["shadow"]["high"]
