"""The real commands, as a user gives them: a farm, loads against it, the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hltfarm.service.api import FarmApi
from hltfarm.service.farm_process import farm_process, free_ports, watcher

COMMAND = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()"]
READY_S = 60.0


def hltfarm(*arguments: str, timeout: float = 90.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


@dataclass(frozen=True)
class Farm:
    """A farm of the module's tests."""

    ingest: str
    api: FarmApi


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    http, clients = free_ports(2)
    ingest, log = f"tcp://127.0.0.1:{clients}", folder / "farm.log"
    arguments = ["--http", f"127.0.0.1:{http}", "--ingest", ingest, "--backend", "cpu", "--threads", "1", "--data", str(folder)]
    with farm_process(arguments, log) as process, FarmApi(f"http://127.0.0.1:{http}") as api:
        api.wait_ready(READY_S, watcher(process, log))
        yield Farm(ingest, api)
    assert process.returncode == 0, log.read_text()


def settled(farm: Farm, received: int) -> dict[str, int]:
    """The ledger once it has so many events and none in flight: what the API tells may be 0.1 s old."""
    while True:
        ledger: dict[str, int] = farm.api.status()["ledger"]
        if ledger["received"] >= received and ledger["in_flight"] == 0:
            return ledger


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        (["--rate", "max", "--events", "40", "--connections", "1"], None),
        (["--rate", "20", "--duration", "2", "--connections", "3"], 20.0),
        (["--rate", "20", "--events", "30", "--connections", "2", "--arrival", "poisson", "--seed", "4"], 20.0),
    ],
)
def test_load(farm: Farm, demo_sample: Path, tmp_path: Path, options: list[str], rate: float | None) -> None:
    before = settled(farm, 0)
    path = tmp_path / "report.json"
    result = hltfarm("load", "--ingest", farm.ingest, "--source", str(demo_sample), "--report", str(path), *options)
    assert result.returncode == 0, result.stderr + result.stdout
    assert "accounting closed" in result.stdout
    report = json.loads(path.read_text())
    after = settled(farm, before["received"] + report["sent"])
    assert after["received"] - before["received"] == report["sent"] == report["offered"]
    for name in ("accepted", "rejected", "error"):
        assert after[name] - before[name] == report["decisions"][name]
    assert report["rate_hz"] == rate
    assert report["irreproducible"] == 0
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]


def test_metrics_agree_with_the_status(farm: Farm, demo_sample: Path) -> None:
    assert hltfarm("load", "--ingest", farm.ingest, "--source", str(demo_sample), "--events", "10").returncode == 0
    settled(farm, 10)
    totals, metrics = farm.api.status()["totals"], farm.api.metrics()
    assert metrics["hlt_events_received_total"] == totals["received"] > 0
    assert metrics["hlt_accounting_mismatch_events"] == 0
    assert metrics["hlt_events_inflight"] == 0


def test_load_without_a_farm(demo_sample: Path) -> None:
    (port,) = free_ports(1)
    result = hltfarm("load", "--ingest", f"tcp://127.0.0.1:{port}", "--source", str(demo_sample), "--events", "1", "--wait", "0.5")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"tcp://127.0.0.1:{port}" in result.stderr


def test_interrupted_load_is_quiet(farm: Farm, demo_sample: Path) -> None:
    arguments = ["load", "--ingest", farm.ingest, "--source", str(demo_sample), "--rate", "5", "--duration", "600"]
    received = farm.api.status()["ledger"]["received"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        farm.api.wait_ready(READY_S)
        while farm.api.status()["ledger"]["received"] == received:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (output, errors) == ("", "")


def test_a_killed_worker_costs_no_event(farm: Farm, demo_sample: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a load: the supervisor starts the worker again, and every event is answered once."""
    path = tmp_path / "report.json"
    arguments = ["load", "--ingest", farm.ingest, "--source", str(demo_sample), "--rate", "30", "--events", "90", "--report", str(path)]
    received = farm.api.status()["ledger"]["received"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while farm.api.status()["ledger"]["received"] < received + 10:
            assert process.poll() is None
        (worker,) = farm.api.workers()
        os.kill(worker["process"]["pid"], signal.SIGKILL)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors + output
    report = json.loads(path.read_text())
    assert report["closed"] is True
    assert sum(report["decisions"].values()) == 90
    assert report["irreproducible"] == 0
    farm.api.wait_ready(READY_S)
    (worker,) = farm.api.workers()
    assert worker["restarts"] == 1


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo.json"
    result = hltfarm("demo", "--out", str(out), "--seconds", "5", "--backend", "cpu")
    assert result.returncode == 0, result.stderr + result.stdout
    values = json.loads(out.read_text())
    ledger = values["ledger"]
    assert set(ledger) == {"received", "accepted", "rejected", "error", "in_flight"}
    assert ledger["accepted"] > 0 < ledger["rejected"]
    assert ledger["received"] == ledger["accepted"] + ledger["rejected"] + ledger["error"] + ledger["in_flight"] > 0
    assert ledger["in_flight"] == 0
    assert values["events_per_second"] > 0
    assert set(values["latency_ms"]) == {"p50", "p99", "p999"}
    assert values["closed"] is True


def test_demo_of_a_sample_that_is_not_there(tmp_path: Path) -> None:
    result = hltfarm("demo", "--out", str(tmp_path / "demo.json"), "--source", str(tmp_path / "none.hlt"))
    assert result.returncode == 2
    assert result.stderr.startswith("hltfarm: error: ")
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
