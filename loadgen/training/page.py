"""The report of a training: report.json, and one HTML page that holds its figures."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from hltfarm.loadgen.validation.plots import Plot
from hltfarm.loadgen.validation.report import percent

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #1c2530 }
table { border-collapse: collapse; margin: .6em 0 1.4em } td, th { padding: .25em .8em; border-bottom: 1px solid #d4dae2; text-align: left }
td + td, th + th { text-align: right; font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: .5em; vertical-align: top }
img { max-width: 100% } figcaption { color: #556; font-size: 13px }
"""

#: Title, head, and rows of a table, as texts.
Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
REPORT = "report.json"
PAGE = "index.html"


def write_report(document: Mapping[str, Any], plots: Sequence[Plot], folder: Path) -> None:
    """Write `report.json` and `index.html` into the folder."""
    (folder / REPORT).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    (folder / PAGE).write_text(page(document, plots))


def page(document: Mapping[str, Any], plots: Sequence[Plot]) -> str:
    """The report as one HTML text."""
    title = f"Training of {document['model']}"
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>",
        *map(_table, tables(document)),
        *(f"<h2>{escape(section)}: figures</h2>{''.join(map(_figure, group))}" for section, group in groupby(plots, lambda p: p.section)),
        "<p>Efficiencies are relative to the true rows before the selection. Intervals: 68 % (Wilson). "
        "All definitions: docs/training.md of the project.</p></html>",
    ]
    return "\n".join(parts) + "\n"


def tables(document: Mapping[str, Any]) -> list[Table]:
    """The numbers that people ask for first."""
    out = [_about(document), _parts(document)]
    for name, entry in document["test"]["groups"].items():
        rows = [
            (
                point,
                region,
                f"{document['working_points'][point][name]:.4f}",
                *(percent(r[k]) for k in ("efficiency", "false_kept", "fake_rate", "fake_rate_before")),
            )
            for point, regions in entry["working_points"].items()
            for region, r in regions.items()
        ]
        head = ("working point", "rows", "score from", "efficiency", "false rows kept", "fake rate", "fake rate before")
        out.append((f"{name.capitalize()}, test events", head, rows))
    if "selections" in document:
        out.append(_selections(document["selections"]))
    return out


def summary(document: Mapping[str, Any]) -> Table:
    """Working points on the test events in a few words: of tracks, those above the momentum cut of the validation."""
    rows = []
    for name, entry in document["test"]["groups"].items():
        for point, regions in entry["working_points"].items():
            r = regions.get("hard", regions["all"])
            rows.append((name, point, *(_short(r[key]) for key in ("efficiency", "false_kept", "fake_rate", "fake_rate_before"))))
    return "Test events", ("", "working point", "true kept", "false kept", "fakes", "before"), rows


def _short(r: Mapping[str, Any]) -> str:
    return "none" if r["rate"] is None else f"{100 * r['rate']:.2f} %"


def _about(document: Mapping[str, Any]) -> Table:
    rows = [(key, str(document[key])) for key in ("command", "samples", "test_samples", "configuration", "seed") if key in document]
    return "", ("", ""), [*rows, ("size", ", ".join(f"{k} {v}" for k, v in document["size"].items()))]


def _parts(document: Mapping[str, Any]) -> Table:
    rows = [(name, *(str(entry[k]) for k in ("events", "rows", "true"))) for name, entry in document["parts"].items()]
    return "Events", ("part", "events", "rows", "true rows"), rows


def _selections(selections: Mapping[str, Any]) -> Table:
    names = list(next(iter(selections.values())))
    head = ("selection", *(f"{name}: {what}" for name in names for what in ("true per event", "fake rate", "fake rate, hard")))
    rows = [
        (
            title,
            *(
                text
                for name in names
                for text in (
                    f"{entry[name]['all']['true_per_event']:.2f}",
                    percent(entry[name]["all"]["fake_rate"]),
                    percent(entry[name]["hard"]["fake_rate"]),
                )
            ),
        )
        for title, entry in selections.items()
    ]
    return "Selections on the test events", head, rows


def _table(table: Table) -> str:
    title, head, rows = table
    lines = [f"<h2>{escape(title)}</h2>" if title else "", "<table>"]
    if any(head):
        lines.append("<tr>" + "".join(f"<th>{escape(text)}</th>" for text in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows]
    return "".join(lines) + "</table>"


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.path.read_bytes()).decode()
    caption = escape(plot.caption)
    return f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
