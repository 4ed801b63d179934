"""`hltfarm soak`: a farm under a steady load for a long time, and whether anything grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hltfarm.service.cli.outputs import check_file, check_folder
from hltfarm.service.cli.serve import backend_name, detector_name

if TYPE_CHECKING:
    from rich.console import Console

    from hltfarm.service.soak.run import SoakResult


def soak(
    duration: Annotated[float, typer.Option(min=10.0, max=7 * 86400.0, help="Seconds of load; the first 30 % are warm-up.")] = 600.0,
    load: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the capacity, which is measured first.")] = 0.8,
    rate: Annotated[float | None, typer.Option(min=1.0, help="Events per second instead of a share; nothing is measured.")] = None,
    interval: Annotated[float, typer.Option(min=0.2, max=600.0, help="Seconds between two samples.")] = 2.0,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Client connections.")] = 4,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    ingests: Annotated[int, typer.Option(min=1, max=16, help="Ingest processes.")] = 1,
    backend: Annotated[str, typer.Option(help="Backend of the workers: cpu, cuda or auto.")] = "auto",
    source: Annotated[Path | None, typer.Option(help="Sample to stream (default: the one that comes with hltfarm).")] = None,
    memory_mib: Annotated[float, typer.Option(min=0.0, help="Growth of a process that is no leak (at least 2 % of it are none).")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the arrivals.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the result, with every sample, to this file.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the farm's log, registry and outputs in this folder.")] = None,
) -> int:
    """Put a steady load on a farm of its own, watch memory, descriptors, threads and latency, and check the books.

    The exit code is 0 only if nothing grows beyond its bound, no status told of a mismatch, and clients, ledger and metrics agree.
    """
    import tempfile

    from rich.console import Console

    from hltfarm.loadgen.load.report import write_json
    from hltfarm.loadgen.source import read_events
    from hltfarm.proto.errors import SampleError
    from hltfarm.service.cli.demo import demo_menu, demo_source
    from hltfarm.service.soak.run import SoakSettings, run_soak
    from hltfarm.service.soak.verdict import MIB, Bounds

    check_file("--json", json)
    check_folder("--keep", keep)
    sample = source or demo_source()
    payloads = read_events(sample)
    if not payloads:
        raise SampleError(f"{sample}: no events in it")
    serve = [*("--backend", backend_name(backend)), *("--workers", str(workers))]
    serve += [*("--detector", detector_name(str(sample)) if sample.is_dir() else "phase1")]
    serve += ["--output-file", "64M", "--output-keep", "512M"]  # files come and go, and the disk does not fill
    serve += [*("--menu", str(demo_menu()))] if source is None else []
    console, errors = Console(width=140), Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="hltfarm-soak-") as folder:
        settings = SoakSettings(
            folder=(keep or Path(folder)).resolve(),
            source=sample.name,
            payloads=payloads,
            serve=serve,
            duration_s=duration,
            load=load,
            rate_hz=rate,
            interval_s=interval,
            connections=max(clients, ingests),
            ingests=ingests,
            seed=seed,
            bounds=Bounds(memory_bytes=int(memory_mib * MIB)),
        )
        with errors.status("") as status:
            result = run_soak(settings, status.update if errors.is_terminal else lambda _: None)
    print_result(result, console)
    if json is not None:
        options = {"duration_s": duration, "load": load, "interval_s": interval, "clients": clients, "workers": workers, "ingests": ingests}
        write_json(json, {"options": options | {"backend": backend, "source": sample.name}, **result.to_json()})
    return 0 if result.sound else 1


def print_result(result: SoakResult, console: Console) -> None:
    """The rates, a line for each quantity, and what is wrong."""
    from rich.table import Table

    capacity = "" if result.capacity_hz is None else f"capacity {result.capacity_hz:,.1f} events/s, "
    told = result.load.latency_ms
    console.print(
        f"{capacity}offered {result.offered_hz:,.1f} events/s for {result.load.seconds:.0f} s: {result.load.sent} sent, "
        f"{sum(result.load.decisions.values())} decided, p50 {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms, "
        f"mismatch in {sum(number for amount, number in result.mismatches.items() if amount)} of {sum(result.mismatches.values())} statuses"
        if told["p50"] is not None and told["p99"] is not None
        else "no event was decided",
        soft_wrap=True,
    )
    table = Table(title=f"After the warm-up, {len(result.footprints)} samples in all")
    for heading in ("of", "quantity", "begin", "end", "allowed", "per hour", "verdict"):
        table.add_column(heading, justify="left" if heading in ("of", "quantity", "verdict") else "right")
    for item in result.judgements:
        unit = f" {item.unit}" if item.unit else ""
        slope = f"{item.per_hour:+.1f}{unit}" if item.quantity == "memory" else ""
        table.add_row(
            item.subject, item.quantity, f"{item.begin:.1f}{unit}", f"{item.end:.1f}{unit}", f"+{item.allowed:.1f}{unit}", slope,
            "flat" if item.flat else "GROWS",
        )  # fmt: skip
    console.print(table)
    for problem in result.problems:
        console.print(problem, style="bold red", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(soak)
