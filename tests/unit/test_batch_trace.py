"""Traces of batches: the spans that times make, which batches are traced, what OpenTelemetry gets, and when it is asked at all."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from hltfarm.proto.errors import ConfigError
from hltfarm.service.cli.trace_options import trace_settings
from hltfarm.workers.batch_trace import BatchTimes, Share, SpanTimes, TraceSettings, spans
from hltfarm.workers.batching import Batcher
from hltfarm.workers.engine import Engine, Finished
from hltfarm.workers.tracing import Tracing
from tests.unit.test_engine import Bench

TIMES: dict[str, Any] = {
    "arrived": 10.0,
    "given": 10.5,
    "begin": 11.0,
    "end": 13.0,
    "events": 3,
    "payload_bytes": 300,
    "runs": (7,),
    "generations": (1, 2),
    "backend": "cpu",
    "device": "cpu:2",
    "stage_seconds": {"unpack": 0.5, "fit": 1.0},
}


def by_name(span: SpanTimes) -> dict[str, tuple[float, float]]:
    return {child.name: (child.begin, child.end) for child in span.children}


def test_the_times_of_a_batch_are_a_tree_without_gaps() -> None:
    root = spans(BatchTimes(**TIMES), 13.25)
    assert (root.name, root.begin, root.end, root.error) == ("batch", 10.0, 13.25, None)
    assert by_name(root) == {"wait": (10.0, 10.5), "queue": (10.5, 11.0), "reconstruct": (11.0, 13.0), "report": (13.0, 13.25)}
    assert by_name(root.children[2]) == {"unpack": (11.0, 11.5), "fit": (11.5, 12.5)}
    assert root.attributes == {
        "hltfarm.events": 3,
        "hltfarm.payload_bytes": 300,
        "hltfarm.runs": (7,),
        "hltfarm.generations": (1, 2),
        "hltfarm.backend": "cpu",
        "hltfarm.device": "cpu:2",
    }


def test_stages_of_several_threads_are_shortened_to_the_batch() -> None:
    root = spans(BatchTimes(**TIMES | {"stage_seconds": {"unpack": 2.0, "fit": 6.0}}), 14.0)
    stages = root.children[2].children
    assert by_name(root.children[2]) == {"unpack": (11.0, 11.5), "fit": (11.5, 13.0)}
    assert [stage.attributes["hltfarm.seconds"] for stage in stages] == [2.0, 6.0]
    assert spans(BatchTimes(**TIMES | {"stage_seconds": {}}), 14.0).children[2].children == ()


@pytest.mark.parametrize(("share", "taken"), [(1.0, 100), (0.25, 25), (0.01, 1), (0.0, 1)])
def test_a_share_is_taken_evenly_and_the_first_always(share: float, taken: int) -> None:
    chosen = Share(share)
    picked = [n for n in range(100) if chosen.take()]
    assert picked[0] == 0
    assert len(picked) == taken
    assert {b - a for a, b in pairwise(picked)} <= {round(1 / share) if share else 0}


class Collected:
    """Tracing into memory."""

    def __init__(self, share: float = 1.0) -> None:
        self.memory = InMemorySpanExporter()
        self.tracing = Tracing(TraceSettings(url="", share=share), "w0", SimpleSpanProcessor(self.memory))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.memory.get_finished_spans()}


@pytest.fixture
def collected() -> Collected:
    return Collected()


def test_a_batch_is_one_trace_with_times_of_the_calendar(collected: Collected) -> None:
    collected.tracing.batch(BatchTimes(**TIMES), 13.25)
    found = collected.spans
    assert set(found) == {"batch", "wait", "queue", "reconstruct", "unpack", "fit", "report"}
    root = found["batch"]
    assert root.parent is None
    assert len({span.context.trace_id for span in found.values() if span.context is not None}) == 1
    for name, parent in [("wait", "batch"), ("reconstruct", "batch"), ("fit", "reconstruct"), ("report", "batch")]:
        above, context = found[name].parent, found[parent].context
        assert above is not None
        assert context is not None
        assert above.span_id == context.span_id
    assert root.start_time is not None
    assert root.end_time is not None
    assert root.end_time - root.start_time == 3_250_000_000
    assert abs((time.time() - time.monotonic() + 10.0) * 1e9 - root.start_time) < 1e9
    assert root.attributes is not None
    assert (root.attributes["hltfarm.events"], root.attributes["hltfarm.generations"]) == (3, (1, 2))
    assert dict(root.resource.attributes) | {"service.name": "hltfarm-worker", "service.instance.id": "w0"} == dict(
        root.resource.attributes
    )


def test_a_failed_batch_is_traced_whatever_the_share() -> None:
    collected = Collected(share=0.0)
    collected.tracing.batch(BatchTimes(**TIMES), 13.25)  # the first one
    collected.tracing.batch(BatchTimes(**TIMES), 13.25)
    collected.tracing.batch(BatchTimes(**TIMES | {"error": "RuntimeError: no"}), 13.25)
    good, bad = [span for span in collected.memory.get_finished_spans() if span.name == "batch"]
    assert good.status.status_code is StatusCode.UNSET
    assert (bad.status.status_code, bad.status.description) == (StatusCode.ERROR, "RuntimeError: no")


def test_the_name_of_the_service_can_be_given_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "trigger")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "site=p5")
    collected = Collected()
    collected.tracing.batch(BatchTimes(**TIMES), 13.25)
    attributes = collected.spans["batch"].resource.attributes
    assert (attributes["service.name"], attributes["site"]) == ("trigger", "p5")


def test_the_engine_notes_the_times_of_its_batches(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.engine.close(5.0)
    bench.engine = Engine(bench._build, bench._told.release, threads=1, note_times=True)
    try:
        bench.configure(0, bench.view(0))
        before = time.monotonic()
        bench.engine.run([bench.event(0, 5), bench.event(0, 6)], before - 1.0)
        outcome = bench.outcome()
        assert isinstance(outcome, Finished)
        times = outcome.times
        assert times is not None
        assert times.arrived == before - 1.0
        assert before <= times.given <= times.begin <= times.end <= time.monotonic()
        assert (times.events, times.payload_bytes, times.runs, times.generations) == (2, 16, (1,), (1,))
        assert (times.backend, times.device, times.stage_seconds, times.error) == ("fake", "fake", {"unpack": 1.0}, None)
        bench.built[0].broken.add(1)
        failed = bench.run(bench.event(0, 7))
        assert failed.times is not None
        assert failed.times.error == "ValueError: a model that cannot compute this"
        assert np.array_equal(failed.answers[0].records["ticket"], [7])
    finally:
        bench.engine.close(5.0)
        for ring in bench.rings:
            ring.close()


def test_the_batcher_knows_when_the_oldest_came() -> None:
    batcher: Batcher[int] = Batcher(2, 100, 1.0)
    for n in range(3):
        batcher.add(n, 1, 10.0 + n)
    assert (batcher.take(20.0), batcher.oldest) == ([0, 1], 10.0)
    assert (batcher.take(20.0), batcher.oldest) == ([2], 12.0)
    batcher.add_alone([3])
    assert (batcher.take(21.0), batcher.oldest) == ([3], 21.0)


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        (None, {}, None),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("https://c/own/path", {}, "https://c/own/path"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, ""),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, ""),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
    ],
)
def test_where_traces_go(url: str | None, environment: dict[str, str], expected: str | None) -> None:
    settings = trace_settings(url, 0.5, environment)
    assert settings == (None if expected is None else TraceSettings(url=expected, share=0.5))


@pytest.mark.parametrize("url", ["collector:4318", "grpc://c:4317", "http://", "http://c:99999", "http://[c"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="give the address of a collector"):
        trace_settings(url, 1.0, {})


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    for name in [name for name in sys.modules if name.startswith("opentelemetry.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"install hltfarm\[otel\]"):
        trace_settings("http://c:4318", 1.0, {})
    assert trace_settings(None, 1.0, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}) is None
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed" in caplog.text


def test_a_worker_without_traces_never_loads_opentelemetry() -> None:
    code = (
        "import sys\n"
        "from hltfarm.workers.process import Worker, WorkerSettings\n"
        "from hltfarm.service.cli import build_app\n"
        "build_app()\n"
        "worker = Worker(WorkerSettings(name='w', ingests=('inproc://none',)), None)\n"
        "worker.close()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]"
