"""`hltfarm bench curve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.options import SLOTS
from hltfarm.service.cli.outputs import check_file


def curve(
    sizes: Annotated[str, typer.Option(help="Payloads in bytes.")] = "1000,30000,250000",
    turns: Annotated[int, typer.Option(min=1, max=1000, help="Loads on each side, in turns.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.2, max=600, help="Length of each load.")] = 2.0,
    connections: Annotated[int, typer.Option(min=1, max=64, help="Client connections.")] = 2,
    slots: Annotated[int, typer.Option(min=1, max=1 << 16, help=SLOTS)] = 64,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """What keys (CURVE) cost: two ingests side by side whose worker computes nothing, loaded in turns with as much as credit allows."""
    from rich.console import Console

    from hltfarm.loadgen.load.report import write_json
    from hltfarm.proto.errors import ConfigError
    from hltfarm.proto.limits import Limits
    from hltfarm.service.bench.curve import measure, print_points, to_json
    from hltfarm.service.cli.bench import numbers
    from hltfarm.service.security.keys import require_curve

    chosen, most = numbers(sizes), Limits().max_payload_bytes
    if max(chosen) > most:
        raise ConfigError(f"--sizes {sizes}: a payload has {most} bytes at most")
    check_file("--json", json)
    require_curve()
    console = Console(width=160)
    errors = Console(stderr=True)
    points = list(measure(chosen, seconds, turns, connections, slots, lambda text: errors.print(text, soft_wrap=True)))
    if json is not None:
        write_json(json, to_json(points, {"seconds": seconds, "turns": turns, "connections": connections, "slots": slots}))
    print_points(points, console)


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("curve")(curve)
