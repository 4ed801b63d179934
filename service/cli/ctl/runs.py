"""`hltfarm ctl`: status, run control, the registry's runs and audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hltfarm.service.cli.ctl.session import TIMEOUT_S, NoWait, Timeout, models_text, moment, session_of, table

#: What `configure` and `activate` take for menu and models, as the API calls it.
MenuFile = Annotated[Path | None, typer.Option("--menu", help="Menu file (YAML).")]
MenuRef = Annotated[str | None, typer.Option("--menu-ref", help="Menu of the farm's store, by name or hash; `default`: the built-in one.")]
Model = Annotated[str | None, typer.Option(help="Selector of tracks: shipped or uploaded (name or hash), a folder over there, or none.")]
WorkingPoint = Annotated[str | None, typer.Option(help="Working point of the selector, such as 0.99.")]
Engine = Annotated[str | None, typer.Option(help="Of the selector: fused, eager, compile, aot.")]
EventModel = Annotated[str | None, typer.Option(help="Classifier of events, as --model.")]


def programme(
    menu: Path | None, menu_ref: str | None, model: str | None, working_point: str | None, engine: str | None, event_model: str | None
) -> dict[str, Any]:
    """Menu and models of a request body; what is not given is left out. Raises ConfigError for a file that cannot be read."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.menu.yaml_source import read_file

    if menu is not None and menu_ref is not None:
        raise ConfigError("give --menu or --menu-ref, not both")
    body = {
        "menu": None if menu is None else read_file(menu),
        "menu_ref": menu_ref,
        "model": model,
        "working_point": working_point,
        "engine": engine,
        "event_model": event_model,
    }
    return {key: value for key, value in body.items() if value is not None}


def status_text(status: dict[str, Any]) -> str:
    """The farm in some lines."""
    ledger, rates = status["ledger"] or {}, status["rates"]
    run = "no run" if status["run"] is None else f"run {status['run']}"
    models = [model for model in (status["selector"], status["event_model"]) if model is not None]
    lines = [
        f"{status['state']}, {run}, {'ready' if status['ready'] else 'not ready'}",
        f"menu {status['menu_hash'] or '-'}, models {models_text(models)}",
        f"workers {status['workers_ready']} of {status['workers']} ready, clients {status['clients'] or 0}",
        f"rates: {rates['received_hz']:.1f} events/s in, {rates['accepted_hz']:.1f} accepted, {rates['bytes_per_s'] / 1e6:.1f} MB/s",
    ]
    if ledger:
        counted = " = ".join((f"received {ledger['received']}", " + ".join(f"{k} {ledger[k]}" for k in _PARTS)))
        lines.append(f"{counted}{'' if ledger['mismatch'] == 0 else '; MISMATCH ' + str(ledger['mismatch'])}")
    lines += [f"problem: {problem}" for problem in status["problems"]]
    lines += [f"under way: {item['command']} since {item['seconds']:.0f} s" for item in status["pending"]]
    return "\n".join([*lines, f"possible: {', '.join(status['legal'])}"])


_PARTS = ("accepted", "rejected", "error", "in_flight")


def status(context: typer.Context) -> None:
    """State, run, menu, models, rates, accounting and problems of the farm."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.status(), status_text)


def configure(
    context: typer.Context,
    menu: MenuFile = None,
    menu_ref: MenuRef = None,
    model: Model = None,
    working_point: WorkingPoint = None,
    engine: Engine = None,
    event_model: EventModel = None,
    detector: Annotated[str | None, typer.Option(help="phase1, a detector file, or a folder with conditions over there.")] = None,
    run: Annotated[int | None, typer.Option(min=1, help="Run number (default: the next one).")] = None,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Give the farm a new run's configuration; what is left out is as it was started with, or as activated last."""
    session = session_of(context)
    body = programme(menu, menu_ref, model, working_point, engine, event_model)
    body |= {key: value for key, value in (("detector", detector), ("run", run)) if value is not None}
    with session.farm() as farm:
        session.wait(farm, farm.ask("POST", "/v1/control/configure", body), no_wait, timeout)


def _steering(name: str, doc: str) -> Any:
    def steer(context: typer.Context, no_wait: NoWait = False, timeout: Timeout = TIMEOUT_S) -> None:
        session = session_of(context)
        with session.farm() as farm:
            session.wait(farm, farm.ask("POST", f"/v1/control/{name}"), no_wait, timeout)

    steer.__doc__ = doc
    return steer


#: Commands of run control without options of their own, with their help.
STEERING = {
    "start": "Begin the configured run; after a stop, the next one with the same configuration.",
    "pause": "Take no new events; those in flight are decided.",
    "resume": "Take events again.",
    "drain": "Take no new events and wait until all in flight are decided; the run stays open.",
    "stop": "End the run, with a closed ledger.",
    "reset": "Give up whatever goes on; events in flight go to the error stream.",
}


def run_text(run: dict[str, Any]) -> str:
    """One run with what was counted."""
    lines = [
        f"run {run['number']}: {run['outcome']}, configured {moment(run['created'])}, started {moment(run['started'])}, "
        f"ended {moment(run['stopped'])} UTC",
        f"detector {run['detector']}, menu {run['menu_hash']}",
    ]
    for item in run["activations"]:
        decided = f"{item['accepted']} accepted, {item['rejected']} rejected"
        lines.append(f"from lumisection {item['first_lumi']}: menu {item['menu_hash']}, models {models_text(item['models'])}: {decided}")
    for kind, values in run["counters"].items():
        lines.append(f"{kind}: {', '.join(f'{name} {value}' for name, value in values.items()) or 'none'}")
    return "\n".join(lines)


def runs(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(min=1, help="One run in full.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Number of runs.")] = 20,
) -> None:
    """The latest runs of the registry, or one in full."""
    session = session_of(context)
    with session.farm() as farm:
        if number is not None:
            session.show(farm.run(number), run_text)
            return
        session.show(farm.ask("GET", "/v1/runs", limit=limit), _runs_table)


def _runs_table(page: dict[str, Any]) -> str:
    rows = []
    for run in page["runs"]:
        ledger = run["ledger"] or {}
        counts = [ledger.get(key) for key in ("received", "accepted", "error")]
        rows.append((run["number"], run["outcome"], moment(run["started"]), moment(run["stopped"]), run["menu_hash"], *counts))
    return table(("RUN", "OUTCOME", "STARTED", "ENDED", "MENU", "RECEIVED", "ACCEPTED", "ERROR"), rows)


def audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Number of entries.")] = 20,
    before: Annotated[int | None, typer.Option(min=1, help="Only entries below this id.")] = None,
) -> None:
    """Who gave which command, the latest first."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", "/v1/audit", limit=limit, before=before), _audit_table)


def _audit_table(page: dict[str, Any]) -> str:
    rows = [
        (entry["id"], moment(entry["time"]), entry["who"], entry["address"], entry["command"], entry["outcome"], entry["detail"])
        for entry in page["entries"]
    ]
    return table(("ID", "TIME", "WHO", "FROM", "COMMAND", "OUTCOME", "DETAIL"), rows)


def register(group: Any) -> None:
    """Add the commands."""
    group.command()(status)
    group.command()(configure)
    for name, doc in STEERING.items():
        group.command(name)(_steering(name, doc))
    group.command()(runs)
    group.command()(audit)
