"""What differs between two menus: for the operator who is about to exchange them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import unified_diff

from hltfarm.workers.menu.menu import Cut, Menu, Path


@dataclass(frozen=True)
class Change:
    """One thing that differs within a path. `what`: enabled, stream, prescale, description or require.QUANTITY; None where it is absent."""

    what: str
    before: object
    after: object


@dataclass(frozen=True)
class MenuDiff:
    """Differences from one menu to another. `same_decisions`: no event can tell them apart."""

    same_decisions: bool
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[Change, ...]]
    moved: dict[str, tuple[int, int]]  # path -> its bits, of enabled paths that are in both
    text: str  # as `diff -u` shows it


def compare(before: Menu, after: Menu, before_text: str, after_text: str, names: tuple[str, str]) -> MenuDiff:
    """The differences between two valid menus. `names`: what the text calls them."""
    sides = [{path.name: path for path in (*menu.paths, *menu.disabled)} for menu in (before, after)]
    both = [name for name in sides[0] if name in sides[1]]
    changes = {name: _changes(sides[0][name], sides[1][name]) for name in both}
    bits = [{path.name: bit for bit, path in enumerate(menu.paths)} for menu in (before, after)]
    moved = {name: (bits[0][name], bits[1][name]) for name in bits[0] if name in bits[1] and bits[0][name] != bits[1][name]}
    lines = unified_diff(before_text.splitlines(), after_text.splitlines(), *names, lineterm="")
    return MenuDiff(
        same_decisions=before.hash == after.hash,
        added=tuple(name for name in sides[1] if name not in sides[0]),
        removed=tuple(name for name in sides[0] if name not in sides[1]),
        changed={name: found for name, found in changes.items() if found},
        moved=moved,
        text="".join(f"{line}\n" for line in lines),
    )


def _changes(before: Path, after: Path) -> tuple[Change, ...]:
    found = [
        Change(what, getattr(before, what), getattr(after, what))
        for what in ("enabled", "stream", "prescale", "description")
        if getattr(before, what) != getattr(after, what)
    ]
    for quantity in dict.fromkeys([*before.require, *after.require]):
        cuts = _bounds(before.require.get(quantity)), _bounds(after.require.get(quantity))
        if cuts[0] != cuts[1]:
            found.append(Change(f"require.{quantity}", *cuts))
    return tuple(found)


def _bounds(cut: Cut | None) -> dict[str, float] | None:
    return None if cut is None else cut.model_dump(exclude_none=True)
