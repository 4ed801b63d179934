"""`hltfarm ctl menu`: the farm's store of menus, and which menu decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from hltfarm.service.cli.ctl.session import TIMEOUT_S, NoWait, Partial, Timeout, moment, session_of, table

KIND = "application/yaml"
File = Annotated[Path, typer.Argument(help="A menu (YAML).")]
Reference = Annotated[str, typer.Argument(metavar="NAME|HASH", help="`default`: the built-in menu; `active`: that of the run.")]
Lumisection = Annotated[int | None, typer.Option(min=1, help="First lumisection that it decides (default: the next one).")]


def menu_path(reference: str) -> str:
    """Path of a menu of the store."""
    return f"/v1/menus/{quote(reference, safe='')}"


def _content(file: Path) -> bytes:
    from hltfarm.workers.menu.yaml_source import read_file

    return read_file(file).encode()


def _told(menu: dict[str, Any]) -> str:
    return f"menu {menu['name']}, hash {menu['hash']}, {sum(path['bit'] is not None for path in menu['paths'])} paths"


def list_menus(context: typer.Context) -> None:
    """The menus of the store."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", "/v1/menus"), _table)


def _table(answer: dict[str, Any]) -> str:
    rows = [(menu["name"], menu["hash"], moment(menu["changed"]), menu["who"]) for menu in answer["menus"]]
    return table(("NAME", "HASH", "CHANGED", "WHO"), rows)


def show(context: typer.Context, reference: Reference) -> None:
    """The text of a menu."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", menu_path(reference)), lambda menu: str(menu["text"]).rstrip("\n"))


def upload(context: typer.Context, file: File) -> None:
    """Check a menu and store it."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("POST", "/v1/menus", content=_content(file), kind=KIND), lambda menu: f"stored {_told(menu)}")


def validate(context: typer.Context, file: File) -> None:
    """Check a menu as the farm would, and store nothing."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("POST", "/v1/menus/validate", content=_content(file), kind=KIND), lambda menu: f"valid: {_told(menu)}")


def diff(context: typer.Context, before: Reference, after: Reference) -> None:
    """What changes from one menu to another."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("GET", f"{menu_path(before)}/diff/{quote(after, safe='')}"), _diff_text)


def _diff_text(found: dict[str, Any]) -> str:
    lines = [f"{found['before']} -> {found['after']}: {'the same decisions' if found['same_decisions'] else 'other decisions'}"]
    lines += [f"+ {name}" for name in found["added"]] + [f"- {name}" for name in found["removed"]]
    for name, changes in found["changed"].items():
        lines += [f"~ {name}: {change['what']}: {_value(change['before'])} -> {_value(change['after'])}" for change in changes]
    lines += [f"~ {name}: bit {bits[0]} -> {bits[1]}" for name, bits in found["moved"].items()]
    return "\n".join([*lines, *([found["text"].rstrip("\n")] if found["text"] else [])])


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {bound:g}" for key, bound in value.items())
    return "nothing" if value is None else str(value)


def activate(
    context: typer.Context,
    reference: Reference,
    lumisection: Lumisection = None,
    partial: Partial = False,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Let a menu of the store decide, from a lumisection of the running run on."""
    session = session_of(context)
    with session.farm() as farm:
        answer = farm.ask("POST", "/v1/control/activate", {"menu_ref": reference, "lumisection": lumisection, "partial": partial})
        session.wait(farm, answer, no_wait, timeout)


def rollback(
    context: typer.Context,
    lumisection: Lumisection = None,
    partial: Partial = False,
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Back to the menu and the models that decided before the present ones."""
    session = session_of(context)
    with session.farm() as farm:
        answer = farm.ask("POST", "/v1/control/rollback", {"lumisection": lumisection, "partial": partial})
        session.wait(farm, answer, no_wait, timeout)


def delete(context: typer.Context, reference: Reference) -> None:
    """Forget a menu that is not in use."""
    session = session_of(context)
    with session.farm() as farm:
        session.show(farm.ask("DELETE", menu_path(reference)), lambda _answer: f"{reference}: deleted")


def register(group: Any) -> None:
    """Add the command group."""
    menu: Any = typer.Typer(help="Menus: list, show, upload, validate, diff, activate, rollback, delete.", no_args_is_help=True)
    menu.command("list")(list_menus)
    for command in (show, upload, validate, diff, activate, rollback, delete):
        menu.command()(command)
    group.add_typer(menu, name="menu")
