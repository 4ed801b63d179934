"""Books that close, and every way in which they may not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from hltfarm.loadgen.load.accounting import Accounting, Total
from hltfarm.loadgen.load.report import LoadReport, make_report
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.service.chaos.books import Evidence, problems, since

LEDGER = {"received": 10, "accepted": 4, "rejected": 5, "error": 1, "in_flight": 0, "duplicates": 2}
METRICS = {
    "hlt_events_received_total": 10.0,
    'hlt_events_decided_total{decision="accept"}': 4.0,
    'hlt_events_decided_total{decision="reject"}': 5.0,
    'hlt_events_decided_total{decision="error"}': 1.0,
    "hlt_events_inflight": 0.0,
    "hlt_accounting_mismatch_events": 0.0,
}


def report(accepted: int = 4, rejected: int = 5, error: int = 1, unanswered: int = 0) -> LoadReport:
    accounting = Accounting("client")
    outcomes = ["accepted"] * accepted + ["rejected"] * rejected + ["error"] * error + [None] * unanswered
    for outcome in outcomes:
        index = accounting.add_sent(0.0, 0, 100)
        accounting.offered += 1
        if outcome is not None:
            accounting.add_decision(index, outcome, 1.0)
    total = Total([accounting])
    return make_report(total, Schedule(10.0, 1.0), source="s", run=1, events=(1, total.sent), offer_seconds=1.0, seconds=1.0)


CLOSED = Evidence(
    reports=[report()],
    ledger=LEDGER,
    outcome="stopped",
    metrics=METRICS,
    mismatches=Counter({0: 20}),
    forced=[7],
    bundled=[7],
    poison=frozenset({7}),
    accepted=[1, 2, 3, 4],
    kept={"physics": [1, 2, 3], "monitoring": [3, 4]},
)


def test_closed_books() -> None:
    assert problems(CLOSED) == []


def test_menus_that_follow_one_another() -> None:
    deciders = {(1, ("a", 1)): 3, (2, ("a", 1)): 2, (3, ("b", 1)): 2, (4, ("b", 2)): 2}
    activations = [{"accepted": 2, "rejected": 3}, {"accepted": 1, "rejected": 1}, {"accepted": 1, "rejected": 1}]
    assert problems(replace(CLOSED, deciders=deciders, activations=activations)) == []


def test_loads_add_up() -> None:
    parts = [report(accepted=1, rejected=5, error=0), report(accepted=3, rejected=0, error=1)]
    assert problems(replace(CLOSED, reports=parts)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reports": [report(unanswered=1)]}, "1 event sent and not answered"),
        ({"reports": [report(accepted=3)]}, "received of the ledger against sent by the clients is 10, expected 9"),
        ({"reports": [report(accepted=5, rejected=4)]}, "accepted of the ledger against decisions at the clients is 4, expected 5"),
        ({"ledger": LEDGER | {"received": 11}}, "received - accepted - rejected - error - in flight of the ledger is 1, expected 0"),
        ({"ledger": LEDGER | {"in_flight": 1, "accepted": 3}}, "in flight of the ledger is 1"),
        ({"ledger": None}, "the registry has no ledger of the run"),
        ({"outcome": "interrupted"}, "the registry says that the run interrupted, expected stopped"),
        ({"metrics": METRICS | {"hlt_events_received_total": 9.0}}, "hlt_events_received_total is 9, expected 10"),
        ({"metrics": METRICS | {'hlt_events_decided_total{decision="error"}': 0.0}}, 'decision="error"} is 0, expected 1'),
        ({"metrics": METRICS | {"hlt_accounting_mismatch_events": 2.0}}, "hlt_accounting_mismatch_events is 2, expected 0"),
        ({"metrics": {}}, "hlt_events_inflight is missing"),
        ({"mismatches": Counter({0: 20, 3: 2})}, "2 of 22 statuses told of a ledger that does not close"),
        ({"mismatches": Counter[int]()}, "no status was seen"),
        ({"bundled": []}, "events that clients were told are in the error stream are not: 7"),
        ({"bundled": [7, 7]}, "events in the error stream that no client knows of, or twice: 7"),
        ({"bundled": [7, 8]}, "events in the error stream that no client knows of, or twice: 8"),
        ({"poison": frozenset[int]()}, "events in the error stream that nothing was wrong with: 7"),
        ({"poison": frozenset({7, 9})}, "events that were poison and were decided all the same: 9"),
        ({"kept": {"physics": [1, 2], "monitoring": [3]}}, "events that were accepted and are in no output file: 4"),
        ({"kept": {"physics": [1, 2, 3, 4, 5]}}, "events in the output files that were not accepted: 5"),
        ({"kept": {"physics": [1, 2, 2, 3, 4]}}, "events that are more than once in the output files of physics: 2"),
        ({"deciders": {(1, ("a", 1)): 5, (1, ("b", 1)): 4}}, "lumisections that more than one menu or model decided: 1"),
        ({"activations": [{"accepted": 3, "rejected": 5}]}, "accepted of the activations is 3, expected 4"),
        ({"unfinished": ["x.hlt.part"]}, "an output file was not closed: x.hlt.part"),
        ({"further": ["the farm fell over"]}, "the farm fell over"),
    ],
)
def test_books_that_do_not_close(change: dict[str, object], said: str) -> None:
    found = problems(replace(CLOSED, **change))  # type: ignore[arg-type]
    assert [problem for problem in found if said in problem], found


def test_where_events_may_be_forced_only_the_bundles_count() -> None:
    assert problems(replace(CLOSED, poison=None)) == []


def test_an_event_may_be_written_by_an_ingest_that_is_killed_and_by_the_next() -> None:
    lost = replace(CLOSED, outcome="interrupted", lost_counts=3, poison=None, kept={"physics": [1, 2, 2, 3, 4]})
    assert problems(lost) == []
    assert problems(replace(lost, kept={"physics": [1, 2, 3]})) != []


def test_what_an_ingest_that_was_killed_had_counted_may_be_gone() -> None:
    left = LEDGER | {"received": 7, "accepted": 2, "rejected": 4}
    lost = replace(CLOSED, ledger=left, outcome="interrupted", lost_counts=3, poison=None)
    assert problems(lost) == []
    assert problems(replace(lost, lost_counts=2)) == [
        "the ledger misses 3 events that clients sent; the ingest that was killed had counted 2 at most"
    ]
    assert problems(replace(lost, ledger=LEDGER | {"received": 11, "accepted": 5})) != []  # more than was ever sent
    assert problems(replace(lost, outcome="stopped")) == ["the registry says that the run stopped, expected interrupted"]


def test_metrics_of_a_round() -> None:
    before = {"hlt_events_received_total": 5.0, "hlt_events_inflight": 3.0}
    after = {"hlt_events_received_total": 9.0, "hlt_events_inflight": 0.0, 'hlt_x_total{a="b"}': 2.0}
    assert since(before, after) == {"hlt_events_received_total": 4.0, "hlt_events_inflight": 0.0, 'hlt_x_total{a="b"}': 2.0}
