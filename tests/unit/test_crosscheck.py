"""The three accounts of a run: clients, ledger, metrics."""

from __future__ import annotations

import pytest

from hltfarm.loadgen.load.accounting import Accounting, Total
from hltfarm.loadgen.load.crosscheck import disagreements
from hltfarm.loadgen.load.report import LoadReport, make_report
from hltfarm.loadgen.load.schedule import Schedule

LEDGER = {"received": 6, "accepted": 4, "rejected": 2, "error": 0, "in_flight": 0}
METRICS = {
    "hlt_events_received_total": 6.0,
    "hlt_events_inflight": 0.0,
    "hlt_accounting_mismatch_events": 0.0,
    'hlt_events_decided_total{decision="accept"}': 4.0,
    'hlt_events_decided_total{decision="reject"}': 2.0,
    'hlt_events_decided_total{decision="error"}': 0.0,
}


def load(outcomes: list[str], sent: int | None = None) -> LoadReport:
    accounting = Accounting("load-0")
    for outcome in outcomes:
        accounting.add_decision(accounting.add_sent(0.0, 0, 8), outcome, 0.1, 1)
    for _ in range((sent or len(outcomes)) - len(outcomes)):
        accounting.add_sent(0.0, 0, 8)
    accounting.offered = accounting.sent
    return make_report(Total([accounting]), Schedule(None, events=9), source="x", run=1, events=(1, 9), offer_seconds=1.0, seconds=1.0)


REPORTS = [load(["accepted", "rejected"]), load(["accepted", "accepted", "accepted", "rejected"])]


def test_agreement() -> None:
    assert disagreements(REPORTS, LEDGER, METRICS) == []


@pytest.mark.parametrize(
    ("ledger", "metrics", "expected"),
    [
        ({"accepted": 3}, {}, "received - accepted"),
        ({"received": 7, "in_flight": 1}, {}, "in flight of the drained ledger is 1"),
        ({"accepted": 3, "rejected": 3}, {}, "rejected of the ledger against decisions at the clients is 3, expected 2"),
        ({}, {"hlt_events_received_total": 5.0}, "hlt_events_received_total is 5, expected 6"),
        ({}, {'hlt_events_decided_total{decision="reject"}': 3.0}, 'hlt_events_decided_total{decision="reject"} is 3, expected 2'),
        ({}, {"hlt_accounting_mismatch_events": 1.0}, "hlt_accounting_mismatch_events is 1, expected 0"),
    ],
)
def test_every_disagreement_is_told(ledger: dict[str, int], metrics: dict[str, float], expected: str) -> None:
    problems = disagreements(REPORTS, LEDGER | ledger, METRICS | metrics)
    assert any(expected in problem for problem in problems), problems


def test_a_metric_that_is_missing_is_no_zero() -> None:
    assert "hlt_events_inflight is missing, expected 0" in disagreements(
        REPORTS, LEDGER, {k: v for k, v in METRICS.items() if "inflight" not in k}
    )


def test_problems_of_the_clients_come_along() -> None:
    reports = [*REPORTS, load([], sent=1)]
    assert "1 event sent and not answered" in disagreements(reports, LEDGER | {"received": 7, "in_flight": 1}, METRICS)
