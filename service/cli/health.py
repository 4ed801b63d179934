"""`hltfarm health`: is a role on this machine alive, and could it take work? For health checks of containers, as exit code and one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.options import StatusOption

health = typer.Typer(help="Whether a role on this machine lives, or is ready: exit code 0 or 1, and a line.", no_args_is_help=True)
ReadyOption = Annotated[bool, typer.Option("--ready", help="Ask whether it could take work, not only whether it lives.")]


def _file(role: str, status: Path | None, ready: bool) -> None:
    import time

    from hltfarm.proto.errors import ConfigError
    from hltfarm.proto.status_file import check

    if status is None:
        raise ConfigError("give --status FILE (or HLTFARM_STATUS), as the role itself has it")
    found = check(status, role, ready, time.monotonic())
    typer.echo(f"{role} {found.pid}: {found.text}")


@health.command()
def ingest(status: StatusOption = None, ready: ReadyOption = False) -> None:
    """Its loop turns; ready: a worker is there, and it does not leave."""
    _file("ingest", status, ready)


@health.command()
def worker(status: StatusOption = None, ready: ReadyOption = False) -> None:
    """Its loop turns; ready: an ingest knows it."""
    _file("worker", status, ready)


@health.command()
def control(
    http: Annotated[str, typer.Option(help="Where its API is.", envvar="HLTFARM_HEALTH_HTTP")] = "http://127.0.0.1:8080",
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether the farm can be given events.")] = False,
) -> None:
    """GET /v2/health/live, or /v2/health/ready."""
    import httpx

    from hltfarm.proto.status_file import UnhealthyError

    path = "/v2/health/ready" if ready else "/v2/health/live"
    try:
        answer = httpx.get(http + path, timeout=5.0, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnhealthyError(f"control at {http} does not answer: {error or type(error).__name__}") from error
    if answer.status_code != 200:
        raise UnhealthyError(f"control at {http}: {answer.status_code} {answer.text[:500]}")
    typer.echo(f"control at {http}: {'ready' if ready else 'live'}")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(health, name="health")
