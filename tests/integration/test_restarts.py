"""The control plane and the only ingest are killed under load, as real processes: data taking goes on, and the books close."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from hltfarm.loadgen.load.driver import LoadConfig
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.loadgen.source import read_events
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.chaos.farm import Farm, FarmSettings, chaos_farm
from hltfarm.service.chaos.load import LiveLoad
from hltfarm.service.chaos.plan import Fault, Timing
from hltfarm.service.chaos.round import COMMAND_S, LoadSettings, run_round
from hltfarm.service.chaos.scene import Orders, Scene
from hltfarm.service.cli.demo import demo_menu
from hltfarm.service.client import Client

RATE_HZ = 40.0
#: Nothing hangs here; a batch of a machine that is busy must not be taken for one that does.
TIMING = Timing(worker_timeout_s=10.0, batch_timeout_s=30.0, hang_s=60.0)


def until(condition: Callable[[], bool], farm: Farm) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        farm.check()
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the interval of looking


def farm_of(folder: Path, roles: bool) -> Iterator[Farm]:
    left: list[str] = []
    with chaos_farm(FarmSettings(folder=folder, menu=demo_menu(), timing=TIMING), roles, left) as farm:
        farm.ready()
        yield farm
    assert left == []


@pytest.fixture
def roles(tmp_path: Path) -> Iterator[Farm]:
    """One ingest, two workers and a control plane as processes of their own."""
    yield from farm_of(tmp_path, roles=True)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Farm]:
    """`hltfarm serve` with one ingest and two workers."""
    yield from farm_of(tmp_path, roles=False)


def test_the_only_ingest_is_killed_and_its_clients_send_again(local: Farm, demo_sample: Path) -> None:
    before = local.api.status()["run"]
    load = LoadSettings(source="demo.hlt", payloads=read_events(demo_sample), rate_hz=RATE_HZ, duration_s=4.0, connections=2)
    result = run_round(local, (Fault.KILL_INGEST,), 1, load)
    assert result.problems == [], result.farm_said
    assert [hit.in_flight > 0 for hit in result.struck] == [True]
    assert (result.run, result.outcome) == (before, "interrupted"), "the run of the clients' events goes on; its counts are not whole"
    assert result.decided == result.offered
    assert result.resends > 0


def test_the_control_plane_is_killed_and_nobody_notices(roles: Farm, demo_sample: Path) -> None:
    payloads = read_events(demo_sample)
    run = roles.api.status()["run"]
    config = LoadConfig(
        ingests=roles.ingests, schedule=Schedule(RATE_HZ, 6.0), source="demo.hlt", connections=2, run=run, silence_s=60.0, first_event=1000
    )
    with LiveLoad(config, payloads) as load:
        scene = Scene(roles, run, load, payloads, Orders(roles.settings.faults))
        scene.until(lambda: load.answered > 20, "nothing was decided")
        before = load.answered
        roles.restart_control(0.0)
        scene.until(lambda: load.answered > before + 5, "nothing was decided without a control plane")
        scene.until(lambda: not roles.api.not_ready(), "the control plane did not find its farm again")

        roles.api.command("pause", COMMAND_S)
        roles.restart_control(0.0)
        scene.until(lambda: "not answer" not in " ".join(roles.api.not_ready()), "the control plane did not come back")
        scene.until(lambda: roles.api.status()["state"] == "Paused", "the run did not stay paused")
        roles.api.command("resume", COMMAND_S)
        report = load.finish()
    assert report.problems == []
    assert (report.resends, report.reconnects, report.run) == (0, 0, run)

    assert end_a_run_behind_the_back_of_the_control(roles, run, payloads) == 4
    record, metrics = roles.api.run(run), roles.api.metrics()
    assert record["outcome"] == "stopped", "the new control knows what the old one was told"
    assert record["ledger"]["received"] == report.offered + 4
    assert record["ledger"]["mismatch"] == record["ledger"]["in_flight"] == 0
    paths = {f'hlt_path_accepts_total{{path="{name}"}}': value for name, value in record["counters"]["paths"].items()}
    assert paths, record["counters"]
    assert {key: metrics[key] for key in paths} == paths, "the counters of all three control planes add up"
    first = record["counters"]["ledger"]
    assert (first["received"], first["accepted"]) == (record["ledger"]["received"], record["ledger"]["accepted"])
    roles.api.command("start", COMMAND_S)
    assert roles.api.status()["run"] == run + 1


def end_a_run_behind_the_back_of_the_control(farm: Farm, run: int, payloads: list[RawEvent]) -> int:
    """Give the command stop with events in flight, and kill the control plane before they are decided. Returns how many were."""
    workers = farm.workers().values()
    with Client(farm.ingests[0]) as client:
        client.wait_open(20)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            for number in range(4):
                client.send(RawEvent(EventId(run, 1, number), payloads[number].payload), timeout=20)
            until(lambda: farm.api.status()["ledger"]["in_flight"] == 4, farm)
            stop = httpx.post(f"{farm.url}/v1/control/stop", trust_env=False)
            assert (stop.status_code, stop.json()["progress"]) == (202, "pending")
            until(lambda: ending_in_registry(farm, run) == "stopped", farm)
            farm.restart_control(0.0)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        decisions = client.flush(30)
    until(lambda: "not answer" not in " ".join(farm.api.not_ready()), farm)
    until(lambda: farm.api.run(run)["outcome"] != "running", farm)
    transition = httpx.get(f"{farm.url}{stop.headers['location']}", trust_env=False).json()
    assert transition.get("progress") == "failed", transition
    assert transition["error"] == "the control was restarted"
    return len(decisions)


def ending_in_registry(farm: Farm, run: int) -> str | None:
    with closing(sqlite3.connect(f"file:{farm.settings.data / 'runs.db'}?mode=ro", uri=True)) as database:
        ((ending,),) = database.execute("SELECT ending FROM runs WHERE number = ?", (run,)).fetchall()
    return None if ending is None else str(ending)
