"""`hltfarm ctl workers`: the workers of the farm."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from hltfarm.service.cli.ctl.session import TIMEOUT_S, NoWait, Timeout, session_of, table

Name = Annotated[str, typer.Argument(help="Name of the worker.")]


def _path(name: str, command: str = "") -> str:
    return f"/v1/workers/{quote(name, safe='')}{command}"


def _state(worker: dict[str, Any]) -> str:
    if worker.get("quarantined"):
        return "quarantined"
    if worker["joined"] and worker["up"]:
        return "ready" if worker["ready"] else "joined"
    process = worker["process"]
    return process["phase"] if process is not None else "lost"


def _table(answer: dict[str, Any]) -> str:
    rows = [
        (
            worker["name"],
            _state(worker),
            worker["backend"],
            worker["device"],
            worker["credit_events"],
            worker["in_flight"],
            worker["processed"],
            worker["restarts"],
            (worker["process"] or {}).get("pid"),
            (worker["process"] or {}).get("last_exit"),
        )
        for worker in answer["workers"]
    ]
    return table(("NAME", "STATE", "BACKEND", "DEVICE", "CREDIT", "IN FLIGHT", "PROCESSED", "RESTARTS", "PID", "LAST EXIT"), rows)


def list_workers(context: typer.Context) -> None:
    """Every worker, with its process where this farm runs it."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", "/v1/workers"), _table)


def add(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Default: worker-N with the next free number.")] = None,
    backend: Annotated[str | None, typer.Option(help="cpu, cuda or auto; default: as the farm was started with.")] = None,
    device: Annotated[int | None, typer.Option(min=0, help="GPU, counted among those that the farm sees.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU backend.")] = None,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Start one more worker on the farm's machine."""
    session = session_of(context)
    asked = {"name": name, "backend": backend, "device": device, "threads": threads}
    with session.farm() as farm:
        answer = farm.ask("POST", "/v1/workers", {key: value for key, value in asked.items() if value is not None})
        session.wait(farm, answer, no_wait, timeout)


def drain(context: typer.Context, name: Name, no_wait: NoWait = False, timeout: Timeout = TIMEOUT_S) -> None:
    """Let a worker finish what it has and leave, until it is released."""
    session = session_of(context)
    with session.farm() as farm:
        session.wait(farm, farm.ask("POST", _path(name, "/drain")), no_wait, timeout)


def restart(
    context: typer.Context,
    name: Name,
    now: Annotated[bool, typer.Option("--now", help="Kill it instead of draining it.")] = False,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """End a worker and start it again."""
    session = session_of(context)
    with session.farm() as farm:
        session.wait(farm, farm.ask("POST", _path(name, "/restart"), now="true" if now else None), no_wait, timeout)


def quarantine(
    context: typer.Context,
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Why; shown with the worker.")] = None,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Take a worker out of service until it is released."""
    session = session_of(context)
    with session.farm() as farm:
        answer = farm.ask("POST", _path(name, "/quarantine"), None if reason is None else {"reason": reason})
        session.wait(farm, answer, no_wait, timeout)


def release(context: typer.Context, name: Name) -> None:
    """Let a worker work again that is quarantined, drained or waits for its restart."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("POST", _path(name, "/release")), lambda worker: f"{worker['name']}: {_state(worker)}")


def remove(context: typer.Context, name: Name, no_wait: NoWait = False, timeout: Timeout = TIMEOUT_S) -> None:
    """Drain a worker and keep its process no longer."""
    session = session_of(context)
    with session.farm() as farm:
        session.wait(farm, farm.ask("DELETE", _path(name)), no_wait, timeout)


def register(group: Any) -> None:
    """Add the command group."""
    workers: Any = typer.Typer(help="Workers: list, add, drain, restart, quarantine, release, remove.", no_args_is_help=True)
    workers.command("list")(list_workers)
    for command in (add, drain, restart, quarantine, release, remove):
        workers.command()(command)
    group.add_typer(workers, name="workers")
