"""`hltfarm tap`: accepted events from a farm's output stream, into a file or counted."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.export_options import LayoutOption, layout_of
from hltfarm.service.cli.options import OwnKeyOption, ServerKeyOption
from hltfarm.service.cli.outputs import check_file

POLL_S = 0.5


def tap(
    url: Annotated[str, typer.Option(help="Endpoint of the output of an ingest.")] = "tcp://127.0.0.1:7410",
    stream: Annotated[list[str] | None, typer.Option(help="Stream; repeat it for more (default: all).")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to this file: .hlt for `reco` and `export`; tracks, vertices, decisions as .root, .parquet, .arrow."),
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many events; 0: go on until interrupted.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0: go on until interrupted.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the consumer, which no other has (default: tap, host and process).")] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Get every event: the farm waits for this consumer. Default: what there is time for.")
    ] = False,
    root: LayoutOption = "rntuple",
    key: OwnKeyOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    """Subscribe to streams of accepted events; write them to a file, print how many came and how many were missed."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.proto.output_wire import Mode
    from hltfarm.service.cli.security import client_curve
    from hltfarm.service.client import ConnectionLostError
    from hltfarm.service.consumer import Consumer
    from hltfarm.service.export import SUFFIXES, check_suffix
    from hltfarm.service.tap import run_tap

    layout = layout_of(root)
    check_file("--out", out)
    if out is not None:
        check_suffix("--out", out, also=(".hlt",))
    if lossless and out is not None and out.suffix in SUFFIXES:
        raise ConfigError(f"--lossless --out {out}: only an .hlt file keeps every event as it comes; write one, and `hltfarm export` it")
    mode = Mode.LOSSLESS if lossless else Mode.MONITOR
    if lossless and name is None:
        raise ConfigError("--lossless needs --name: the farm waits for a consumer of that name, until it comes back under it")
    own = name or f"tap-{platform.node()}-{os.getpid()}"
    with Consumer(url, own, streams=tuple(stream or ()), mode=mode, curve=client_curve(key, server_key)) as consumer:
        result = run_tap(consumer, out, count=count, seconds=seconds, poll_s=POLL_S, layout=layout)
    if not result.subscribed:
        raise ConnectionLostError(f"no answer from an ingest at {url}; is it running with --output-url, and is this its address?")
    where = f", in {' '.join(str(path) for path in result.files)}" if result.files else ""
    typer.echo(f"{result.events} events, {result.payload_bytes / 1e6:.1f} MB of raw data; {result.missed} missed{where}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tap")(tap)
