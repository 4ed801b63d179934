"""What `hltfarm replay` tells: lines for people, one document for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from hltfarm.proto.results import RESULT, EventFlag
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service.replay.bundle import FailedEvent
from hltfarm.service.replay.session import Replay
from hltfarm.service.replay.verdict import Ending, Verdict, compared, models_text

SHOWN = ("digis", "clusters", "hits", "doublets", "ntuplets", "tracks", "tracks_high_purity", "vertices", "fed_errors", "word_errors")
NOT_COUNTS = ("digest", "path_bits", "path_raw", "flags", "accept")


@dataclass(frozen=True, slots=True)
class Unusable:
    """A bundle that was not replayed, and why."""

    folder: Path
    why: str


def exit_code(outcomes: Sequence[Replay | Unusable]) -> int:
    """0: every event was reconstructed, with the same bits each time; 1: one was not; 2: a bundle could not be replayed."""
    if any(isinstance(outcome, Unusable) for outcome in outcomes):
        return 2
    return 0 if all(isinstance(outcome, Replay) and outcome.good for outcome in outcomes) else 1


def lines(outcome: Replay | Unusable, details: bool) -> list[str]:
    """A bundle for people. details: with tracebacks and the last words of processes that died. Foreign texts have no control characters."""
    return ["".join(c if c.isprintable() else "?" for c in line) for line in _lines(outcome, details)]


def _lines(outcome: Replay | Unusable, details: bool) -> list[str]:
    if isinstance(outcome, Unusable):
        return [str(outcome.folder), f"  cannot be replayed: {outcome.why}"]
    record, here = outcome.bundle.record, outcome.here
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.unix_seconds))
    out = [
        str(outcome.bundle.folder),
        f"  run {record.run}, {record.reason}, {when}, {_plural(len(record.events), 'event')}",
        f"  menu {here.menu_hash}, models {models_text(here.models)}, conditions {here.conditions}; {here.backend} ({here.device})",
    ]
    out += [f"  DIFFERENT: {difference}" for difference in outcome.differences]
    out += [f"  note: {caution}" for caution in outcome.cautions]
    for verdict in outcome.verdicts:
        out += _event(verdict, record.reason, here.paths, details)
    return out


def _event(verdict: Verdict, reason: str, paths: Sequence[PathInfo], details: bool) -> list[str]:
    event = verdict.event
    where = f"lumisection {event.lumi}, crossing {event.bx}, {event.bytes:,} bytes"
    out = [f"  event {event.event} ({where}), {_plural(event.attempts, 'attempt')} in the farm"]
    out += [f"    farm: {_attempt(event, i)}" for i in range(len(event.failures))]
    tries = len(verdict.results)
    if verdict.good:
        row = verdict.results[0]
        same = f"{tries} times with the same bits" if tries > 1 else "once"
        counts = ", ".join(f"{name} {int(row[name])}" for name in SHOWN)
        decision = f"accepted by {', '.join(_paths(row, paths))}" if row["accept"] else "rejected"
        out += [
            f"    here: reconstructed {same}, {1e3 * min(verdict.seconds):.1f} ms: {decision}; digest {int(row['digest']):016x}",
            f"          {counts}",
            f"          flags {', '.join(_flags(row)) or 'none'}",
        ]
        return out
    after = f" after {_plural(tries, 'good reconstruction')}" if tries and verdict.ending is not Ending.NOT_REPRODUCIBLE else ""
    out.append(f"    here: {verdict.ending}{after}: {verdict.text} ({compared(verdict, reason)})")
    if details:
        out += [f"          {line}" for line in verdict.detail.splitlines()]
    return out


def _attempt(event: FailedEvent, i: int) -> str:
    failure = event.failures[i]
    company = "alone" if failure.events == 1 else f"with {failure.events - 1} others"
    return f"{failure.worker} ({failure.device}), {company}: {failure.error}"


def summary(outcomes: Sequence[Replay | Unusable]) -> str:
    """All bundles in one line."""
    verdicts = [verdict for outcome in outcomes if isinstance(outcome, Replay) for verdict in outcome.verdicts]
    endings = (f"{n} {ending}" for ending in Ending if (n := sum(verdict.ending is ending for verdict in verdicts)))
    unusable = sum(isinstance(outcome, Unusable) for outcome in outcomes)
    parts = [_plural(len(verdicts), "event"), *endings, *([f"{_plural(unusable, 'bundle')} not replayed"] if unusable else [])]
    return f"{_plural(len(outcomes), 'bundle')}: {', '.join(parts)}"


def to_json(outcomes: Sequence[Replay | Unusable]) -> dict[str, Any]:
    """All of it for programs; digests are hexadecimal, seconds are of the reconstructions."""
    return {"exit_code": exit_code(outcomes), "bundles": [_bundle(outcome) for outcome in outcomes]}


def _bundle(outcome: Replay | Unusable) -> dict[str, Any]:
    if isinstance(outcome, Unusable):
        return {"bundle": str(outcome.folder), "replayed": False, "error": outcome.why}
    record, here = outcome.bundle.record, outcome.here
    return {
        "bundle": str(outcome.bundle.folder),
        "replayed": True,
        "run": record.run,
        "reason": record.reason,
        "unix_seconds": record.unix_seconds,
        "backend": here.backend,
        "device": here.device,
        "menu": here.menu_hash,
        "models": [{"target": m.target, "label": m.label, "working_point": m.working_point, "engine": m.engine} for m in here.models],
        "conditions": here.conditions,
        "differences": list(outcome.differences),
        "cautions": list(outcome.cautions),
        "events": [_verdict(verdict, record.reason, here.paths) for verdict in outcome.verdicts],
    }


def _verdict(verdict: Verdict, reason: str, paths: Sequence[PathInfo]) -> dict[str, Any]:
    row = verdict.results[0] if len(verdict.results) else None
    return {
        "event": verdict.event.event,
        "lumi": verdict.event.lumi,
        "bx": verdict.event.bx,
        "bytes": verdict.event.bytes,
        "attempts": verdict.event.attempts,
        "failures": [to_builtins(failure) for failure in verdict.event.failures],
        "ending": verdict.ending.value,
        "text": verdict.text,
        "compared": compared(verdict, reason),
        "detail": verdict.detail,
        "digests": [f"{int(digest):016x}" for digest in verdict.results["digest"]],
        "seconds": list(verdict.seconds),
        "result": None if row is None else _result(row, paths),
    }


def _result(row: np.void, paths: Sequence[PathInfo]) -> dict[str, Any]:
    counts = {name: row[name].item() for name in RESULT.names or () if name not in NOT_COUNTS}
    return {"accept": bool(row["accept"]), "paths": _paths(row, paths), "flags": _flags(row), **counts}


def _paths(row: np.void, paths: Sequence[PathInfo]) -> list[str]:
    bits = int(row["path_bits"])
    return [path.name for i, path in enumerate(paths) if bits >> i & 1]


def _flags(row: np.void) -> list[str]:
    return [str(flag.name) for flag in EventFlag if int(row["flags"]) & flag]


def _plural(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"
