"""The figures of a training, drawn from its JSON document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hltfarm.loadgen.validation.plots import Plot, band

Document = Mapping[str, Any]
_AXIS_NAMES = {"pt": "pT", "eta": "η", "tip": "|transverse impact parameter|", "n_hits": "number of hits"}


def draw(document: Document, folder: Path) -> list[Plot]:
    """Write every figure as PNG, in the order of the report."""
    plots: list[Plot] = []

    def save(section: str, name: str, caption: str, paint: Callable[[Figure], None], size: tuple[float, float] = (6.0, 4.2)) -> None:
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        path = folder / f"{name}.png"
        figure.savefig(path, metadata={"Software": ""})
        plots.append(Plot(section, path, caption))

    groups = document["test"]["groups"]
    width = 5.0 * max(1, len(groups)) + 1.0
    save("Selection", "roc", "False rows that stay against true rows that are lost (test)", _roc(groups, document["working_points"]))
    for axis, entry in document["test"]["against"].items():
        caption = f"Efficiency relative to loose true tracks, fake rate before and after, against {_AXIS_NAMES[axis]} (bands: 68 %)"
        save("Selection", f"selection_{axis}", caption, _against(entry), (width, 6.4))
    save("Scores", "scores", "Rows by score (test)", _per_group(groups, _scores), (width, 4.2))
    save(
        "Scores",
        "reliability",
        "Fraction of true rows against the score (test; bars: 68 %)",
        _per_group(groups, _reliability),
        (width, 4.2),
    )
    steps = "trees" if document["kind"] == "forest" else "epochs"
    save("Training", "curves", f"Loss against {steps}", _curves(document["curves"], steps))
    importance = document["importance"]
    save(
        "Training",
        "importance",
        "Growth of the log loss when a feature is dealt out to other rows",
        _importance(importance, groups),
        (7.5, 1.0 + 0.2 * len(importance)),
    )
    return plots


def _roc(groups: Document, points: Document) -> Callable[[Figure], None]:
    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        for name, entry in groups.items():
            curve = entry["roc"]
            lost = 1 - np.array(curve["efficiency"])
            shown = lost > 0
            if curve["area"] is None:  # no true or no false rows
                continue
            (line,) = ax.plot(lost[shown], np.array(curve["false_kept"])[shown], label=f"{name}, area {curve['area']:.5f}")
            for point in points:
                at = entry["working_points"][point]["all"]
                ax.plot(1 - at["efficiency"]["rate"], at["false_kept"]["rate"], "o", color=line.get_color(), markersize=5)
                ax.annotate(
                    point, (1 - at["efficiency"]["rate"], at["false_kept"]["rate"]), fontsize=7, xytext=(4, 4), textcoords="offset points"
                )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("true rows lost")
        ax.set_ylabel("false rows kept")
        ax.grid(alpha=0.3, which="both")
        if ax.lines:
            ax.legend(fontsize=8)

    return paint


def _against(entry: Document) -> Callable[[Figure], None]:
    def paint(figure: Figure) -> None:
        axes = np.atleast_2d(figure.subplots(2, len(entry), sharex="col")).reshape(2, len(entry))
        for column, (name, curves) in enumerate(entry.items()):
            upper, lower = axes[:, column]
            upper.set_title(name, fontsize=9)
            band(upper, curves["efficiency"], "after")
            band(lower, curves["fake_rate_before"], "before")
            band(lower, curves["fake_rate"], "after")
            upper.set_ylabel("efficiency")
            lower.set_ylabel("fake rate")
            lower.set_ylim(0.0, None)
            lower.set_xlabel(curves["efficiency"]["label"])
            for ax in (upper, lower):
                ax.grid(alpha=0.3)
                if curves["efficiency"]["log"]:
                    ax.set_xscale("log")
                if ax.lines:
                    ax.legend(fontsize=7)

    return paint


def _per_group(groups: Document, paint_group: Callable[[Axes, Document], None]) -> Callable[[Figure], None]:
    def paint(figure: Figure) -> None:
        for ax, (name, entry) in zip(np.atleast_1d(figure.subplots(1, len(groups))), groups.items(), strict=True):
            paint_group(ax, entry)
            ax.set_title(name, fontsize=9)
            ax.set_xlabel("score")
            ax.grid(alpha=0.3)

    return paint


def _scores(ax: Axes, entry: Document) -> None:
    table = entry["distribution"]
    for kind in ("true", "false"):
        ax.stairs(table[kind], table["edges"], label=kind, fill=True, alpha=0.4)
    ax.set_yscale("log")
    ax.set_ylabel("rows per bin")
    ax.legend(fontsize=8)


def _reliability(ax: Axes, entry: Document) -> None:
    table = entry["reliability"]
    shown = [i for i, n in enumerate(table["rows"]) if n]
    x, y = (np.array([table[name][i] for i in shown]) for name in ("score", "true"))
    errors = [np.maximum(0, y - [table["low"][i] for i in shown]), np.maximum(0, np.array([table["high"][i] for i in shown]) - y)]
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    ax.errorbar(x, y, yerr=errors, fmt="o", markersize=3, linewidth=1)
    ax.set_ylabel("fraction of true rows")


def _curves(curves: Document, steps: str) -> Callable[[Figure], None]:
    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        for name, values in curves.items():
            ax.plot(np.arange(1, len(values) + 1), values, label=name)
        best = int(np.argmin(curves["validation"]))
        ax.axvline(best + 1, color="0.6", linewidth=1, label="taken")
        ax.set_xlabel(steps)
        ax.set_ylabel("mean cross entropy")
        ax.set_yscale("log")
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=8)

    return paint


def _importance(importance: list[Document], groups: Document) -> Callable[[Figure], None]:
    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        y = np.arange(len(importance))
        height = 0.8 / len(groups)
        for k, name in enumerate(groups):
            ax.barh(y + k * height, [entry[name] for entry in importance], height, label=name)
        ax.set_yticks(y + 0.4 - height / 2, [entry["feature"] for entry in importance], fontsize=8)
        ax.invert_yaxis()
        ax.set_xscale("symlog", linthresh=0.01)
        ax.set_xlabel("growth of the log loss")
        ax.grid(alpha=0.3, axis="x")
        ax.legend(fontsize=8)

    return paint
