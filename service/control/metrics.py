"""All metrics of the farm, in one place.

Naming rule: `hlt_` + what + base unit (`_seconds`, `_bytes`, `_events`), counters end in `_total`; labels name parts of the
farm (worker, stage, path, stream, cause), never an event or a run. Labels exist from the first scrape, so that rates and
dashboards work before the first event.

The ingests own the numbers and ship them as a `Snapshot`; this process owns the registry. A scrape asks for a fresh snapshot
(see `Monitor.fresh`), and `farm_families` translates it. While no ingest answers, the numbers that come from ingests are
absent rather than stale; `hlt_ingest_up` and `hlt_run_state` stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hltfarm.proto.errors import WireCode
from hltfarm.proto.messages import Histogram, RunState, Shadow, Snapshot, models_text
from hltfarm.service.control.link import FarmView

DECISIONS = ("accept", "reject", "error")
SHADOW_CELLS = (("accept", "accept"), ("accept", "reject"), ("reject", "accept"), ("reject", "reject"))  # as Shadow.matrix
SHADOW_SIDES = ("both", "active_only", "shadow_only")  # as Shadow.paths
_MODEL = ("model", "engine", "working_point")
REFUSALS = (401, 403, 413)  # there from the first scrape; others come as they are met


@dataclass(frozen=True, slots=True)
class Supervised:
    """What the supervisor of this process adds: restarts by worker name, and how many workers it took out of service."""

    restarts: Mapping[str, int]
    quarantined: int


@dataclass(frozen=True, slots=True)
class ControlNumbers:
    """What the control plane knows by itself.

    `started`: seconds since 1970; the rest by command, by endpoint of the ingest and by HTTP status.
    """

    started: float
    ready: bool
    transitions_failed: Mapping[str, int]
    ingest_restarts: Mapping[str, int]
    http_refused: Mapping[int, int]
    problems: int = 0
    registry_up: bool = True
    registry_waiting: int = 0
    registry_lost: int = 0


@dataclass(frozen=True, slots=True)
class MetricsInput:
    """Everything one scrape is made of. `supervised` is None where workers are run by something else (containers)."""

    view: FarmView
    version: str
    supervised: Supervised | None
    control: ControlNumbers


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family


def _counters(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative buckets as Prometheus wants them; the last one is +Inf."""
    result, total = [], 0
    for bound, count in zip([*(repr(float(b)) for b in histogram.bounds), "+Inf"], histogram.counts, strict=True):
        total += count
        result.append((bound, float(total)))
    return result


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=buckets(histogram), sum_value=histogram.sum)


def farm_families(given: MetricsInput) -> Iterator[Metric]:
    """The metric families of one scrape."""
    view, snapshot = given.view, given.view.snapshot
    yield from _control(given)
    yield from _ingests(view)
    yield from _outputs(view)
    if given.supervised is not None or snapshot is not None:
        yield _gauge(
            "hlt_workers_quarantined",
            "Workers taken out of service after repeated exits, or by an operator.",
            _quarantined(snapshot, given.supervised),
        )
    if snapshot is not None:
        answering = [ingest.snapshot for ingest in view.ingests if ingest.snapshot is not None]
        yield from _accounting(snapshot, sum(abs(part.totals.mismatch) for part in (*answering, *view.books)))
        yield from _flow(snapshot)
        yield from _sessions(snapshot)
        yield from _workers(snapshot, given.supervised)
        yield from _selection(snapshot)
        yield from _times(snapshot)


def _control(given: MetricsInput) -> Iterator[Metric]:
    view, snapshot, control = given.view, given.view.snapshot, given.control
    yield _gauge("hlt_start_time_seconds", "When the control plane started, seconds since 1970.", control.started)
    yield _gauge("hlt_ready", "1 if the farm can be given events (as /v2/health/ready), else 0.", float(control.ready))
    yield _gauges(
        "hlt_run_state", "1 for the present run state, 0 for the others.", "state", ((s, float(s is view.state)) for s in RunState)
    )
    config = GaugeMetricFamily("hlt_config_info", "1; the labels tell the configuration.", labels=["menu", "model", "version"])
    model = models_text(snapshot.models) if snapshot and snapshot.run is not None and snapshot.menu_hash else ""
    config.add_metric([snapshot.menu_hash if snapshot else "", model, given.version], 1.0)
    yield config
    models = GaugeMetricFamily("hlt_model_info", "1; a model that takes part in the decision.", labels=["target", *_MODEL])
    for part in snapshot.models if snapshot is not None and model else ():
        models.add_metric([part.target, part.label, part.engine, part.working_point], 1.0)
    yield models
    yield _gauge("hlt_problems", "Problems that the status names.", control.problems)
    yield _gauge("hlt_registry_up", "1 if the run registry takes what is written, else 0.", float(control.registry_up))
    yield _gauge("hlt_registry_waiting_entries", "Entries that wait to be written to the run registry.", control.registry_waiting)
    yield _counter(
        "hlt_registry_lost_entries_total", "Entries that the run registry never got; they are in the log.", control.registry_lost
    )
    yield _counters(
        "hlt_transitions_failed_total", "Long commands that failed or took too long.", "command", control.transitions_failed.items()
    )
    statuses = dict.fromkeys(REFUSALS, 0) | dict(control.http_refused)
    yield _counters(
        "hlt_http_refused_total", "HTTP requests refused before they were looked at, by status.", "status",
        ((str(int(status)), count) for status, count in statuses.items()),
    )  # fmt: skip
    yield _counters(
        "hlt_ingest_restarts_total", "Times that an ingest came back as a new process.", "ingest", control.ingest_restarts.items()
    )


def _ingests(view: FarmView) -> Iterator[Metric]:
    """What is told of each ingest by itself, under its control endpoint."""
    answering = [(ingest.endpoint, ingest.snapshot) for ingest in view.ingests if ingest.snapshot is not None]
    yield _gauges(
        "hlt_ingest_up",
        "1 if the ingest answered the control plane, else 0.",
        "ingest",
        ((ingest.endpoint, float(ingest.snapshot is not None)) for ingest in view.ingests),
    )
    yield _gauges("hlt_ingest_start_time_seconds", "When the ingest started, since 1970.", "ingest", ((e, s.started) for e, s in answering))
    for place, name, text in ((0, "free", "Room left"), (1, "size", "Size")):
        family = GaugeMetricFamily(f"hlt_disk_{name}_bytes", f"{text} on the disk of what an ingest writes.", labels=["ingest", "folder"])
        for endpoint, s in answering:
            for folder, numbers in s.disks.items():
                family.add_metric([endpoint, folder], numbers[place])
        yield family


def _outputs(view: FarmView) -> Iterator[Metric]:
    """What each ingest tells of its output, under its control endpoint; consumers over all ingests."""
    found = [(ingest.endpoint, output) for ingest in view.ingests if ingest.snapshot is not None for output in ingest.snapshot.outputs]
    for field, kind, name, text in _OUTPUT:
        family = kind(name, text, labels=["ingest"])
        for endpoint, output in found:
            family.add_metric([endpoint], getattr(output, field))
        yield family
    for field, kind, name, text in _CONSUMER:
        family = kind(name, text, labels=["ingest", "consumer"])
        for endpoint, output in found:
            for consumer in output.consumers:
                family.add_metric([endpoint, consumer.name], float(getattr(consumer, field)))
        yield family


_Family = type[CounterMetricFamily] | type[GaugeMetricFamily]
#: Field of OutputStatus, type, name, text.
_OUTPUT: tuple[tuple[str, _Family, str, str], ...] = (
    ("waiting_events", GaugeMetricFamily, "hlt_output_waiting_events", "Accepted events that wait for a file or a consumer."),
    ("open_files", GaugeMetricFamily, "hlt_output_open_files", "Output files that are being written."),
    ("free_bytes", GaugeMetricFamily, "hlt_output_free_bytes", "Room on the disk of the output files; -1 where there are none."),
    ("closed_files", CounterMetricFamily, "hlt_output_files_total", "Output files that were closed."),
    ("closed_bytes", CounterMetricFamily, "hlt_output_bytes_total", "Bytes of the output files that were closed."),
    ("fsyncs", CounterMetricFamily, "hlt_output_fsyncs_total", "Times that the output was forced to the medium."),
    ("removed_bytes", CounterMetricFamily, "hlt_output_removed_bytes_total", "Bytes of old output files that --output-keep removed."),
    ("recovered_events", CounterMetricFamily, "hlt_output_recovered_events_total", "Events in files that a dead ingest had left open."),
)
#: Field of ConsumerStatus, type, name, text.
_CONSUMER: tuple[tuple[str, _Family, str, str], ...] = (
    ("present", GaugeMetricFamily, "hlt_consumer_up", "1 if the consumer of the output stream is there, else 0."),
    ("waiting", GaugeMetricFamily, "hlt_consumer_waiting_events", "Events that are kept in flight for the consumer."),
    ("sent", CounterMetricFamily, "hlt_consumer_events_total", "Events sent to the consumer."),
    ("missed", CounterMetricFamily, "hlt_consumer_missed_events_total", "Events that the consumer had no credit for, in its session."),
)


def _accounting(s: Snapshot, mismatch: int) -> Iterator[Metric]:
    totals = s.totals
    yield _counter("hlt_events_received_total", "Events entered in the ledger since the ingest started.", totals.received)
    decided = zip(DECISIONS, (totals.accepted, totals.rejected, totals.error), strict=True)
    yield _counters(
        "hlt_events_decided_total", "Events decided, by decision; error: force-accepted to the error stream.", "decision", decided
    )
    yield _counters("hlt_events_failed_total", "Events sent to the error stream, by reason.", "reason", s.failures.items())
    yield _counter("hlt_events_duplicate_total", "Resent events that the ledger recognised; not part of received.", totals.duplicates)
    yield _gauge("hlt_events_inflight", "Events received and not yet decided.", totals.in_flight)
    yield _gauge(
        "hlt_accounting_mismatch_events",
        "received - accepted - rejected - error - in flight, its amount added up over the ingests; anything but 0 is a loss.",
        mismatch,
    )
    yield _gauge("hlt_last_decision_timestamp_seconds", "When an event was decided last, since 1970; 0 before the first.", s.last_decision)
    yield _gauge("hlt_run_number", "Number of the present or last run, 0 before the first.", s.run or 0)
    yield _gauge("hlt_lumisection", "Highest lumisection of the run so far, 0 before the first event.", s.lumi)


def _flow(s: Snapshot) -> Iterator[Metric]:
    yield _counter("hlt_ingest_bytes_total", "Payload bytes received.", s.ingest_bytes)
    refused = {code.name: 0 for code in WireCode} | s.frames_refused
    yield _counters("hlt_frames_refused_total", "Client frames refused, by wire error code.", "code", refused.items())
    yield _gauges("hlt_queue_depth", "Events that wait in front of a stage.", "stage", [("dispatch", s.queue_events)])
    yield _gauge("hlt_suspect_events", "Events of failed batches and lost workers that wait to be tried again.", s.info.get("suspects", 0))
    yield _gauge("hlt_error_stream_waiting_events", "Events that the error stream could not write yet.", s.info.get("stranded", 0))
    yield _gauge("hlt_slots_free", "Free slots of the shared-memory ring.", s.slots_free)
    yield _gauge("hlt_slots", "Slots of the shared-memory ring.", s.slots_total)
    yield _counters(
        "hlt_backpressure_seconds_total", "Time without credit to give to clients, by cause.", "cause", s.backpressure_seconds.items()
    )
    yield _counter(
        "hlt_stale_answers_total", "Answers of workers for events that had been given to others.", s.info.get("stale_answers", 0)
    )


def _sessions(s: Snapshot) -> Iterator[Metric]:
    yield _gauge("hlt_clients", "Connected data sources.", s.clients)
    yield _gauge("hlt_licensed_events", "Events that clients may still send on the credit they hold.", s.info.get("reserved_events", 0))
    yield _counter("hlt_lost_sessions_total", "Sessions closed because the client was silent or gone.", s.info.get("lost_sessions", 0))
    yield _counter("hlt_columns_sent_total", "Decisions sent with the columns that were asked for.", s.info.get("columns_sent", 0))
    yield _counter("hlt_columns_left_out_total", "Decisions sent without columns that were asked for.", s.info.get("columns_left_out", 0))


def _resources(s: Snapshot) -> Iterator[Metric]:
    told = [(worker, worker.resources) for worker in s.workers if worker.up and worker.resources is not None]
    yield _gauges(
        "hlt_worker_resident_bytes", "Memory of a worker process, with the pages of slot rings that it has touched.", "worker",
        ((worker.name, used.resident_bytes) for worker, used in told),
    )  # fmt: skip
    gpus = {f"{worker.host}:{used.gpu.index}": used.gpu for worker, used in told if used.gpu is not None}  # workers may share one
    yield _gauges(
        "hlt_gpu_memory_used_bytes",
        "Memory of a GPU that is in use, by anybody.",
        "device",
        ((d, g.memory_used_bytes) for d, g in gpus.items()),
    )
    yield _gauges("hlt_gpu_memory_total_bytes", "Memory of a GPU.", "device", ((d, g.memory_total_bytes) for d, g in gpus.items()))
    yield _gauges(
        "hlt_gpu_utilization_ratio", "Share of the time in which a GPU computed, over the last second or so.", "device",
        ((d, g.utilization) for d, g in gpus.items()),
    )  # fmt: skip


def _workers(s: Snapshot, supervised: Supervised | None) -> Iterator[Metric]:
    up = GaugeMetricFamily("hlt_worker_up", "1 if the worker is alive, else 0.", labels=["worker", "device"])
    for worker in s.workers:
        up.add_metric([worker.name, worker.device], float(worker.up))
    yield up
    yield _gauges(
        "hlt_worker_ready", "1 if the worker is alive and has built the run's menu, else 0.", "worker",
        ((w.name, float(w.up and w.ready)) for w in s.workers),
    )  # fmt: skip
    yield from _resources(s)
    yield _gauge("hlt_workers_ready", "Workers that can take events.", sum(w.up and w.ready for w in s.workers))
    yield _gauges("hlt_credits", "Events a worker can still take.", "worker", ((w.name, w.credit_events) for w in s.workers))
    yield _gauges("hlt_worker_inflight_events", "Events that are with a worker.", "worker", ((w.name, w.in_flight) for w in s.workers))
    if s.canary_s:
        yield _gauges(
            "hlt_canary_timestamp_seconds", "When a worker reconstructed a canary event last, since 1970; 0 if it never did.", "worker",
            ((w.name, w.canary_at) for w in s.workers),
        )  # fmt: skip
        yield _counters(
            "hlt_canary_failures_total", "Canary events that a worker failed on, did not answer or answered with a wrong digest.", "worker",
            ((w.name, w.canary_failures) for w in s.workers),
        )  # fmt: skip
    yield _gauges(
        "hlt_worker_distrusted", "1 if the worker gets no events because its canary digest is wrong, else 0.", "worker",
        ((w.name, float(bool(w.distrusted))) for w in s.workers),
    )  # fmt: skip
    restarts = {w.name: w.restarts for w in s.workers} | dict(supervised.restarts if supervised else {})
    yield _counters("hlt_worker_restarts_total", "Starts of a worker process after its first.", "worker", restarts.items())
    yield _counters(
        "hlt_worker_events_total", "Events processed by a worker since it joined.", "worker", ((w.name, w.processed) for w in s.workers)
    )


def _quarantined(snapshot: Snapshot | None, supervised: Supervised | None) -> int:
    own, number = (supervised.restarts, supervised.quarantined) if supervised is not None else ({}, 0)
    workers = snapshot.workers if snapshot is not None else ()
    return number + sum(bool(worker.quarantined) and worker.name not in own for worker in workers)


def _selection(s: Snapshot) -> Iterator[Metric]:
    yield _counters("hlt_path_events_total", "Events decided by a menu that has the path.", "path", s.path_events.items())
    yield _counters("hlt_path_accepts_total", "Accepts of a trigger path after its prescale.", "path", s.path_accepts.items())
    yield _counters("hlt_path_prescaled_total", "Accepts of a trigger path that its prescale removed.", "path", s.path_prescaled.items())
    yield _counters("hlt_event_flags_total", "Events decided by a menu that had a condition.", "flag", s.event_flags.items())
    yield _counters("hlt_objects_total", "Objects reconstructed in events that a menu decided, by kind.", "kind", s.objects.items())
    shadow = GaugeMetricFamily("hlt_shadow_events", "Events of the present shadow, by both decisions.", labels=["active", "shadow"])
    for pair, count in zip(SHADOW_CELLS, s.shadow.matrix if s.shadow is not None else (0, 0, 0, 0), strict=True):
        shadow.add_metric(pair, count)
    yield shadow
    yield from _shadow(s.shadow)
    yield _counters("hlt_stream_events_total", "Events sent to an output stream.", "stream", s.stream_events.items())
    yield _counters("hlt_stream_bytes_total", "Payload bytes of events sent to an output stream.", "stream", s.stream_bytes.items())


def _shadow(shadow: Shadow | None) -> Iterator[Metric]:
    """What is there of a shadow beside its matrix."""
    asked, failed = (shadow.fraction, shadow.failed) if shadow is not None else (0.0, 0)
    yield _gauge("hlt_shadow_fraction", "Share of the events that the present shadow decides, 0 without one.", asked)
    yield _gauge("hlt_shadow_failed_events", "Events that the present shadow could not process.", failed)
    paths = GaugeMetricFamily(
        "hlt_shadow_path_events", "Accepts of a path in the events of the shadow, by who.", labels=["path", "accepted_by"]
    )
    for path, counts in shadow.paths.items() if shadow is not None else ():
        for side, count in zip(SHADOW_SIDES, counts, strict=True):
            paths.add_metric([path, side], count)
    yield paths


def _times(s: Snapshot) -> Iterator[Metric]:
    yield _histogram("hlt_event_latency_seconds", "Time from receipt to decision of an event, in the ingest.", s.event_latency)
    yield _histogram("hlt_batch_events", "Events per batch.", s.batch_events)
    stages = HistogramMetricFamily("hlt_stage_duration_seconds", "Time of one batch in a stage.", labels=["stage"])
    for stage, histogram in s.stage_duration.items():
        stages.add_metric([stage], buckets(histogram), histogram.sum)
    yield stages


class FarmCollector(Collector):
    """Hands the registry what `source` says at the moment of the scrape."""

    def __init__(self, source: Callable[[], MetricsInput]) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        """Nothing is known before the first scrape; this keeps registration from collecting."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of this scrape."""
        return farm_families(self._source())


def registry_of(source: Callable[[], MetricsInput]) -> CollectorRegistry:
    """A registry of its own for one control app."""
    registry = CollectorRegistry()
    registry.register(FarmCollector(source))
    return registry
