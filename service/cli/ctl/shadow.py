"""`hltfarm ctl shadow`: a menu or models that decide beside the active ones, without effect; `hltfarm ctl programmes`: what decides."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hltfarm.service.cli.ctl.runs import Engine, EventModel, MenuFile, MenuRef, Model, WorkingPoint, programme
from hltfarm.service.cli.ctl.session import models_text, session_of, table


def _rate(value: dict[str, Any]) -> str:
    return f"{100 * value['fraction']:.3f} % ({100 * value['low']:.3f} .. {100 * value['high']:.3f})"


def shadow_text(shadow: dict[str, Any]) -> str:
    """The difference matrix and the rates."""
    decides = f"menu {shadow['menu_hash']}, models {models_text(shadow['models'])}" if shadow["menu_hash"] else "not built yet"
    lines = [f"{decides}: {100 * shadow['events_fraction']:g} % of the events"]
    if shadow["waits_for"]:
        lines.append(f"being built by {', '.join(shadow['waits_for'])}")
    if shadow["error"]:
        lines.append(f"cannot be built: {shadow['error']}")
    matrix = shadow["matrix"]
    lines.append(f"{shadow['events']} events seen, {shadow['failed']} that the shadow could not process")
    lines.append(
        table(
            ("", "SHADOW ACCEPTS", "SHADOW REJECTS"),
            [("active accepts", matrix["both"], matrix["active_only"]), ("active rejects", matrix["shadow_only"], matrix["neither"])],
        )
    )
    if shadow["events"]:
        lines.append(f"accepted: active {_rate(shadow['active'])}, shadow {_rate(shadow['shadow'])}")
    rows = [(name, path["both"], path["active_only"], path["shadow_only"]) for name, path in shadow["paths"].items()]
    return "\n".join([*lines, table(("PATH", "BOTH", "ACTIVE ONLY", "SHADOW ONLY"), rows)])


def start(
    context: typer.Context,
    menu: MenuFile = None,
    menu_ref: MenuRef = None,
    model: Model = None,
    working_point: WorkingPoint = None,
    engine: Engine = None,
    event_model: EventModel = None,
    fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of the events that it decides, too.")] = 0.1,
) -> None:
    """Let another menu or other models decide a share of the events beside the active ones; what is left out is as it is there."""
    session = session_of(context)
    body = programme(menu, menu_ref, model, working_point, engine, event_model) | {"fraction": fraction}
    with session.farm() as farm:
        session.show(farm.ask("PUT", "/v1/shadow", body), shadow_text)


def show(context: typer.Context) -> None:
    """How the shadow's decisions differ from those that were taken."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", "/v1/shadow"), shadow_text)


def stop(context: typer.Context) -> None:
    """End the shadow; its numbers are printed a last time."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("DELETE", "/v1/shadow"), shadow_text)


def programmes(context: typer.Context) -> None:
    """Which menu and models decide the present run, from which lumisection, and how many events they decided."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", "/v1/programmes"), _programmes_text)


def _programmes_text(answer: dict[str, Any]) -> str:
    rows = []
    for item in answer["programmes"]:
        rows.append(
            (
                item["first_lumi"],
                item["menu_hash"],
                models_text(item["models"]),
                item["accepted"],
                item["rejected"],
                "now" if item["current"] else "",
            )
        )
    text = table(("FROM LUMISECTION", "MENU", "MODELS", "ACCEPTED", "REJECTED", ""), rows)
    pending = answer["pending"]
    waiting = f"\nbeing prepared; waits for {', '.join(pending['waits_for']) or 'nobody'}" if pending is not None else ""
    return f"lumisection {answer['lumisection']}\n{text}{waiting}"


def register(group: Any) -> None:
    """Add the commands."""
    shadow: Any = typer.Typer(help="Shadow: start, show, stop.", no_args_is_help=True)
    for command in (start, show, stop):
        shadow.command()(command)
    group.add_typer(shadow, name="shadow")
    group.command()(programmes)
