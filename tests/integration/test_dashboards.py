"""Every query of every Grafana dashboard, sent to a real Prometheus that scrapes a real farm under load, returns data.

The farm has several paths, a prescale, a shadow, a consumer, a worker that is killed, one that tells of a GPU, and an event that fails
everywhere. `pytest -s` prints the table: dashboard, panel, query, number of series.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hltfarm.loadgen.source import read_events
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.api import FarmApi
from hltfarm.service.client import Client
from hltfarm.service.consumer import Consumer
from hltfarm.service.farm_process import LOOPBACK, farm_process, free_ports, watcher
from hltfarm.workers.faults import VARIABLE, Act, Order, give
from tests.integration.prometheus_server import PROGRAM, Prometheus, chosen, prometheus_of, substituted

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
GPU_WORKER = Path(__file__).with_name("gpu_worker.py")
WAIT_S = 60.0
UNDER_WAY = 16
LUMISECTION = 50
FAILS = 77  # an event that no worker can process
MENU = (
    "version: 1\nname: first\npaths:\n"
    "  - {name: HLT_Hard, stream: physics, require: {vertex_ht: {min: 150}}}\n"
    "  - {name: HLT_Prescaled, stream: monitor, prescale: 3, require: {tracks: {min: 1}}}\n"
    "  - {name: HLT_Many, stream: physics, require: {tracks: {min: 280}}}\n"
)
SHADOW = MENU.replace("min: 150", "min: 100")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no prometheus (Debian package prometheus)")


def in_thread(work: Callable[[threading.Event], None], name: str) -> Callable[[], None]:
    """Start `work`, which returns when its event is set; a function that sets it and raises what went wrong."""
    end, faults = threading.Event(), list[BaseException]()

    def guarded() -> None:
        try:
            work(end)
        except BaseException as fault:  # told in the test's thread
            faults.append(fault)

    thread = threading.Thread(target=guarded, name=name)
    thread.start()

    def finish() -> None:
        end.set()
        thread.join(WAIT_S)
        if faults:
            raise faults[0]

    return finish


def feed(url: str, run: int, sample: Path, sent: list[int]) -> Callable[[threading.Event], None]:
    """A source that keeps the farm busy; `sent` has the number of events in the end."""

    def work(end: threading.Event) -> None:
        payloads, number = read_events(sample), 0
        with Client(url) as client:
            client.wait_open(WAIT_S)
            while not end.is_set():
                if client.unacknowledged < UNDER_WAY:
                    number += 1
                    event = RawEvent(EventId(run, 1 + number // LUMISECTION, number), payloads[number % len(payloads)].payload)
                    client.send(event, timeout=WAIT_S, want_columns=number % 10 == 0)
                client.poll(0.05 if client.unacknowledged >= UNDER_WAY else 0.0)
            client.flush(WAIT_S)
        sent.append(number)

    return work


def consume(url: str) -> Callable[[threading.Event], None]:
    """A monitor of the output stream."""

    def work(end: threading.Event) -> None:
        with Consumer(url, "dqm") as consumer:
            while not end.is_set():
                consumer.poll(0.1)

    return work


@dataclass(frozen=True, slots=True)
class Watched:
    """A farm under load and the Prometheus that watches it. `finish`: ends the load; the number of events sent."""

    farm: FarmApi
    prometheus: Prometheus
    finish: Callable[[], int]


@pytest.fixture(scope="module")
def watched(demo_sample_file: Path) -> Iterator[Watched]:
    with tempfile.TemporaryDirectory(prefix="boards-") as name:  # a short path: local sockets have names of at most 107 bytes
        folder = Path(name)
        http, door, output, port = free_ports(4)
        faults = folder / "faults.json"
        give(faults, [Order(number=1, act=Act.FAIL, events=(FAILS,))])
        environment = {VARIABLE: str(faults), "TMPDIR": name}
        url = f"http://{LOOPBACK}:{http}"
        arguments = [*("--http", f"{LOOPBACK}:{http}"), *("--ingest", f"tcp://{LOOPBACK}:{door}"), *("--data", str(folder / "data"))]
        arguments += ["--backend", "cpu", "--workers", "2", "--threads", "1", "--batch", "8", "--no-autostart"]
        arguments += ["--output-url", f"tcp://{LOOPBACK}:{output}"]
        log = folder / "serve.log"
        with farm_process(arguments, log, environment) as process, prometheus_of(f"{LOOPBACK}:{http}", port, folder) as prometheus:
            check = watcher(process, log)
            with FarmApi(url, token="") as farm:
                until(lambda: prometheus.instant("hlt_run_number == 0"), check)
                (ring,) = folder.glob("hltfarm-*")
                ingest = f"ipc://{ring / 'ingest-workers.sock'}"
                options = ["worker", "--ingest", ingest, "--name", "worker-gpu", "--backend", "cpu", "--threads", "1"]
                command = [sys.executable, str(GPU_WORKER), *options]
                with (folder / "gpu.log").open("w") as gpu_log:
                    gpu = subprocess.Popen(command, stdout=gpu_log, stderr=gpu_log, env={**os.environ, **environment})
                try:
                    yield from under_load(farm, prometheus, check, door, output, demo_sample_file)
                finally:
                    gpu.terminate()
                    gpu.wait(WAIT_S)


def until(condition: Callable[[], Any], check: Callable[[], None]) -> None:
    """Wait until there is something."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        check()
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)  # the interval of asking


def under_load(farm: FarmApi, prometheus: Prometheus, check: Callable[[], None], door: int, output: int, sample: Path) -> Iterator[Watched]:
    """Start a run and the load, and let happen what the dashboards are to show."""
    farm.command("configure", WAIT_S, menu=MENU)
    farm.command("start", WAIT_S)
    until(lambda: farm.status()["workers_ready"] == 3, check)
    farm.ask("PUT", "/v1/shadow", {"menu": SHADOW, "fraction": 0.5})
    sent: list[int] = []
    ends = [
        in_thread(feed(f"tcp://{LOOPBACK}:{door}", farm.status()["run"], sample, sent), "source"),
        in_thread(consume(f"tcp://{LOOPBACK}:{output}"), "consumer"),
    ]

    def finish() -> int:
        while ends:
            ends.pop(0)()
        return sent[0]

    try:
        until(lambda: farm.status()["ledger"]["received"] > FAILS, check)
        farm.follow(farm.ask("POST", "/v1/workers/worker-1/restart", now=True), WAIT_S)
        yield Watched(farm, prometheus, finish)
    finally:
        while ends:
            ends.pop(0)()


@pytest.fixture(scope="module")
def demo_sample_file() -> Path:
    return Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"


@dataclass(frozen=True, slots=True)
class Asked:
    """An expression of a dashboard, with its variables in it. `instant`: only the newest value is wanted."""

    board: str
    place: str
    expr: str
    instant: bool


def variables_of(board: dict[str, Any], prometheus: Prometheus) -> dict[str, list[str]]:
    """The values of every variable of a dashboard but the data source, in their order: a later one may use those before it."""
    found: dict[str, list[str]] = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            found[variable["name"]] = prometheus.label_values(label, substituted(selector, texts(board, found)))
    return found


def texts(board: dict[str, Any], values: dict[str, list[str]]) -> dict[str, str]:
    """What stands for each variable in a query."""
    many = {variable["name"]: variable["multi"] for variable in board["templating"]["list"]}
    return {name: chosen(found, many=many[name]) for name, found in values.items() if found}


def asked(uid: str, prometheus: Prometheus) -> list[Asked]:
    """All queries of a dashboard."""
    board = BOARDS[uid]
    known = texts(board, variables_of(board, prometheus))
    found = [
        Asked(uid, f"{panel['title']} / {target['refId']}", substituted(target["expr"], known), target["instant"])
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    notes = [note for note in board["annotations"]["list"] if not note.get("builtIn")]
    return found + [Asked(uid, f"annotation {note['name']}", substituted(note["expr"], known), False) for note in notes]


def answers(queries: list[Asked], prometheus: Prometheus) -> dict[Asked, int]:
    """Series of each query. Those without any are asked again for a while: events, restarts and alerts take their time to show."""
    found: dict[Asked, int] = {}
    deadline = time.monotonic() + WAIT_S
    while True:
        for query in queries:
            if not found.get(query):
                found[query] = len(prometheus.instant(query.expr) if query.instant else prometheus.range(query.expr))
        if all(found.values()) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)  # the interval of asking


def test_every_variable_has_values(watched: Watched) -> None:
    def values() -> dict[tuple[str, str], list[str]]:
        return {(uid, name): found for uid, board in BOARDS.items() for name, found in variables_of(board, watched.prometheus).items()}

    until(lambda: all(values().values()), lambda: None)
    found = values()
    assert found["hltfarm-workers", "worker"] == ["worker-0", "worker-1", "worker-gpu"]
    assert found["hltfarm-paths", "path"] == ["HLT_Hard", "HLT_Many", "HLT_Prescaled"]


def test_every_query_returns_data(watched: Watched) -> None:
    queries = [query for uid in BOARDS for query in asked(uid, watched.prometheus)]
    assert len(queries) > 150
    found = answers(queries, watched.prometheus)
    print()
    for query, count in found.items():
        print(f"| {query.board} | {query.place} | `{query.expr}` | {count} |")
    assert [query for query, count in found.items() if not count] == []


def test_what_the_panels_show_is_what_happened(watched: Watched) -> None:
    """After the load: the books of Prometheus are those of the source."""
    sent = watched.finish()
    prometheus = watched.prometheus

    def value(expr: str) -> float:
        return sum(float(series["value"][1]) for series in prometheus.instant(expr))

    until(lambda: value("hlt_events_received_total") == sent and value("hlt_events_inflight") == 0, lambda: None)
    assert value("sum(hlt_events_decided_total)") == sent
    assert value("hlt_accounting_mismatch_events") == 0
    assert value("sum(hlt_events_failed_total)") == value('hlt_events_decided_total{decision="error"}') == 1
    assert value('hlt_path_events_total{path="HLT_Hard"}') == sent - 1
    assert value('hlt_path_prescaled_total{path="HLT_Prescaled"}') > value('hlt_path_accepts_total{path="HLT_Prescaled"}') > 0
    assert value('hlt_objects_total{kind="tracks"}') > value('hlt_objects_total{kind="tracks_high_purity"}') > 0
    assert value('hlt_events_decided_total{decision="accept"}') > value('hlt_events_decided_total{decision="reject"}') > 0
    assert 0 < value("sum(hlt_shadow_events)") < sent
    assert value('hlt_shadow_events{active="reject",shadow="accept"}') > 0
    until(lambda: value("hlt_output_files_total") > 0, lambda: None)
    assert value('hlt_shadow_path_events{path="HLT_Hard",accepted_by="shadow_only"}') > 0
    assert value("sum(hlt_worker_restarts_total)") >= 1
    assert value("hlt_gpu_utilization_ratio") == 0.73
    print(f"series of the farm: {value('max(scrape_samples_scraped)'):.0f}")
    assert value("hlt_consumer_up") == 0, "it has left"
    until(lambda: value('sum(ALERTS{alertname="HltErrorStream",alertstate="firing"})') == 1, lambda: None)
