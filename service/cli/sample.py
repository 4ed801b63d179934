"""`hltfarm sample`: what a sample holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hltfarm.loadgen.sample import Sample
    from hltfarm.loadgen.sample_folder import SampleFolder


def sample(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file, a folder of them, a pixeltrack-standalone data directory, or demo.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read and check every byte of the files, and what sidecars say.")] = False,
) -> None:
    """Tell what a sample holds: events, sizes, detector, origin."""
    from hltfarm.loadgen.sample import Sample
    from hltfarm.loadgen.sample_folder import SampleFolder
    from hltfarm.loadgen.source import open_source
    from hltfarm.service.output.recovery import check_sidecar

    events = open_source(source)
    if verify and isinstance(events, Sample | SampleFolder):
        events.verify()
        checked = [path for path in _files(events) if check_sidecar(path)]
        typer.echo(f"every byte is as it was written{f', and {len(checked)} sidecars agree' if checked else ''}")
    sizes = [events[index].payload.nbytes for index in range(len(events))]
    typer.echo(f"{source}: {len(sizes)} events, {sum(sizes) / 1e6:.1f} MB of raw data")
    if sizes:
        first, last = events[0].id, events[len(sizes) - 1].id
        typer.echo(f"payload: {min(sizes):,} to {max(sizes):,} bytes, {sum(sizes) / len(sizes):,.0f} in the mean")
        typer.echo(
            f"first event: run {first.run}, lumisection {first.lumi}, event {first.event}; last: {last.run}, {last.lumi}, {last.event}"
        )
        typer.echo(f"truth: {'no' if events.truth(0) is None else 'yes'}")
        if isinstance(events, Sample | SampleFolder):
            _tell_decision(events)
    typer.echo(f"detector: {events.detector().name}")
    if isinstance(events, Sample):
        plain = {key: value for key, value in events.metadata.items() if isinstance(value, str | int | float)}
        typer.echo("made by: " + ", ".join(f"{key} {value}" for key, value in plain.items()))


def _files(events: Sample | SampleFolder) -> list[Path]:
    return [sample.path for sample in getattr(events, "samples", [events])]


def _tell_decision(events: Sample | SampleFolder) -> None:
    """What output files hold besides raw data."""
    decision, tables = events.decision(0), events.columns(0)
    if decision is None:
        return
    rows = ", ".join(f"{len(next(iter(table.values()), ()))} {name}" for name, table in (tables or {}).items())
    typer.echo(f"decisions: yes, of the first event: digest {int(decision['digest'][0]):016x}, menu {int(decision['menu'][0]):016x}")
    typer.echo(f"reconstructed tables: {f'yes, of the first event {rows}' if tables else 'no'}")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(sample)
