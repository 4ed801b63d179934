"""The store of menus over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from hltfarm.proto.errors import ConfigError
from hltfarm.service.control.context import ContextDep
from hltfarm.service.control.library import MenuText, parse
from hltfarm.service.control.models import REFERENCE
from hltfarm.service.control.runs import NOT_FOUND, PROBLEMS
from hltfarm.service.registry import MenuRecord
from hltfarm.workers.menu.diff import compare
from hltfarm.workers.menu.menu import Menu
from hltfarm.workers.menu.report import menu_document

router = APIRouter(prefix="/v1/menus", tags=["menus"])

Reference = Annotated[str, Path(pattern=REFERENCE, description="name or hash; `default` is the built-in menu, `active` that of the run")]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the menu, UTF-8 (JSON is YAML, too)",
        "content": {kind: {"schema": {"type": "string"}} for kind in ("application/yaml", "text/yaml", "text/plain")},
    }
}
_FAULTY: dict[int | str, dict[str, Any]] = {422: PROBLEMS[422]}
_IN_USE: dict[int | str, dict[str, Any]] = {409: {**PROBLEMS[409], "description": "It is in use, or the name stands for several."}}


class MenuEntry(BaseModel):
    """A menu of the store. `created`: its first upload; `changed`: the last one that changed its text, by `who`."""

    name: str
    hash: str = Field(description="of what it decides: two menus with one hash decide the same")
    created: datetime
    changed: datetime
    who: str

    @classmethod
    def of(cls, record: MenuRecord) -> MenuEntry:
        """From the registry's record."""
        return cls(name=record.name, hash=record.hash, created=record.created, changed=record.changed, who=record.who)


class MenuList(BaseModel):
    """Every menu of the store, by name; of one name the one that changed last comes first."""

    menus: list[MenuEntry]


class MenuContent(BaseModel):
    """A menu: its text, and what it says."""

    name: str
    hash: str
    streams: dict[str, str]
    paths: list[dict[str, Any]] = Field(description="name, bit (null for a disabled one), stream, prescale, require")
    text: str
    stored: MenuEntry | None

    @classmethod
    def of(cls, found: MenuText) -> MenuContent:
        """From a menu that a reference stands for."""
        return cls(**menu_document(found.menu), text=found.text, stored=None if found.record is None else MenuEntry.of(found.record))


class ChangeModel(BaseModel):
    """One thing that differs within a path; null where it is absent."""

    what: str = Field(description="enabled, stream, prescale, description or require.QUANTITY")
    before: Any
    after: Any


class MenuDifference(BaseModel):
    """What differs between two menus."""

    before: str = Field(description="name and hash")
    after: str
    same_decisions: bool
    added: list[str]
    removed: list[str]
    changed: dict[str, list[ChangeModel]]
    moved: dict[str, tuple[int, int]] = Field(description="bits of paths that are in both, before and after")
    text: str = Field(description="as `diff -u` shows it")


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the menu is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _label(menu: Menu) -> str:
    return f"{menu.name} ({menu.hash})"


_STORED: dict[int | str, dict[str, Any]] = _FAULTY | {200: {"model": MenuContent, "description": "Known already."}}


@router.post("", status_code=201, openapi_extra=_BODY, responses=_STORED)
async def upload(context: ContextDep, request: Request, response: Response) -> MenuContent:
    """Check a menu and store it under its name and hash. 201 if it is new; 200 for one that is there, whose text is then this one."""
    found, new = await context.library.add_menu(await _text(request), request.state.who)
    if not new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/menus/{found.menu.hash}"
    return MenuContent.of(found)


@router.post("/validate", openapi_extra=_BODY, responses=_FAULTY)
async def validate(request: Request) -> MenuContent:
    """Check a menu and store nothing; 422 lists every fault with its line."""
    text = await _text(request)
    return MenuContent.of(MenuText(text, parse(text), None))


@router.get("")
async def menus(context: ContextDep) -> MenuList:
    """The menus of the store."""
    records = await context.farm.registry(lambda registry: registry.menus.all())
    return MenuList(menus=[MenuEntry.of(record) for record in records])


@router.get("/{reference}", responses=NOT_FOUND)
async def menu(context: ContextDep, reference: Reference) -> MenuContent:
    """One menu, with its text."""
    return MenuContent.of(await context.library.menu(reference))


@router.get("/{reference}/diff/{other}", responses=NOT_FOUND)
async def diff(context: ContextDep, reference: Reference, other: Reference) -> MenuDifference:
    """What changes from the first menu to the second."""
    before, after = await context.library.menu(reference), await context.library.menu(other)
    found = compare(before.menu, after.menu, before.text, after.text, (_label(before.menu), _label(after.menu)))
    return MenuDifference(
        before=_label(before.menu),
        after=_label(after.menu),
        same_decisions=found.same_decisions,
        added=list(found.added),
        removed=list(found.removed),
        changed={
            name: [ChangeModel(what=change.what, before=change.before, after=change.after) for change in changes]
            for name, changes in found.changed.items()
        },
        moved=found.moved,
        text=found.text,
    )


@router.delete("/{reference}", status_code=204, responses=NOT_FOUND | _IN_USE)
async def remove(context: ContextDep, reference: Reference) -> None:
    """Forget a menu. Runs that were taken with it keep its text."""
    await context.library.remove_menu(reference)
