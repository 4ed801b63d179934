"""`hltfarm sample`: what a sample holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sample(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file or a pixeltrack-standalone data directory.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read and check every byte of a sample file.")] = False,
) -> None:
    """Tell what a sample holds: events, sizes, detector, origin."""
    from hltfarm.loadgen.sample import Sample
    from hltfarm.loadgen.source import open_source

    events = open_source(source)
    if verify and isinstance(events, Sample):
        events.verify()
    sizes = [events[index].payload.nbytes for index in range(len(events))]
    typer.echo(f"{source}: {len(sizes)} events, {sum(sizes) / 1e6:.1f} MB of raw data")
    if sizes:
        first, last = events[0].id, events[len(sizes) - 1].id
        typer.echo(f"payload: {min(sizes):,} to {max(sizes):,} bytes, {sum(sizes) / len(sizes):,.0f} in the mean")
        typer.echo(
            f"first event: run {first.run}, lumisection {first.lumi}, event {first.event}; last: {last.run}, {last.lumi}, {last.event}"
        )
        typer.echo(f"truth: {'no' if events.truth(0) is None else 'yes'}")
    typer.echo(f"detector: {events.detector().name}")
    if isinstance(events, Sample):
        plain = {key: value for key, value in events.metadata.items() if isinstance(value, str | int | float)}
        typer.echo("made by: " + ", ".join(f"{key} {value}" for key, value in plain.items()))


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(sample)
