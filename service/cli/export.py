"""`hltfarm export`: events of sample and output files as ROOT, Parquet or Arrow."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.export_options import ColumnsOption, LayoutOption, TableOption, layout_of
from hltfarm.service.cli.outputs import check_file, check_folder

_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")


def export(
    source: Annotated[list[Path], typer.Argument(help="Files of accepted events or samples (.hlt), or folders of them.")],
    out: Annotated[Path, typer.Option(help="File (.root, .parquet, .arrow); with --format a folder, one file for each lumisection.")],
    format: Annotated[str | None, typer.Option(help="root, parquet or arrow: one file for each lumisection, in the folder --out.")] = None,
    stream: Annotated[list[str] | None, typer.Option(help="Only files of this stream; repeat it for more (default: all).")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run, or runs FIRST-LAST.")] = None,
    lumi: Annotated[str | None, typer.Option(help="Only this lumisection, or lumisections FIRST-LAST.")] = None,
    table: TableOption = None,
    columns: ColumnsOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="The payloads too, as a column of bytes.")] = False,
    root: LayoutOption = "rntuple",
) -> None:
    """Write tracks, vertices, decisions and truth of stored events for analysis.

    Needs the extra `data` (uproot, awkward, pyarrow).
    """
    from rich.console import Console
    from rich.progress import Progress

    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.export import SUFFIXES, check_suffix
    from hltfarm.service.export.job import Order
    from hltfarm.service.export.job import export as work
    from hltfarm.service.export.source import Cut

    suffix = None if format is None else f".{format}"
    if suffix is not None and suffix not in SUFFIXES:
        raise ConfigError(f"--format {format!r} is none of {', '.join(name[1:] for name in SUFFIXES)}")
    if suffix is None:
        if out.is_dir():
            raise ConfigError(f"--out {out}: is a folder; name a file in it, or give --format for one file for each lumisection")
        check_suffix("--out", out)
        check_file("--out", out)
    else:
        check_suffix("--out", out / f"events{suffix}")
        check_folder("--out", out)
    order = Order(
        tuple(source),
        out,
        suffix,
        Cut(tuple(stream or ()), _limits("--run", run), _limits("--lumi", lumi)),
        tuple(table or ()),
        tuple(columns or ()),
        raw,
        layout_of(root),
    )
    console = Console(stderr=True)
    begin = time.perf_counter()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=None)
        result = work(order, lambda done, total: bar.update(task, completed=done, total=total))
    seconds = time.perf_counter() - begin
    where = str(result.files[0]) if len(result.files) == 1 else f"{len(result.files)} files in {out}"
    typer.echo(f"{result.events} events, {result.bytes / 1e6:.1f} MB in {where}, {result.events / seconds:.0f} events/s")


def _limits(option: str, text: str | None) -> tuple[int, int] | None:
    from hltfarm.proto.errors import ConfigError

    if text is None:
        return None
    found = _RANGE.fullmatch(text)
    first, last = (0, -1) if found is None else (int(found[1]), int(found[2] or found[1]))
    if last < first:
        raise ConfigError(f"{option} {text!r}: give a number, or FIRST-LAST such as 3-12")
    return first, last


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)
