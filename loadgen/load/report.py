"""The report of a load: one structure, written as JSON and printed as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from hltfarm.loadgen.load.accounting import Total
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.proto.errors import ConfigError

OUTCOMES = ("accepted", "rejected", "error")


class ConnectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One client connection of the load."""

    name: str
    sent: int
    answered: int
    resends: int
    latency_ms: dict[str, float | None]


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was offered and what came back.

    first_event, last_event: smallest and largest event number sent; with several connections not every number between them is used.
    offered_rate_hz: events that fell due per second of the schedule. achieved_rate_hz: answered events per second from the first event to
    the last answer. latency_ms counts from the intended send time. backlog_peak: most events that were due and could not be sent yet
    (summed over the connections). cpu_seconds: of the client processes during the load. refused: events the ingest will not take, by
    code; errors: error frames by code, those included after which the client sent again. problems: why the accounting is not closed,
    empty when it is.
    """

    source: str
    run: int
    first_event: int
    last_event: int
    rate_hz: float | None
    arrival: str
    seed: int
    seconds: float
    offered: int
    sent: int
    resends: int
    reconnects: int
    decisions: dict[str, int]
    refused: dict[str, int]
    errors: dict[str, int]
    duplicates: int
    unexpected: int
    unanswered: int
    unsent: int
    irreproducible: int
    backlog_peak: int
    offered_rate_hz: float
    achieved_rate_hz: float
    sent_bytes: int
    cpu_seconds: float
    latency_ms: dict[str, float | None]
    connections: list[ConnectionReport]
    problems: list[str]

    @property
    def closed(self) -> bool:
        """Whether every offered event was sent and answered exactly once."""
        return not self.problems


def make_report(
    total: Total,
    schedule: Schedule,
    *,
    source: str,
    run: int,
    events: tuple[int, int],
    offer_seconds: float,
    seconds: float,
    cpu_seconds: float = 0.0,
) -> LoadReport:
    """Report of a finished load.

    events: first and last event number. offer_seconds: how long the schedule ran; seconds: from the first event to the last answer.
    """
    return LoadReport(
        source=source,
        run=run,
        first_event=events[0],
        last_event=events[1],
        rate_hz=schedule.rate_hz,
        arrival="max" if schedule.is_max else schedule.arrival.value,
        seed=schedule.seed,
        seconds=seconds,
        offered=total.offered,
        sent=total.sent,
        resends=total.resends,
        reconnects=total.reconnects,
        decisions={outcome: total.outcomes[outcome] for outcome in OUTCOMES},
        refused=dict(sorted(total.refused.items())),
        errors=dict(sorted(total.errors.items())),
        duplicates=total.duplicates,
        unexpected=total.unexpected,
        unanswered=total.unanswered,
        unsent=total.unsent,
        irreproducible=total.irreproducible,
        backlog_peak=total.backlog_peak,
        offered_rate_hz=total.offered / offer_seconds if offer_seconds > 0 else 0.0,
        achieved_rate_hz=total.answered / seconds if seconds > 0 else 0.0,
        sent_bytes=total.sent_bytes,
        cpu_seconds=cpu_seconds,
        latency_ms=total.latency.summary(),
        connections=[
            ConnectionReport(
                name=item.name, sent=item.sent, answered=item.answered, resends=item.resends, latency_ms=item.latency.summary()
            )
            for item in total.connections
        ],
        problems=total.problems(),
    )


def to_json(report: LoadReport) -> dict[str, Any]:
    """The report as plain JSON values, with `closed` beside the fields."""
    values: dict[str, Any] = msgspec.to_builtins(report)
    return {"closed": report.closed, **values}


def write_json(path: Path, values: object) -> None:
    """Write `values` as indented JSON; the folder is made if need be. Raises ConfigError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def print_report(report: LoadReport, console: Console) -> None:
    """Print the report as two small tables: the events, then the latency of each connection."""
    rate = "max" if report.rate_hz is None else f"{report.rate_hz:g} Hz {report.arrival}"
    console.print(f"Load of {report.source}: {rate}, {report.seconds:.1f} s", style="bold", soft_wrap=True)
    events = Table(show_header=False)
    events.add_column()
    events.add_column(justify="right")
    rows: list[tuple[str, str]] = [
        ("offered", f"{report.offered:,} ({report.offered_rate_hz:,.1f} /s)"),
        ("sent", f"{report.sent:,} ({report.sent_bytes / 1e6:,.1f} MB)"),
        *((outcome, f"{count:,}") for outcome, count in report.decisions.items()),
        ("unanswered", f"{report.unanswered:,}"),
        ("unsent", f"{report.unsent:,}"),
        ("duplicates", f"{report.duplicates:,}"),
        ("resends", f"{report.resends:,}"),
        ("error frames", ", ".join(f"{count:,} {code}" for code, count in report.errors.items()) or "0"),
        ("largest backlog", f"{report.backlog_peak:,}"),
        ("achieved rate", f"{report.achieved_rate_hz:,.1f} events/s"),
    ]
    for row in rows:
        events.add_row(*row)
    console.print(events)
    console.print("Latency from the intended send time (ms)", style="bold", soft_wrap=True)
    latency = Table()
    for heading in ("connection", "events", "p50", "p90", "p99", "p99.9", "max"):
        latency.add_column(heading, justify="left" if heading == "connection" else "right")
    lines = [(item.name, item.answered, item.latency_ms) for item in report.connections] if len(report.connections) > 1 else []
    for name, answered, values in [*lines, ("all", sum(report.decisions.values()), report.latency_ms)]:
        latency.add_row(name, f"{answered:,}", *(_milliseconds(values[key]) for key in ("p50", "p90", "p99", "p999", "max")))
    console.print(latency)
    verdict = "accounting closed: every event was answered once" if report.closed else "; ".join(report.problems)
    console.print(verdict, style="green" if report.closed else "bold red", soft_wrap=True)
