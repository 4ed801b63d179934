"""`hltfarm drain`: an ingest that is to be ended takes no new events, and what it has is decided. For preStop hooks and scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from hltfarm.service.cli.options import OwnKeyOption, ServerKeyOption


def drain(
    ingest: Annotated[list[str], typer.Option(help="Control endpoint; repeat it for more.", envvar="HLTFARM_DRAIN_INGEST")] = [  # noqa: B006 typer copies it
        "tcp://127.0.0.1:7402"
    ],
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=86_400, help="Longest wait, in seconds.", envvar="HLTFARM_DRAIN_TIMEOUT")
    ] = 60.0,
    key: OwnKeyOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    """Let an ingest leave its farm: no new events, its run ends there once all is decided. End its process afterwards."""
    from hltfarm.service.cli.security import client_curve
    from hltfarm.service.drain import drain

    drain(ingest, timeout_s, client_curve(key, server_key), typer.echo)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("drain")(drain)
