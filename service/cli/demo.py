"""`hltfarm demo`: a whole farm on this machine for half a minute, and whether everybody's accounts agree in the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from hltfarm.loadgen.load.report import LoadReport
    from hltfarm.proto.events import RawEvent
    from hltfarm.service.api import FarmApi

READY_S = 180.0
COMMAND_S = 60.0
CALIBRATION_S = 4.0
#: Share of the calibrated rate that is offered: a farm that keeps up has short queues.
LOAD = 0.5
#: Entries of the ledger that the result repeats.
LEDGER = ("received", "accepted", "rejected", "error", "in_flight")


def demo_source() -> Path:
    """The sample that the distribution brings along."""
    from hltfarm.loadgen.source import SHIPPED

    return SHIPPED["demo"]


def demo_menu() -> Path:
    """A menu that takes about half of that sample, which the built-in one takes as a whole."""
    return demo_source().with_name("demo-menu.yaml")


def stream(ingest: str, source: Path, payloads: list[RawEvent], seconds: float, console: Console) -> list[LoadReport]:
    """Two loads: a short one at full speed, which tells what this machine can do, then the rest at half of that rate."""
    from hltfarm.loadgen.load.driver import LoadConfig, run_load
    from hltfarm.loadgen.load.schedule import Schedule

    calibration = min(CALIBRATION_S, seconds / 3)
    console.print(f"calibrating: {len(payloads)} events of {source.name} in a circle, as fast as credit allows, for {calibration:.0f} s")
    first = run_load(LoadConfig((ingest,), Schedule(None, calibration), source.name, connections=2), payloads)
    rate = max(1.0, LOAD * first.achieved_rate_hz)
    console.print(
        f"the farm decides {first.achieved_rate_hz:,.0f} events/s; offering {rate:,.0f} events/s for {seconds - calibration:.0f} s"
    )
    schedule = Schedule(rate, seconds - calibration)
    second = run_load(LoadConfig((ingest,), schedule, source.name, connections=2, first_event=first.last_event + 1), payloads)
    return [first, second]


def close_run(farm: FarmApi, reports: list[LoadReport]) -> tuple[dict[str, int], list[str]]:
    """Drain and stop the run over HTTP; its final ledger, and what does not agree with it."""
    from hltfarm.loadgen.load.crosscheck import disagreements

    farm.command("drain", COMMAND_S)
    metrics = farm.metrics()
    run = farm.status()["run"]
    farm.command("stop", COMMAND_S)
    ledger: dict[str, int] | None = farm.run(run)["ledger"]
    if ledger is None:
        return dict.fromkeys(LEDGER, 0), [f"run {run} has no final ledger"]
    return ledger, disagreements(reports, ledger, metrics)


def summary(reports: list[LoadReport], ledger: dict[str, int], problems: list[str]) -> dict[str, Any]:
    """Content of the JSON file. Latencies are those of the load at a fixed rate; the rate at full speed stands beside it."""
    from hltfarm.loadgen.load.report import to_json

    full, paced = reports
    return {
        "ledger": {name: ledger[name] for name in LEDGER},
        "events_per_second": paced.achieved_rate_hz,
        "events_per_second_max": full.achieved_rate_hz,
        "latency_ms": {key: paced.latency_ms[key] for key in ("p50", "p99", "p999")},
        "closed": not problems,
        "problems": problems,
        "loads": [to_json(report) for report in reports],
    }


def demo(
    out: Annotated[Path, typer.Option(help="Write the result to this file, as JSON; the farm's log goes beside it.")] = Path(
        "build/demo.json"
    ),
    source: Annotated[Path | None, typer.Option(help="Sample to stream (default: the one that comes with hltfarm).")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="How long to stream.")] = 15.0,
    backend: Annotated[str, typer.Option(help="Backend of the workers: cpu, cuda or auto.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
) -> int:
    """Run a farm on this machine, stream events through it, report.

    The exit code is 0 only if clients, ledger and metrics agree on every event.
    """
    from rich.console import Console

    from hltfarm.loadgen.load.report import print_report, write_json
    from hltfarm.loadgen.source import read_events
    from hltfarm.service.api import FarmApi
    from hltfarm.service.farm_process import LOOPBACK, farm_process, free_ports, watcher

    console = Console(soft_wrap=True)
    sample = source or demo_source()
    payloads = read_events(sample)
    http, clients = free_ports(2)
    ingest, log = f"tcp://{LOOPBACK}:{clients}", out.with_suffix(".log")
    arguments = ["--http", f"{LOOPBACK}:{http}", "--ingest", ingest, "--backend", backend, "--workers", str(workers)]
    arguments += ["--output-file", "64M", "--output-keep", "512M"]  # the accepted events of half a minute can be many gigabytes
    arguments += ["--data", str(out.parent / "demo"), "--detector", str(sample) if sample.is_dir() else "phase1"]
    if source is None:
        arguments += ["--menu", str(demo_menu())]
    with farm_process(arguments, log) as process, FarmApi(f"http://{LOOPBACK}:{http}") as farm:
        console.print(f"starting a farm: http://{LOOPBACK}:{http}, events at {ingest}, log in {log}")
        farm.wait_ready(READY_S, watcher(process, log))
        reports = stream(ingest, sample, payloads, seconds, console)
        ledger, problems = close_run(farm, reports)
    if process.returncode:
        problems.append(f"the farm ended with exit code {process.returncode} (see {log})")
    console.print(f"accepted events are in {out.parent / 'demo' / 'output'}, the latest 512 MiB of them")
    print_report(reports[-1], console)
    write_json(out, summary(reports, ledger, problems))
    console.print("ledger: " + ", ".join(f"{ledger[name]:,} {name.replace('_', ' ')}" for name in LEDGER))
    for problem in problems:
        console.print(problem, style="bold red")
    console.print(
        f"clients, ledger and metrics {'disagree' if problems else 'agree'}; result in {out}", style="red" if problems else "green"
    )
    return 1 if problems else 0


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(demo)
