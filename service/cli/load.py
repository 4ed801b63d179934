"""`hltfarm load`: offer raw events to a running farm and report what came back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hltfarm.service.cli.options import OwnKeyOption, ServerKeyOption

if TYPE_CHECKING:
    from hltfarm.loadgen.load.driver import LoadConfig
    from hltfarm.loadgen.load.report import LoadReport


def parse_rate(text: str) -> float | None:
    """Rate in Hz, None for `max`. Raises ConfigError for anything else."""
    from hltfarm.proto.errors import ConfigError

    if text == "max":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--rate {text!r}: give a number of events per second, or 'max'") from None


def drive(config: LoadConfig, source: Path, limit: int | None, processes: int) -> LoadReport:
    """Run a load; one process shows its progress on stderr, if that is a terminal."""
    from rich.console import Console

    from hltfarm.loadgen.load.driver import run_load
    from hltfarm.loadgen.load.processes import run_in_processes
    from hltfarm.loadgen.source import read_events

    if processes > 1:
        return run_in_processes(config, source, limit, processes)
    console, payloads = Console(stderr=True), read_events(source, limit)
    if not console.is_terminal:
        return run_load(config, payloads)
    with console.status("waiting for credit") as status:
        return run_load(config, payloads, lambda sent, answered: status.update(f"{sent:,} events sent, {answered:,} answered"))


def load(
    source: Annotated[Path, typer.Option(help="Sample whose events are replayed in a circle: a .hlt file or a data directory.")],
    ingest: Annotated[str, typer.Option(help="Where the (first) ingest listens.")] = "tcp://127.0.0.1:7400",
    ingests: Annotated[int, typer.Option(min=1, max=64, help="Ingests of the farm, at consecutive ports; connections are dealt out.")] = 1,
    rate: Annotated[str, typer.Option(help="Events per second over all connections, or 'max': as many as credit allows.")] = "max",
    duration: Annotated[float | None, typer.Option(help="Offer events for so many seconds (10 if --events is not given either).")] = None,
    events: Annotated[int | None, typer.Option(help="Offer at most so many events.")] = None,
    connections: Annotated[
        int, typer.Option(min=0, max=256, help="Client connections, each an independent source; 0: one for each ingest and process.")
    ] = 0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Client processes that share the connections.")] = 1,
    arrival: Annotated[str, typer.Option(help="Spacing of the events: uniform or poisson.")] = "uniform",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the Poisson spacing.")] = 1,
    run: Annotated[int | None, typer.Option(min=0, help="Run number of the events (default: the run that the ingest announces).")] = None,
    first_event: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the first event. The default, the time in microseconds, is new for every load of a run."),
    ] = None,
    lumi_seconds: Annotated[
        float, typer.Option(min=0, help="Length of a lumisection of the load; 0: events keep the lumisections of the sample.")
    ] = 23.31,
    first_lumi: Annotated[int, typer.Option(min=1, max=1 << 30, help="Lumisection in which the load begins.")] = 1,
    sample_events: Annotated[int | None, typer.Option(min=1, help="Use only the first so many events of the sample.")] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Give up after so many seconds without credit and without an answer.")] = 30.0,
    wait: Annotated[float, typer.Option(min=0.1, help="Give up after so many seconds without a first credit.")] = 15.0,
    key: OwnKeyOption = None,
    server_key: ServerKeyOption = None,
    report: Annotated[Path | None, typer.Option(help="Write the report to this file, as JSON.")] = None,
) -> int:
    """Stream events to a farm and account for the answers.

    The exit code is 0 only if every event that was offered has been answered once.
    """
    import time

    from rich.console import Console

    from hltfarm.loadgen.load.driver import LoadConfig
    from hltfarm.loadgen.load.report import print_report, to_json, write_json
    from hltfarm.loadgen.load.schedule import Arrival, Schedule
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.cli.security import client_curve
    from hltfarm.service.endpoints import client_endpoints

    if arrival not in list(Arrival):
        raise ConfigError(f"--arrival {arrival!r}: give one of {', '.join(Arrival)}")
    if duration is None and events is None:
        duration = 10.0
    schedule = Schedule(parse_rate(rate), duration, events, Arrival(arrival), seed)
    config = LoadConfig(
        ingests=client_endpoints(ingest, ingests),
        schedule=schedule,
        source=source.name,
        connections=connections or max(ingests, processes),
        run=run,
        first_event=time.time_ns() // 1000 if first_event is None else first_event,
        lumi_s=lumi_seconds,
        first_lumi=first_lumi,
        open_timeout_s=wait,
        patience_s=patience,
        curve=client_curve(key, server_key),
    )
    result = drive(config, source, sample_events, processes)
    print_report(result, Console())
    if report is not None:
        write_json(report, to_json(result))
    return 0 if result.closed else 1


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(load)
