"""The figures of a study, drawn from its JSON document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Document = Mapping[str, Any]

#: Parameter -> title, factor to the shown unit, unit.
SHOWN: dict[str, tuple[str, float, str]] = {
    "pt": ("pT", 100.0, "%"),
    "q_over_pt": ("q/pT", 100.0, "%"),
    "phi": ("φ", 1e3, "mrad"),
    "cot_theta": ("cot θ", 1e3, "0.001"),
    "tip": ("transverse impact parameter", 1e4, "μm"),
    "zip": ("longitudinal impact parameter", 1e4, "μm"),
}
_AXES = ("pt", "eta", "phi", "radius", "tip", "pileup")


@dataclass(frozen=True)
class Plot:
    """A figure in a file: its section of the report, name of the file, and what it shows."""

    section: str
    path: Path
    caption: str


def draw(document: Document, folder: Path) -> list[Plot]:
    """Write every figure that the document has the numbers for as PNG; in the order of the report."""
    plots: list[Plot] = []

    def save(section: str, name: str, caption: str, paint: Callable[[Figure], None], size: tuple[float, float] = (6.0, 4.2)) -> None:
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        path = folder / f"{name}.png"
        figure.savefig(path, metadata={"Software": ""})
        plots.append(Plot(section, path, caption))

    if document["hits"]:
        _draw_hits(document["hits"], save)
    if document["tracks"]:
        _draw_rates(document["tracks"], save)
        _draw_resolutions(document["tracks"], save)
    if document["vertices"]:
        _draw_vertices(document["vertices"], save)
    return plots


def _draw_hits(hits: Document, save: Callable[..., None]) -> None:
    def residuals(figure: Figure) -> None:
        for ax, (region, axis) in zip(figure.subplots(2, 2).ravel(), [(r, a) for r in ("barrel", "disks") for a in "xy"], strict=True):
            summary = hits["residuals"][region][axis]
            _histogram(ax, hits["distributions"][region][axis], 1e4)
            ax.set_xlabel(f"hit − truth, local {axis} [μm]")
            ax.set_ylabel("hits per bin")
            ax.set_title(f"{region}: {_width(summary, 1e4, 'μm')}", fontsize=9)

    def layers(figure: Figure) -> None:
        ax = figure.subplots()
        names = list(hits["efficiency"]["primary"]["layers"])
        for shift, (kind, label) in zip((-0.1, 0.1), (("primary", "generator particles, outgoing"), ("all", "all crossings")), strict=True):
            values = list(hits["efficiency"][kind]["layers"].values())
            at = [i + shift for i, v in enumerate(values) if v["total"]]
            shown = [v for v in values if v["total"]]
            rates = [v["rate"] for v in shown]
            errors = [[r - v["low"] for r, v in zip(rates, shown, strict=True)], [v["high"] - r for r, v in zip(rates, shown, strict=True)]]
            ax.errorbar(at, rates, yerr=errors, fmt="o", markersize=4, label=label)
        ax.set_xticks(range(len(names)), names, rotation=45)
        ax.set_ylabel("hit efficiency per crossing")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)

    save("Hits", "hit_residuals", "Hits minus crossings, one crossing per cluster", residuals, (8.0, 6.0))
    save("Hits", "hit_efficiency_layers", "Crossings with a hit, by layer (bars: 68 %)", layers)
    save(
        "Hits",
        "hit_efficiency_eta",
        "Crossings with a hit against η (bands: 68 %)",
        _curves({"hits": hits["efficiency_against_eta"]}, "hit efficiency"),
    )


def _draw_rates(tracks: Document, save: Callable[..., None]) -> None:
    efficiency = tracks["efficiency_against"]
    for axis in _AXES:
        curves = {f"{s}, particles with ≥ 4 layers": d["layers4"][axis] for s, d in efficiency.items() if axis in d["layers4"]}
        if curves:
            curves["loose, any number of layers"] = efficiency["loose"]["all"][axis]
            save("Efficiency", f"efficiency_{axis}", f"Efficiency against {axis}", _curves(curves, "efficiency"))
    for kind, section in (("fake", "Fake rate"), ("duplicate", "Duplicate rate")):
        for axis in _AXES:
            curves = {s: axes[axis] for s, axes in tracks[f"{kind}_rate_against"].items() if axis in axes}
            if curves:
                save(section, f"{kind}_rate_{axis}", f"{section} against {axis}", _curves(curves, f"{kind} rate", top=kind == "fake"))


def _draw_resolutions(tracks: Document, save: Callable[..., None]) -> None:
    for name, (title, factor, unit) in SHOWN.items():

        def paint(figure: Figure, name: str = name, title: str = title, factor: float = factor, unit: str = unit) -> None:
            left, right = figure.subplots(1, 2)
            for shape in tracks["resolutions_against_pt"]:
                table = tracks["resolutions_against_pt"][shape]
                for region in ("barrel", "forward"):
                    _steps(left, table["edges"], table[name][region], factor, f"{shape}, {region}")
                table = tracks["resolutions_against_eta"][shape]
                _steps(right, table["edges"], table[name], factor, shape)
            left.set_xscale("log")
            left.set_xlabel("generated pT [GeV]")
            right.set_xlabel("generated η")
            for ax in (left, right):
                ax.set_ylabel(f"resolution of {title} [{unit}]")
                ax.set_yscale("log")
                ax.grid(alpha=0.3, which="both")
                if ax.lines:
                    ax.legend(fontsize=7)

        save("Resolution", f"resolution_{name}", f"Core width of {title}: reconstructed minus true", paint, (10.0, 4.2))
    if tracks["pulls"] is None:
        return

    def pulls(figure: Figure) -> None:
        table = tracks["pulls"]["quadruplets"]
        axes = figure.subplots(2, 3).ravel()
        for ax, (name, entry) in zip(axes, table.items(), strict=False):
            _histogram(ax, entry["distribution"], 1.0)
            ax.set_xlabel(f"pull of {SHOWN[name][0]}")
            ax.set_ylabel("tracks per bin")
            ax.set_title(_width(entry["all"], 1.0, ""), fontsize=9)
        axes[-1].set_axis_off()

    save("Pulls", "pulls", "Pulls of the five parameters, quadruplets", pulls, (10.0, 6.0))


def _draw_vertices(vertices: Document, save: Callable[..., None]) -> None:
    for axis in vertices["efficiency_against"]:
        curves = {"found": vertices["efficiency_against"][axis], "merged": vertices["merge_rate_against"][axis]}
        save(
            "Vertices",
            f"vertex_{axis}",
            f"Visible collisions found and merged, against {axis}",
            _curves(curves, "fraction of visible collisions"),
        )

    def residual(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        _histogram(left, vertices["distribution"], 1e4)
        left.set_xlabel("vertex − collision, z [μm]")
        left.set_ylabel("vertices per bin")
        left.set_title(_width(vertices["resolution"], 1e4, "μm"), fontsize=9)
        table = vertices["resolution_against_ndof"]
        _steps(right, table["edges"], table["bins"], 1e4, "all vertices")
        right.set_xscale("log")
        right.set_xlabel("degrees of freedom of the vertex")
        right.set_ylabel("resolution along z [μm]")
        right.grid(alpha=0.3)

    save("Vertices", "vertex_resolution", "Resolution of the vertices along z", residual, (10.0, 4.2))


def _curves(curves: Mapping[str, Document], label: str, top: bool = True) -> Callable[[Figure], None]:
    """Rates with their 68 % bands; the bins without entries are left out. `top`: the scale goes up to 1."""

    def paint(figure: Figure) -> None:
        ax = figure.subplots()
        for name, curve in curves.items():
            band(ax, curve, name)
        first = next(iter(curves.values()))
        if first["log"]:
            ax.set_xscale("log")
        ax.set_xlabel(first["label"])
        ax.set_ylabel(label)
        ax.set_ylim(0.0, 1.05 if top else None)
        ax.grid(alpha=0.3)
        if ax.lines:
            ax.legend(fontsize=7)

    return paint


def band(ax: Axes, curve: Document, name: str) -> None:
    """Rates with their 68 % bands; the bins without entries are left out."""
    edges = np.array(curve["edges"])
    filled = np.array(curve["total"]) > 0
    if not filled.any():
        return
    rate = np.array([np.nan if r is None else r for r in curve["rate"]], np.float64)
    low, high = (np.where(filled, np.array(curve[end]), np.nan) for end in ("low", "high"))
    middle = np.sqrt(edges[1:] * edges[:-1]) if curve["log"] else (edges[1:] + edges[:-1]) / 2
    (line,) = ax.plot(middle, rate, marker="o", markersize=3, linewidth=1, label=name)
    ends = np.stack([edges[:-1], edges[1:]], axis=1).ravel()
    ax.fill_between(ends, np.repeat(low, 2), np.repeat(high, 2), alpha=0.25, color=line.get_color(), linewidth=0)


def _steps(ax: Axes, edges: list[float], bins: list[Document], factor: float, name: str) -> None:
    """Core widths with statistical errors (1.65 sigma / sqrt(2 n) for the MAD); bins with fewer than 10 entries are left out."""
    keep = [i for i, b in enumerate(bins) if b["entries"] >= 10]
    if not keep:
        return
    middle = [(edges[i] + edges[i + 1]) / 2 for i in keep]
    half = [(edges[i + 1] - edges[i]) / 2 for i in keep]
    width = np.array([bins[i]["sigma_core"] for i in keep]) * factor
    error = width * 1.65 / np.sqrt(2 * np.array([bins[i]["entries"] for i in keep]))
    ax.errorbar(middle, width, xerr=half, yerr=error, fmt="o", markersize=3, linewidth=1, label=name)


def _histogram(ax: Axes, table: Document, factor: float) -> None:
    ax.stairs(table["entries"], np.array(table["edges"]) * factor, fill=True, alpha=0.4)
    ax.grid(alpha=0.3)


def _width(summary: Document, factor: float, unit: str) -> str:
    if summary["median"] is None:
        return "no entries"
    median, core, width = (summary[key] * factor for key in ("median", "sigma_core", "sigma_68"))
    return f"median {median:.2f}, core {core:.2f}, 68 % {width:.2f} {unit}"
