"""Whether everybody's accounts of a round agree. Pure.

The clients say how many events they offered and what became of each; the ledger of the registry, the metrics, the error stream and the
output files on disk each say it again. Whatever fault was injected, nothing may be missing, and nothing may be there twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hltfarm.loadgen.load.accounting import Decider
from hltfarm.loadgen.load.crosscheck import DECISION_LABELS
from hltfarm.loadgen.load.report import LoadReport

RECEIVED = "hlt_events_received_total"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a round left.

    reports: of all loads of the run. ledger, outcome: of the run in the registry. metrics: counters of this round, gauges at its end.
    mismatches: of every status that was seen, by state. forced: numbers of the events that the clients were told could not be processed;
    bundled: those in the bundles of the error stream. poison: events that were meant to end there; None where others may.
    accepted: numbers of the events that the clients were told are accepted; kept: those in the output files, by stream; unfinished: files
    that were not closed.
    deciders: events by lumisection and what decided them, as the clients were told; activations: what the registry says of that.
    lost_counts: events whose counts may be gone with an ingest that was killed, None where no ingest was.
    """

    reports: Sequence[LoadReport]
    ledger: Mapping[str, int] | None
    outcome: str
    metrics: Mapping[str, float]
    mismatches: Counter[int]
    forced: Sequence[int]
    bundled: Sequence[int]
    poison: frozenset[int] | None
    accepted: Sequence[int]
    kept: Mapping[str, Sequence[int]]
    deciders: Mapping[tuple[int, Decider], int] = field(default_factory=dict)
    activations: Sequence[Mapping[str, int]] = ()
    unfinished: Sequence[str] = ()
    lost_counts: int | None = None
    further: Sequence[str] = field(default_factory=tuple)  # problems found on the way


def problems(evidence: Evidence) -> list[str]:
    """Every sentence that is not true of closed books; empty when all agree."""
    found = [problem for report in evidence.reports for problem in report.problems]
    found += evidence.further
    wrong = sum(count for mismatch, count in evidence.mismatches.items() if mismatch)
    if wrong:
        found.append(f"{wrong} of {evidence.mismatches.total()} statuses told of a ledger that does not close")
    if not evidence.mismatches:
        found.append("no status was seen")
    found += _error_stream(evidence)
    found += _outputs(evidence)
    found += _programmes(evidence)
    expected = "stopped" if evidence.lost_counts is None else "interrupted"
    if evidence.outcome != expected:
        found.append(f"the registry says that the run {evidence.outcome}, expected {expected}")
    ledger = evidence.ledger
    if ledger is None:
        return [*found, "the registry has no ledger of the run"]
    balance = ledger["received"] - ledger["accepted"] - ledger["rejected"] - ledger["error"] - ledger["in_flight"]
    found += _same("received - accepted - rejected - error - in flight of the ledger", balance, 0)
    found += _same("in flight of the ledger", ledger["in_flight"], 0)
    for gauge in ("hlt_events_inflight", "hlt_accounting_mismatch_events"):
        found += _same(gauge, evidence.metrics.get(gauge), 0)
    return found + (_counts(evidence, ledger) if evidence.lost_counts is None else _what_is_left(evidence, ledger))


def _error_stream(evidence: Evidence) -> list[str]:
    """Bundles against the clients, and against what was meant to fail."""
    found = []
    forced, bundled = Counter(evidence.forced), Counter(evidence.bundled)
    if forced - bundled:
        found.append(f"events that clients were told are in the error stream are not: {_some(forced - bundled)}")
    extra = bundled - forced
    if extra and evidence.lost_counts is None:  # an ingest that is killed after it wrote a bundle cannot tell the client
        found.append(f"events in the error stream that no client knows of, or twice: {_some(extra)}")
    if evidence.poison is not None and set(forced) != evidence.poison:
        wrong, spared = set(forced) - evidence.poison, evidence.poison - set(forced)
        found += [f"events in the error stream that nothing was wrong with: {_some(Counter(wrong))}"] if wrong else []
        found += [f"events that were poison and were decided all the same: {_some(Counter(spared))}"] if spared else []
    return found


def _outputs(evidence: Evidence) -> list[str]:
    """Output files against the clients."""
    accepted, kept = set(evidence.accepted), {number for numbers in evidence.kept.values() for number in numbers}
    found = [f"an output file was not closed: {name}" for name in evidence.unfinished]
    if accepted - kept:
        found.append(f"events that were accepted and are in no output file: {_some(Counter(accepted - kept))}")
    if kept - accepted:
        found.append(f"events in the output files that were not accepted: {_some(Counter(kept - accepted))}")
    for stream, numbers in sorted(evidence.kept.items()):
        twice = Counter(numbers) - Counter(set(numbers))
        if twice and evidence.lost_counts is None:  # one that an ingest had written before it was killed is sent, and written, again
            found.append(f"events that are more than once in the output files of {stream}: {_some(twice)}")
    return found


def _programmes(evidence: Evidence) -> list[str]:
    """One menu and one set of models decide a lumisection, and the registry counts what they decided."""
    of_lumi: dict[int, set[Decider]] = {}
    for lumi, decider in evidence.deciders:
        of_lumi.setdefault(lumi, set()).add(decider)
    mixed = Counter(lumi for lumi, deciders in of_lumi.items() if len(deciders) > 1)
    found = [f"lumisections that more than one menu or model decided: {_some(mixed)}"] if mixed else []
    ledger = evidence.ledger
    if evidence.activations and ledger is not None and evidence.lost_counts is None:
        for name in ("accepted", "rejected"):
            found += _same(f"{name} of the activations", sum(item[name] for item in evidence.activations), ledger[name])
    return found


def _counts(evidence: Evidence, ledger: Mapping[str, int]) -> list[str]:
    """Ledger == clients == metrics."""
    sent = sum(report.sent for report in evidence.reports)
    found = _same("received of the ledger against sent by the clients", ledger["received"], sent)
    found += _same(RECEIVED, evidence.metrics.get(RECEIVED), ledger["received"])
    for name, label in DECISION_LABELS.items():
        told = sum(report.decisions[name] for report in evidence.reports)
        found += _same(f"{name} of the ledger against decisions at the clients", ledger[name], told)
        key = f'hlt_events_decided_total{{decision="{label}"}}'
        found += _same(key, evidence.metrics.get(key), ledger[name])
    return found


def _what_is_left(evidence: Evidence, ledger: Mapping[str, int]) -> list[str]:
    """After an ingest was killed: what it had counted is gone, and no more than that."""
    assert evidence.lost_counts is not None
    missing = sum(report.sent for report in evidence.reports) - ledger["received"]
    if 0 <= missing <= evidence.lost_counts:
        return []
    return [f"the ledger misses {missing} events that clients sent; the ingest that was killed had counted {evidence.lost_counts} at most"]


def _same(what: str, found: float | None, expected: float) -> list[str]:
    return [] if found == expected else [f"{what} is {'missing' if found is None else f'{found:g}'}, expected {expected:g}"]


def _some(numbers: Counter[int]) -> str:
    listed = sorted(numbers)
    return ", ".join(map(str, listed[:5])) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Metrics of a round: counters from its begin on, gauges as they are."""
    return {key: value - before.get(key, 0.0) if key.partition("{")[0].endswith("_total") else value for key, value in after.items()}
