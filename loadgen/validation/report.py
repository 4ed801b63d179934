"""One page for people: HTML that holds its figures, so that it can be sent as one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from hltfarm.loadgen.validation.plots import Plot

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #1c2530 }
table { border-collapse: collapse; margin: .6em 0 1.4em } td, th { padding: .25em .8em; border-bottom: 1px solid #d4dae2; text-align: left }
td + td { text-align: right; font-variant-numeric: tabular-nums } figure { display: inline-block; margin: .5em; vertical-align: top }
img { max-width: 100% } figcaption { color: #556; font-size: 13px } .note { background: #fff4d6; padding: .5em 1em; border-radius: 4px }
"""

Rows = list[tuple[str, str]]


def write_report(document: Mapping[str, Any], plots: Sequence[Plot], folder: Path) -> None:
    """Write `validation.json` and `index.html` into the folder."""
    text = json.dumps(document, indent=1, allow_nan=False)
    (folder / "validation.json").write_text(text + "\n")
    (folder / "index.html").write_text(page(document, plots))


def page(document: Mapping[str, Any], plots: Sequence[Plot]) -> str:
    """The report as one HTML text."""
    about = [(k, str(document[k])) for k in ("source", "events", "configuration", "backend", "device", "detector") if k in document]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>hltfarm validation</title>',
        f"<style>{_STYLE}</style><h1>Validation against truth</h1>",
        _table(about),
        *(f'<p class="note">{escape(note)}</p>' for note in document["notes"]),
        *(f"<h2>{title}</h2>{_table(rows)}" for title, rows in summary(document).items()),
        *(f"<h2>{escape(section)}: figures</h2>{''.join(map(_figure, group))}" for section, group in groupby(plots, lambda p: p.section)),
        "<h2>Cuts</h2>",
        _table([(k.replace("_", " "), f"{v}") for k, v in document["cuts"].items()]),
        "<p>Bands and intervals: 68 % (Wilson). Core width: 1.4826 times the median absolute deviation. "
        "All definitions: docs/validation.md of the project.</p></html>",
    ]
    return "\n".join(parts) + "\n"


def summary(document: Mapping[str, Any]) -> dict[str, Rows]:
    """The numbers that people ask for first, by section, as texts."""
    out: dict[str, Rows] = {}
    if document["hits"]:
        out["Hits"] = _hits(document["hits"])
    if document["tracks"]:
        out["Tracks"] = _tracks(document["tracks"])
    if document["vertices"]:
        out["Vertices"] = _vertices(document["vertices"])
    return out


def _hits(h: Mapping[str, Any]) -> Rows:
    rows = [("hits per event", f"{h['hits_per_event']:.1f}")]
    for region, axes in h["residuals"].items():
        rows += [(f"residual in local {a}, {region}: median / core / 68 %", _spread(s, 1e4, "μm")) for a, s in axes.items()]
    for region, axes in h["pulls"].items():
        rows += [(f"pull in local {a}, {region}: median / core / 68 %", _spread(s, 1.0, "")) for a, s in axes.items()]
    rows.append(("crossings with a hit, generator particles on their way out", percent(h["efficiency"]["primary"]["total"])))
    rows.append(("crossings with a hit, all", percent(h["efficiency"]["all"]["total"])))
    rows += [(f"hits: {kind.replace('_', ' ')}", percent(r)) for kind, r in h["kinds"].items()]
    rows += [("pixels: noise", percent(h["pixels"]["noise"])), ("pixels in a hit", percent(h["pixels"]["in_hits"]))]
    return rows


def _tracks(t: Mapping[str, Any]) -> Rows:
    rows: Rows = []
    for selection, by_layers in t["efficiency"].items():
        for name, r in by_layers.items():
            label = {"all": "all particles", "layers3": "≥ 3 layers", "layers4": "≥ 4 layers"}[name]
            rows.append((f"efficiency of {selection.replace('_', ' ')}, {label}", percent(r)))
    for selection, n in t["totals"].items():
        name = selection.replace("_", " ")
        rows += [
            (f"{name} per event", f"{n['tracks_per_event']:.1f}"),
            (f"fake rate of {name}", percent(n["fake_rate"])),
            (f"fake rate of {name} above the pT cut", percent(n["fake_rate_hard"])),
            (
                f"duplicates per event, {name} (of counted particles)",
                f"{n['duplicates_per_event']:.2f} ({n['signal_duplicates_per_event']:.2f})",
            ),
            (f"wrong charge, {name}", percent(n["wrong_charge"])),
        ]
    table = t["resolutions"]["quadruplets"]
    edges = table["pt_edges"]
    for name, factor, unit in (
        ("pt", 100.0, "%"),
        ("zip", 1e4, "μm"),
        ("tip", 1e4, "μm"),
        ("phi", 1e3, "mrad"),
        ("cot_theta", 1e3, "10⁻³"),
    ):
        for region, cells in ((r, table[name][r]) for r in ("barrel", "forward")):
            rows += [
                (
                    f"{name.replace('_', ' ')}, {region}, {edges[i]:g} to {edges[i + 1]:g} GeV: median / core / 68 %",
                    _spread(c, factor, unit),
                )
                for i, c in enumerate(cells)
            ]
    for name, entry in (t["pulls"] or {"quadruplets": {}})["quadruplets"].items():
        rows.append((f"pull of {name.replace('_', ' ')}, quadruplets: median / core / 68 %", _spread(entry["all"], 1.0, "")))
    return rows


def _vertices(v: Mapping[str, Any]) -> Rows:
    hard = v["hard_scatter"]
    return [
        ("vertices per event", f"{v['vertices_per_event']:.1f}"),
        ("collisions generated (visible) per event", f"{v['collisions_per_event']:.1f} ({v['visible_per_event']:.1f})"),
        ("visible collisions found", percent(v["efficiency"])),
        ("visible collisions merged into another's vertex", percent(v["merge_rate"])),
        ("vertices without a collision, per event", f"{v['fakes_per_event']:.2f}"),
        ("vertices without a collision", percent(v["fake_rate"])),
        ("vertices beside the one of their collision", percent(v["split_rate"])),
        ("resolution along z, all: median / core / 68 %", _spread(v["resolution"], 1e4, "μm")),
        ("resolution along z, hard scatter: median / core / 68 %", _spread(v["resolution_hard_scatter"], 1e4, "μm")),
        ("pull of z: median / core / 68 %", _spread(v["pull"], 1.0, "")),
        ("hard scatter found", percent(hard["found"])),
        ("hard scatter is the leading vertex", percent(hard["leading"])),
    ]


def percent(r: Mapping[str, Any]) -> str:
    """A rate with its interval, in percent."""
    if r["rate"] is None:
        return "none to count"
    return f"{100 * r['rate']:.2f} % ({100 * r['low']:.2f} to {100 * r['high']:.2f})"


def _spread(s: Mapping[str, Any], factor: float, unit: str) -> str:
    if s["median"] is None:
        return "no entries"
    return " / ".join(f"{s[k] * factor:.2f}" for k in ("median", "sigma_core", "sigma_68")) + f" {unit}"


def _table(rows: Rows) -> str:
    return "<table>" + "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows) + "</table>"


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.path.read_bytes()).decode()
    caption = escape(plot.caption)
    return f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
