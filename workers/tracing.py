"""Batches as OpenTelemetry traces, sent to a collector over OTLP. Imported only where somebody asks for it (`hltfarm[otel]`).

A share of the batches, and every one that failed, is a trace of its own, written when the batch is done from the times that were noted on
the way (batch_trace.py). Sending is a matter of a thread of the SDK, whose queue is bounded: a collector that is slow or gone costs
traces, never events.
"""

from __future__ import annotations

import os
import threading
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from hltfarm.proto.versions import versions
from hltfarm.workers.batch_trace import BatchTimes, Share, SpanTimes, TraceSettings, spans

SERVICE = "hltfarm-worker"
EXPORT_TIMEOUT_S = 2.0  # of one request, repetitions included
SHUTDOWN_S = 3.0  # after this a worker that ends tries no more to send its last traces


class Tracing:
    """Writes traces of one worker. Not for several threads at a time."""

    def __init__(self, settings: TraceSettings, worker: str, processor: SpanProcessor | None = None) -> None:
        """processor: takes the spans, a sender to `settings.url` by default."""
        about = {"service.instance.id": worker, "service.version": versions()["hltfarm"]}
        if "OTEL_SERVICE_NAME" not in os.environ:  # which a value given here would override
            about[SERVICE_NAME] = SERVICE
        self._share = Share(settings.share)
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create(about), shutdown_on_exit=False)
        self._exporter: OTLPSpanExporter | None = None
        if processor is None:
            self._exporter = OTLPSpanExporter(endpoint=settings.url or None, timeout=EXPORT_TIMEOUT_S)
            processor = BatchSpanProcessor(self._exporter)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hltfarm")

    def batch(self, times: BatchTimes, reported: float) -> None:
        """A batch was answered at this time of the monotonic clock."""
        if self._share.take() or times.error is not None:
            self._write(spans(times, reported), None, time.time_ns() - time.monotonic_ns())

    def _write(self, planned: SpanTimes, parent: Span | None, offset_ns: int) -> None:
        context = set_span_in_context(parent) if parent is not None else None
        span = self._tracer.start_span(
            planned.name, context, attributes=dict(planned.attributes), start_time=_ns(planned.begin) + offset_ns
        )
        for child in planned.children:
            self._write(child, span, offset_ns)
        if planned.error is not None:
            span.set_status(Status(StatusCode.ERROR, planned.error))
        span.end(_ns(planned.end) + offset_ns)

    def close(self) -> None:
        """Send what is left, as far as that is quickly done."""
        impatience = threading.Timer(SHUTDOWN_S, self._exporter.shutdown) if self._exporter is not None else None
        if impatience is not None:
            impatience.start()
        self._provider.shutdown()
        if impatience is not None:
            impatience.cancel()
            impatience.join()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
