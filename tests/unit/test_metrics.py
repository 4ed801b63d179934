"""Scrapes of the real endpoint after known snapshots: every number has to arrive under its name."""

from __future__ import annotations

import asyncio
import re

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hltfarm.proto.errors import WireCode
from hltfarm.proto.messages import LedgerCounts, RunConfig, RunState, Snapshot
from hltfarm.service.control.access import AccessSettings
from hltfarm.service.control.app import create_app
from hltfarm.service.control.link import FarmView, IngestView, view_of
from hltfarm.service.control.models import ProcessModel
from hltfarm.service.control.settings import ControlSettings
from tests.unit.farm_fake import CLASSIFIER, ENDPOINT, SELECTOR, snapshot

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class FixedLink:
    """Ingests that always say the same."""

    def __init__(self, *snapshots: Snapshot | None) -> None:
        self._view = view_of([IngestView(f"{ENDPOINT}{i}", s, None if s else "gone") for i, s in enumerate(snapshots)])

    async def look(self) -> FarmView:
        return self._view

    async def command(self, op: str, config: RunConfig | None = None, worker: str | None = None) -> FarmView:
        raise NotImplementedError(op)

    async def close(self) -> None:
        return


class OneQuarantined:
    """A supervisor with two workers."""

    def processes(self) -> list[ProcessModel]:
        return [
            ProcessModel(name="ingest", role="ingest", phase="running", pid=1, restarts=9, last_exit=None),
            ProcessModel(name="w0", role="worker", phase="running", pid=2, restarts=3, last_exit="signal SIGKILL"),
            ProcessModel(name="w9", role="worker", phase="quarantined", pid=None, restarts=4, last_exit="exit code 1"),
        ]

    def release(self, name: str) -> bool:
        raise KeyError(name)


def scrape(link: FixedLink, supervisor: OneQuarantined | None = None) -> tuple[str, Samples]:
    async def get() -> str:
        app = create_app(ControlSettings(ingests=(ENDPOINT,)), link, supervisor=supervisor)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://farm") as client:
            answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.text

    text = asyncio.run(get())
    return text, {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


MODEL = "hlt_model_info"
EXPECTED: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
    ("hlt_events_received_total", ()): 1000,
    ("hlt_events_decided_total", (("decision", "accept"),)): 200,
    ("hlt_events_decided_total", (("decision", "reject"),)): 700,
    ("hlt_events_decided_total", (("decision", "error"),)): 85,
    ("hlt_events_failed_total", (("reason", "WORKER_LOST"),)): 80,
    ("hlt_events_failed_total", (("reason", "WORKER_FAILED"),)): 5,
    ("hlt_events_duplicate_total", ()): 3,
    ("hlt_events_inflight", ()): 15,
    ("hlt_accounting_mismatch_events", ()): 0,
    ("hlt_ingest_bytes_total", ()): 123_456_789,
    ("hlt_frames_refused_total", (("code", "BAD_CRC"),)): 6,
    ("hlt_frames_refused_total", (("code", "OVERSIZE"),)): 0,
    ("hlt_credits", (("worker", "w0"),)): 12,
    ("hlt_queue_depth", (("stage", "dispatch"),)): 4,
    ("hlt_slots", ()): 128,
    ("hlt_slots_free", ()): 109,
    ("hlt_clients", ()): 2,
    ("hlt_backpressure_seconds_total", (("cause", "slots"),)): 1.5,
    ("hlt_stage_duration_seconds_bucket", (("le", "0.01"), ("stage", "unpack"))): 30,
    ("hlt_stage_duration_seconds_bucket", (("le", "+Inf"), ("stage", "unpack"))): 31,
    ("hlt_stage_duration_seconds_sum", (("stage", "unpack"),)): 0.125,
    ("hlt_event_latency_seconds_bucket", (("le", "0.001"),)): 100,
    ("hlt_event_latency_seconds_bucket", (("le", "0.1"),)): 980,
    ("hlt_event_latency_seconds_count", ()): 985,
    ("hlt_event_latency_seconds_sum", ()): 6.25,
    ("hlt_batch_events_bucket", (("le", "8.0"),)): 11,
    ("hlt_batch_events_count", ()): 31,
    ("hlt_batch_events_sum", ()): 985,
    ("hlt_path_accepts_total", (("path", "HLT_A"),)): 150,
    ("hlt_path_accepts_total", (("path", "HLT_B"),)): 0,
    ("hlt_path_prescaled_total", (("path", "HLT_B"),)): 33,
    ("hlt_stream_events_total", (("stream", "error"),)): 85,
    ("hlt_stream_bytes_total", (("stream", "physics"),)): 50_000_000,
    ("hlt_worker_resident_bytes", (("worker", "w0"),)): 1001,
    ("hlt_gpu_memory_used_bytes", (("device", "node:3"),)): 1002,
    ("hlt_gpu_memory_total_bytes", (("device", "node:3"),)): 1003,
    ("hlt_gpu_utilization_ratio", (("device", "node:3"),)): 0.25,
    ("hlt_worker_up", (("device", "cpu"), ("worker", "w0"))): 1,
    ("hlt_worker_up", (("device", "cpu"), ("worker", "w1"))): 0,
    ("hlt_worker_events_total", (("worker", "w0"),)): 985,
    ("hlt_run_state", (("state", "Running"),)): 1,
    ("hlt_run_state", (("state", "Halted"),)): 0,
    ("hlt_run_number", ()): 7,
    ("hlt_lumisection", ()): 21,
    ("hlt_event_flags_total", (("flag", "HIT_OVERFLOW"),)): 61,
    ("hlt_objects_total", (("kind", "tracks"),)): 62,
    ("hlt_shadow_fraction", ()): 0.5,
    ("hlt_shadow_failed_events", ()): 38,
    ("hlt_shadow_path_events", (("accepted_by", "both"), ("path", "HLT_A"))): 35,
    ("hlt_shadow_path_events", (("accepted_by", "active_only"), ("path", "HLT_A"))): 36,
    ("hlt_shadow_path_events", (("accepted_by", "shadow_only"), ("path", "HLT_A"))): 37,
    ("hlt_shadow_events", (("active", "accept"), ("shadow", "accept"))): 31,
    ("hlt_shadow_events", (("active", "accept"), ("shadow", "reject"))): 32,
    ("hlt_shadow_events", (("active", "reject"), ("shadow", "accept"))): 33,
    ("hlt_shadow_events", (("active", "reject"), ("shadow", "reject"))): 34,
    ("hlt_worker_ready", (("worker", "w0"),)): 1,
    ("hlt_worker_ready", (("worker", "w1"),)): 0,
    ("hlt_workers_ready", ()): 1,
    ("hlt_canary_timestamp_seconds", (("worker", "w0"),)): 1_700_000_700.0,
    ("hlt_canary_timestamp_seconds", (("worker", "w1"),)): 0,
    ("hlt_canary_failures_total", (("worker", "w0"),)): 3,
    ("hlt_worker_distrusted", (("worker", "w0"),)): 0,
    ("hlt_worker_inflight_events", (("worker", "w0"),)): 15,
    ("hlt_path_events_total", (("path", "HLT_B"),)): 899,
    ("hlt_last_decision_timestamp_seconds", ()): 1_700_000_777.25,
    ("hlt_stale_answers_total", ()): 8,
    ("hlt_lost_sessions_total", ()): 9,
    ("hlt_columns_sent_total", ()): 70,
    ("hlt_columns_left_out_total", ()): 11,
    ("hlt_suspect_events", ()): 12,
    ("hlt_error_stream_waiting_events", ()): 13,
    ("hlt_licensed_events", ()): 14,
    ("hlt_problems", ()): 0,
    ("hlt_ready", ()): 1,
    ("hlt_registry_up", ()): 1,
    ("hlt_registry_lost_entries_total", ()): 0,
    ("hlt_transitions_failed_total", (("command", "drain"),)): 0,
    ("hlt_ingest_restarts_total", (("ingest", f"{ENDPOINT}0"),)): 0,
    ("hlt_ingest_start_time_seconds", (("ingest", f"{ENDPOINT}0"),)): 1_700_000_000.5,
    ("hlt_disk_free_bytes", (("folder", "errors"), ("ingest", f"{ENDPOINT}0"))): 7_000_000,
    ("hlt_disk_size_bytes", (("folder", "errors"), ("ingest", f"{ENDPOINT}0"))): 9_000_000,
    ("hlt_ingest_up", (("ingest", f"{ENDPOINT}0"),)): 1,
}


def test_every_number_of_a_known_snapshot() -> None:
    _text, samples = scrape(FixedLink(snapshot()))
    found = {key: samples.get(key) for key in EXPECTED}
    assert found == EXPECTED
    assert samples["hlt_worker_restarts_total", (("worker", "w0"),)] == 2, "without a supervisor the ingest's count stands"
    assert samples["hlt_workers_quarantined", ()] == 0
    info = [dict(labels) for name, labels in samples if name == "hlt_config_info"]
    assert [(entry["menu"], entry["model"]) for entry in info] == [("0123456789abcdef", "none")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"models": (SELECTOR,)}, "tiny:fedcba9876543210"),
        ({"models": (SELECTOR, CLASSIFIER)}, "tiny:fedcba9876543210,busy:0011223344556677"),
        ({"menu_hash": ""}, ""),  # no worker has said what it loaded
        ({"run": None}, ""),
    ],
)
def test_the_configuration_names_the_models(changes: dict[str, object], expected: str) -> None:
    given = snapshot(**changes)
    _text, samples = scrape(FixedLink(given))
    told = {tuple(dict(labels)[key] for key in ("model", "target", "engine", "working_point")) for name, labels in samples if name == MODEL}
    models = given.models if expected else ()
    assert told == {(model.label, model.target, model.engine, model.working_point) for model in models}
    (info,) = [dict(labels) for name, labels in samples if name == "hlt_config_info"]
    assert info["model"] == expected


def test_supervisor_counts_restarts_and_quarantine() -> None:
    _text, samples = scrape(FixedLink(snapshot()), OneQuarantined())
    restarts = {dict(labels)["worker"]: value for (name, labels), value in samples.items() if name == "hlt_worker_restarts_total"}
    assert restarts == {"w0": 3, "w1": 0, "w9": 4}
    assert samples["hlt_workers_quarantined", ()] == 1


def test_workers_that_run_elsewhere_are_quarantined_by_their_ingests() -> None:
    held = [msgspec.structs.replace(worker, quarantined="noisy fan") for worker in snapshot().workers]
    for supervisor, expected in ((None, 2), (OneQuarantined(), 2)):
        _text, samples = scrape(FixedLink(snapshot(workers=held)), supervisor)
        assert samples["hlt_workers_quarantined", ()] == expected, "w1 runs elsewhere; w0 and w9 are counted by the supervisor, if any"


def test_every_command_that_takes_time_can_be_seen_to_fail_for_the_first_time() -> None:
    """`increase` needs the 0 before."""
    _text, samples = scrape(FixedLink(snapshot()))
    failed = {dict(labels)["command"]: value for (name, labels), value in samples.items() if name == "hlt_transitions_failed_total"}
    exchanged, workers = {"activate", "rollback"}, {f"worker_{op}" for op in ("add", "drain", "restart", "quarantine", "delete")}
    assert failed == dict.fromkeys({"configure", "drain", "stop"} | exchanged | workers, 0)


def test_a_loss_shows_as_mismatch() -> None:
    totals = LedgerCounts(received=10, accepted=3, rejected=4, error=1, in_flight=0)
    _text, samples = scrape(FixedLink(snapshot(totals=totals)))
    assert samples["hlt_accounting_mismatch_events", ()] == 2


def test_outputs_and_their_consumers_are_told_of_every_ingest() -> None:
    _text, samples = scrape(FixedLink(snapshot(), snapshot(outputs=())))
    ingest = ("ingest", f"{ENDPOINT}0")
    expected = {
        "hlt_output_waiting_events": 41,
        "hlt_output_open_files": 42,
        "hlt_output_files_total": 43,
        "hlt_output_bytes_total": 44,
        "hlt_output_fsyncs_total": 45,
        "hlt_output_removed_bytes_total": 47,
        "hlt_output_recovered_events_total": 49,
        "hlt_output_free_bytes": 50,
    }
    assert {name: value for (name, _), value in samples.items() if name.startswith("hlt_output")} == expected
    consumer = {name: value for (name, labels), value in samples.items() if labels == (("consumer", "tap"), ingest)}
    assert consumer == {
        "hlt_consumer_up": 1,
        "hlt_consumer_events_total": 53,
        "hlt_consumer_missed_events_total": 54,
        "hlt_consumer_waiting_events": 55,
    }


def test_two_ingests_add_up() -> None:
    _text, samples = scrape(FixedLink(snapshot(), snapshot()))
    assert samples["hlt_events_received_total", ()] == 2000
    assert samples["hlt_event_latency_seconds_bucket", (("le", "0.01"),)] == 1800
    assert samples["hlt_worker_up", (("device", "cpu"), ("worker", "w0@1"))] == 1


def test_labels_exist_before_the_first_event() -> None:
    _text, samples = scrape(FixedLink(snapshot(state=RunState.HALTED, run=None, frames_refused={})))
    assert {dict(labels)["code"] for name, labels in samples if name == "hlt_frames_refused_total"} == {code.name for code in WireCode}
    assert {dict(labels)["state"] for name, labels in samples if name == "hlt_run_state"} == {str(state) for state in RunState}
    assert samples["hlt_run_number", ()] == 0


def test_refused_requests_are_counted() -> None:
    async def refuse() -> str:
        settings = ControlSettings(ingests=(ENDPOINT,), access=AccessSettings(local_only=True))
        app = create_app(settings, FixedLink(snapshot()))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for _ in range(3):
                assert (await client.get("/v1/status", headers={"host": "elsewhere.example"})).status_code == 403
            return (await client.get("/metrics")).text

    lines = asyncio.run(refuse()).splitlines()
    assert 'hlt_http_refused_total{status="403"} 3.0' in lines
    assert 'hlt_http_refused_total{status="401"} 0.0' in lines


def test_no_ingest_means_no_numbers_but_a_state() -> None:
    _text, samples = scrape(FixedLink(None))
    assert samples["hlt_run_state", (("state", "Error"),)] == 1
    assert samples["hlt_ingest_up", (("ingest", f"{ENDPOINT}0"),)] == 0
    assert not [name for name, _labels in samples if name.startswith("hlt_events")]


def test_names_follow_the_rule() -> None:
    text, samples = scrape(FixedLink(snapshot()), OneQuarantined())
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert kinds
    assert all(name.startswith("hlt_") for name in kinds)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())
    allowed = {"decision", "reason", "worker", "device", "stage", "cause", "path", "stream", "state", "code", "ingest", "le"}
    allowed |= {"command", "folder", "status", "active", "shadow", "consumer", "flag", "kind", "accepted_by"}
    assert {label for name, labels in samples for label, _ in labels if name != "hlt_config_info"} <= allowed


@pytest.mark.parametrize("path", ["/metrics"])
def test_scrape_is_in_the_openapi_document(path: str) -> None:
    app = create_app(ControlSettings(ingests=(ENDPOINT,)), FixedLink(snapshot()))
    assert path in app.openapi()["paths"]
