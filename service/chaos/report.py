"""The table of `hltfarm chaos`, and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from hltfarm.service.chaos.round import RoundResult


def to_json(results: Sequence[RoundResult], left: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain JSON values. left: what ended farms left behind."""
    rounds: list[dict[str, Any]] = [{"closed": result.closed, **msgspec.to_builtins(result)} for result in results]
    return {"closed": closed(results, left), "options": options, "rounds": rounds, "left": list(left)}


def closed(results: Sequence[RoundResult], left: Sequence[str]) -> bool:
    """Whether all books agree and nothing was left behind."""
    return all(result.closed for result in results) and not left


def print_table(results: Sequence[RoundResult], left: Sequence[str], console: Console) -> None:
    """One line for each round, then what does not agree."""
    table = Table(title="Faults under load")
    headings = ("fault", "seed", "in flight", "offered", "decided", "error", "resent", "mismatch", "recovery s", "slowest s", "books")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("fault", "books") else "right", overflow="fold")
    for result in results:
        table.add_row(*_cells(result))
    console.print(table)
    for result in results:
        for problem in result.problems:
            console.print(f"{result.fault}, seed {result.seed}: {problem}", style="bold red", soft_wrap=True)
    for item in left:
        console.print(item, style="bold red", soft_wrap=True)


def _cells(result: RoundResult) -> list[str]:
    ledger = result.ledger
    manners = sorted({struck.manner for struck in result.struck if struck.manner})
    mismatch = "-" if ledger is None else str(ledger["mismatch"])
    return [
        f"{result.fault} ({', '.join(manners)})" if manners else result.fault,
        str(result.seed),
        ", ".join(str(struck.in_flight) for struck in result.struck),
        str(result.offered),
        str(result.decided),
        "-" if ledger is None else str(ledger["error"]),
        str(result.resends),
        mismatch,
        ", ".join("-" if struck.recovery_s is None else f"{struck.recovery_s:.2f}" for struck in result.struck),
        "-" if result.slowest_ms is None else f"{result.slowest_ms / 1e3:.2f}",
        "closed" if result.closed else "OPEN",
    ]
