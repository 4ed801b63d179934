"""A real worker sends its traces to a collector, and ends in time when there is none."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.events import RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.wire import Outcome
from hltfarm.service.supervisor.specs import HLTFARM
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"


class Collector:
    """OTLP over HTTP, as far as a trace needs it: the requests that came, decoded."""

    def __init__(self) -> None:
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                requests.put((self.path, request))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self.requests = requests
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path, limits=Limits(), canary_s=0.0, worker_timeout_s=10.0, worker_heartbeat_s=0.5)
    yield farm
    farm.close()


def log_of_worker(farm: Farm, otlp: str) -> bytes:
    """What a worker that traces every batch has logged, when it has decided six events and was told to end."""
    worker = ("worker", "--ingest", farm.settings.workers_url, "--name", "w0", "--backend", "cpu", "--threads", "1", "--batch", "2")
    process = subprocess.Popen((*HLTFARM, *worker, "--otlp", otlp, "--otlp-share", "1"), stderr=subprocess.PIPE)
    farm.workers["w0"] = process
    farm.command("configure", config=RunConfig(run=RUN))
    farm.command("start")
    farm.wait(lambda snapshot: any(worker.ready for worker in snapshot.workers))
    sample = Sample(DEMO)
    with farm.client() as client:
        client.wait_open(DEADLINE_S)
        for i in range(6):
            client.send(RawEvent(sample[i].id._replace(run=RUN), sample[i].payload), timeout=DEADLINE_S)
        decisions = client.flush(DEADLINE_S)
    assert {decision.outcome for decision in decisions} <= {Outcome.ACCEPT, Outcome.REJECT}
    assert len(decisions) == 6
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, log
    return log


def test_every_batch_arrives_at_the_collector(farm: Farm, collector: Collector) -> None:
    log_of_worker(farm, collector.url)
    found = []
    while not collector.requests.empty():
        path, request = collector.requests.get()
        assert path == "/v1/traces"
        found += [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
        names = {attribute.key: attribute.value.string_value for attribute in request.resource_spans[0].resource.attributes}
        assert (names["service.name"], names["service.instance.id"]) == ("hltfarm-worker", "w0")
    batches = [span for span in found if span.name == "batch"]
    events = [attribute.value.int_value for span in batches for attribute in span.attributes if attribute.key == "hltfarm.events"]
    assert sum(events) == 6
    assert all(span.start_time_unix_nano < span.end_time_unix_nano for span in batches)
    names_of_first = {span.name for span in found if span.trace_id == batches[0].trace_id}
    assert {"batch", "wait", "queue", "reconstruct", "report", "unpack", "tracks", "vertices"} <= names_of_first


def test_a_collector_that_is_not_there_costs_traces_only(farm: Farm) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port, and it refuses
        taken.bind(("127.0.0.1", 0))
        log = log_of_worker(farm, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert b"Traceback" not in log
