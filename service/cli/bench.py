"""`hltfarm bench`: measurements, each a ratio or a rate with its spread; never part of the test suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def numbers(text: str) -> list[int]:
    """Positive integers from a comma-separated list. Raises ConfigError for anything else."""
    from hltfarm.proto.errors import ConfigError

    try:
        values = [int(x) for x in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise ConfigError(f"{text!r} is not a comma-separated list of positive integers")
    return values


def pipeline(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file or a pixeltrack-standalone data directory.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda or both.")] = "cpu",
    batches: Annotated[str, typer.Option(help="CUDA: batch sizes.")] = "1,4,16,64,256",
    threads: Annotated[str, typer.Option(help="CPU: numbers of threads.")] = "1,2",
    events: Annotated[int, typer.Option(min=32, help="Events per measurement (CPU: an eighth of it).")] = 4096,
    repeat: Annotated[int, typer.Option(min=1, help="Measurements of each setting; the median counts.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """The chain in process: events per second and time of each stage."""
    from hltfarm.loadgen.source import open_source
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.bench import print_report, run_pipeline, write_report

    if backend not in ("cpu", "cuda", "both"):
        raise ConfigError(f"--backend {backend!r}: use cpu, cuda or both")
    opened = open_source(source)
    points = run_pipeline(opened, backend, numbers(batches), numbers(threads), events, repeat)
    if json:
        write_report(points, opened, json)
    print_report(points)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Benchmarks.", no_args_is_help=True)
    group.command()(pipeline)
    app.add_typer(group, name="bench")
