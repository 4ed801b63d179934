"""`hltfarm bench control`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.outputs import check_file


def control(
    ingests: Annotated[str, typer.Option(help="Numbers of ingests.")] = "1,10,50,200",
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Length of each measurement.")] = 10.0,
    scrapes: Annotated[int, typer.Option(min=1, max=1000, help="Scrapes of its metrics for each.")] = 10,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """What the control plane costs for many ingests: CPU of its looks, size and time of a scrape. Stand-ins answer for the ingests."""
    from rich.console import Console
    from rich.table import Table

    from hltfarm.loadgen.load.report import write_json
    from hltfarm.service.bench.control_alone import measure, to_json
    from hltfarm.service.cli.bench import numbers

    chosen = numbers(ingests)
    check_file("--json", json)
    errors = Console(stderr=True)
    costs = list(measure(chosen, seconds, scrapes, lambda text: errors.print(text, soft_wrap=True)))
    if json is not None:
        write_json(json, to_json(costs))
    table = Table("ingests", "first view s", "cores", "CPU a look ms", "scrape ms", "scrape kB", "series", "memory MB")
    for cost in costs:
        table.add_row(
            *(str(cost.ingests), f"{cost.first_s:.1f}", f"{cost.cores:.3f}", f"{cost.look_ms:.1f}", f"{cost.scrape_ms:.0f}"),
            *(f"{cost.scrape_bytes / 1e3:.0f}", str(cost.series), f"{cost.resident_bytes / 1e6:.0f}"),
        )
    Console(width=160).print(table)


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("control")(control)
