"""The metrics that the endpoint exports, those that the page of the operator lists, and those that were promised are the same."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.unit.farm_fake import SELECTOR, snapshot
from tests.unit.test_metrics import FixedLink, OneQuarantined, scrape

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
ROW = re.compile(r"^\| (`hlt_[^|]*) \|([^|]*)\|([^|]*)\|$", re.MULTILINE)
#: Names and labels that dashboards of other sites rely on; they never change.
PROMISED = {
    "hlt_events_received_total": set(),
    "hlt_events_decided_total": {"decision"},
    "hlt_events_failed_total": {"reason"},
    "hlt_events_inflight": set(),
    "hlt_accounting_mismatch_events": set(),
    "hlt_ingest_bytes_total": set(),
    "hlt_credits": {"worker"},
    "hlt_queue_depth": {"stage"},
    "hlt_backpressure_seconds_total": {"cause"},
    "hlt_stage_duration_seconds": {"stage"},
    "hlt_event_latency_seconds": set(),
    "hlt_batch_events": set(),
    "hlt_path_accepts_total": {"path"},
    "hlt_path_prescaled_total": {"path"},
    "hlt_stream_events_total": {"stream"},
    "hlt_stream_bytes_total": {"stream"},
    "hlt_worker_up": {"worker", "device"},
    "hlt_worker_restarts_total": {"worker"},
    "hlt_workers_quarantined": set(),
    "hlt_gpu_memory_used_bytes": {"device"},
    "hlt_run_state": {"state"},
    "hlt_run_number": set(),
    "hlt_config_info": {"menu", "model", "version"},
}


def exported() -> dict[str, set[str]]:
    """Name -> labels of everything that a farm with supervisor exports."""
    text, _samples = scrape(FixedLink(snapshot(models=(SELECTOR,))), OneQuarantined())
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    return found


def test_every_promised_name_is_exported_with_its_labels() -> None:
    found = exported()
    assert {name: found.get(name) for name in PROMISED} == PROMISED


def test_the_page_lists_what_is_exported() -> None:
    listed: dict[str, set[str]] = {}
    for names, labels, _text in ROW.findall(PAGE.read_text()):
        for name in re.findall(r"`(\w+)`", names):
            assert name not in listed, f"{name} is listed twice"
            listed[name] = {label.strip() for label in labels.split(",") if label.strip()}
    assert listed == exported()
