"""`hltfarm simulate`: make a sample of simulated events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    out: Annotated[Path, typer.Option(help="Sample file (.hlt) or, with --format patatrack, data directory to write.")],
    events: Annotated[int, typer.Option(min=1, help="Number of events.")] = 100,
    pileup: Annotated[float, typer.Option(min=0.0, max=400.0, help="Mean number of additional collisions in an event.")] = 50.0,
    process: Annotated[str, typer.Option(help="Hard collision: ttbar or minbias.")] = "ttbar",
    seed: Annotated[int, typer.Option(min=0, help="Seed; the same seed and options give the same bytes.")] = 1,
    format: Annotated[str, typer.Option(help="hlt: a sample file; patatrack: a data directory of pixeltrack-standalone.")] = "hlt",
    detector: Annotated[str, typer.Option(help="phase1, a detector file, or a folder with conditions.")] = "phase1",
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that work; the result does not depend on it.")] = 1,
    truth: Annotated[bool, typer.Option("--truth/--no-truth", help="Write particles and hits beside the raw data.")] = True,
    compress: Annotated[bool, typer.Option("--compress/--no-compress", help="Smaller files that are slower to read.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps generated collisions for the next time.")] = None,
) -> None:
    """Simulate events: collisions, tracks through the detector, charge, raw data.

    Needs the extra `sim` (Pythia).
    """
    from hltfarm.loadgen.simulate import run

    report = run(
        events,
        pileup=pileup,
        process=process,
        seed=seed,
        out=out,
        format=format,
        detector=detector,
        processes=processes,
        truth=truth,
        compress=compress,
        cache=cache,
    )
    typer.echo(
        f"{report.path}: {report.events} events, {report.bytes / 1e6:.1f} MB of raw data, "
        f"{report.pool_seconds:.1f} s for collisions and {report.event_seconds:.1f} s for events"
    )


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(simulate)
