"""Reports of `hltfarm reco --json` event by event: the same on every backend, in every batch, on every machine, or where they differ."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hltfarm.proto.errors import SampleError


@dataclass(frozen=True)
class Report:
    """A file of `reco --json`: rows by event number, in the order of the file where a number occurs more than once."""

    name: str
    about: dict[str, Any]
    events: dict[int, list[dict[str, Any]]]

    @property
    def rows(self) -> int:
        return sum(len(rows) for rows in self.events.values())

    def __str__(self) -> str:
        return f"{self.name} ({self.about.get('backend', '?')}, {self.about.get('device', '?')}, {self.rows} events)"


@dataclass
class Comparison:
    """What differs between two reports; `compared` counts rows, `differing` events with all their differences as (field, here, there)."""

    compared: int = 0
    fields: int = 0
    differing: list[tuple[int, list[tuple[str, Any, Any]]]] = field(default_factory=list)
    only_here: list[int] = field(default_factory=list)
    only_there: list[int] = field(default_factory=list)

    def equal(self, common: bool = False) -> bool:
        """No difference; with `common` only events count that both have. Nothing in common is not equal."""
        return self.compared > 0 and not self.differing and (common or not (self.only_here or self.only_there))


def read(path: Path) -> Report:
    """Raises SampleError if the file cannot be read or is no report with events."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        why = error.strerror if isinstance(error, OSError) else "no JSON"
        raise SampleError(f"{path}: {why}; name files that 'hltfarm reco --json' has written") from None
    rows = document.get("per_event") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("event"), int) for row in rows):
        raise SampleError(f"{path}: no list 'per_event' of events; name files that 'hltfarm reco --json' has written")
    events: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        events.setdefault(row["event"], []).append(row)
    return Report(str(path), {key: value for key, value in document.items() if key != "per_event"}, events)


def compare(here: Report, there: Report) -> Comparison:
    """Every event that both have, in every field. An event that one has more often (a sample read again) is compared each time."""
    result, names = Comparison(), set[str]()
    for event, rows in here.events.items():
        others = there.events.get(event)
        if others is None:
            result.only_here.append(event)
            continue
        for i in range(max(len(rows), len(others))):
            row, other = rows[i % len(rows)], others[i % len(others)]
            result.compared += 1
            names |= row.keys() | other.keys()
            different = _differences(row, other)
            if different:
                result.differing.append((event, different))
    result.only_there = [event for event in there.events if event not in here.events]
    result.fields = len(names - {"event"})
    return result


def _differences(row: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Fields with different values; one that only one of them has is different. The digest first, the rest in the order of the file."""
    names = sorted({**row, **other}, key=lambda name: name != "digest")
    pairs = ((name, row.get(name, "no such field"), other.get(name, "no such field")) for name in names)
    return [(name, a, b) for name, a, b in pairs if not (a == b or (a != a and b != b))]  # NaN is equal to NaN here


def notes(here: Report, there: Report) -> list[str]:
    """Settings that explain differences: another configuration, selector or menu."""
    settings = ("configuration", "selector", "menu")
    return [f"{s}: {here.about.get(s)} / {there.about.get(s)}" for s in settings if here.about.get(s) != there.about.get(s)]


def lines(here: Report, there: Report, result: Comparison, common: bool, show: int) -> list[str]:
    """What to tell: one line that says equal or not, then the settings that differ and the first `show` differing events."""
    if result.equal(common):
        left_out = len(result.only_here) + len(result.only_there)
        rest = f"; {left_out} that only one has are left out" if left_out else ""
        return [f"equal: {here} and {there}: {result.compared} events in {result.fields} fields{rest}"]
    what = [f"{len(result.differing)} of {result.compared} events differ"] if result.compared else ["no event in common"]
    for report, only in ((here, result.only_here), (there, result.only_there)):
        if only and not common:
            first = ", ".join(str(event) for event in only[:show]) + (" ..." if len(only) > show else "")
            what.append(f"{len(only)} only in {report.name} ({first})")
    out = [f"NOT equal: {here} and {there}: {'; '.join(what)}", *(f"  {note}" for note in notes(here, there))]
    for event, different in result.differing[:show]:
        out.append(f"  event {event}: " + "; ".join(f"{name} {a} / {b}" for name, a, b in different))
    if len(result.differing) > show:
        out.append(f"  and {len(result.differing) - show} more")
    return out
