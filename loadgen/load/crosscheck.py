"""Whether the load generator, the farm's ledger and its metrics tell the same story. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hltfarm.loadgen.load.report import LoadReport

#: Entry of the ledger -> label of `hlt_events_decided_total`.
DECISION_LABELS = {"accepted": "accept", "rejected": "reject", "error": "error"}


def disagreements(reports: Sequence[LoadReport], ledger: Mapping[str, int], metrics: Mapping[str, float]) -> list[str]:
    """Every sentence that is not true of a closed accounting; empty when all agree.

    reports: all loads of the run. ledger: of the run, after it was drained. metrics: a scrape after that, of a farm whose only run
    this is; the keys as in `FarmApi.metrics`.
    """
    problems = [problem for report in reports for problem in report.problems]
    decided = {name: sum(report.decisions[name] for report in reports) for name in DECISION_LABELS}
    sent = sum(report.sent for report in reports)

    def same(what: str, found: float | None, expected: float) -> None:
        if found != expected:
            problems.append(f"{what} is {'missing' if found is None else f'{found:g}'}, expected {expected:g}")

    balance = ledger["received"] - ledger["accepted"] - ledger["rejected"] - ledger["error"] - ledger["in_flight"]
    same("received - accepted - rejected - error - in flight of the ledger", balance, 0)
    same("in flight of the drained ledger", ledger["in_flight"], 0)
    same("received of the ledger against sent by the clients", ledger["received"], sent)
    same("hlt_events_received_total", metrics.get("hlt_events_received_total"), ledger["received"])
    same("hlt_events_inflight", metrics.get("hlt_events_inflight"), 0)
    same("hlt_accounting_mismatch_events", metrics.get("hlt_accounting_mismatch_events"), 0)
    for name, label in DECISION_LABELS.items():
        same(f"{name} of the ledger against decisions at the clients", ledger[name], decided[name])
        key = f'hlt_events_decided_total{{decision="{label}"}}'
        same(key, metrics.get(key), ledger[name])
    return problems
