"""`hltfarm compare`: whether reconstructions of the same events are the same, event by event and bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    reports: Annotated[list[Path], typer.Argument(help="Two or more files of `hltfarm reco --json`; all are compared with the first.")],
    common: Annotated[bool, typer.Option("--common", help="Events that only one of two files has do not count as a difference.")] = False,
    show: Annotated[int, typer.Option(min=1, help="Events with differences that are listed.")] = 10,
) -> int:
    """Compare reconstructions of the same events in every field, the digest included; exit code 1 if they are not equal."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.compare import compare, lines, read

    if len(reports) < 2:
        raise ConfigError("name two files of `hltfarm reco --json` or more")
    first, *others = [read(path) for path in reports]
    equal = True
    for other in others:
        result = compare(first, other)
        equal &= result.equal(common)
        typer.echo("\n".join(lines(first, other, result, common, show)))
    return 0 if equal else 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)
