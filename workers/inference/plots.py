"""The figures of the benchmark, drawn from its JSON document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Document = Mapping[str, Any]

_MARKERS = {"direct": "o-", "graph": "s-", "copy": "^--", "host": "v--", "host-pinned": "D--"}
_COLUMNS = 3


def draw(document: Document, folder: Path) -> list[Path]:
    """Write every figure that the document has the numbers for as PNG; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []

    def save(name: str, paint: Callable[[Figure], None], size: tuple[float, float]) -> None:
        figure = Figure(figsize=size, dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        figure.suptitle(f"{document['device']['name']}, torch {document['versions']['torch']}", fontsize=9)
        figure.savefig(folder / name, metadata={"Software": ""})
        written.append(folder / name)

    if document["views"]:
        rows = -(-len(_values(document["views"], "model")) // _COLUMNS)
        save("times.png", lambda figure: _times(figure, document["views"]), (11.0, 3.4 * rows))
        save("speed-up.png", lambda figure: _speed_up(figure, document["views"]), (7.0, 4.6))
    if document["engines"]:
        width = 4.5 * len(_values(document["engines"], "batch"))
        save("engines.png", lambda figure: _engines(figure, document["engines"]), (width, 4.2))
    return written


def _times(figure: Figure, points: list[Document]) -> None:
    models = _values(points, "model")
    columns = min(_COLUMNS, len(models))
    grid = figure.subplots(-(-len(models) // columns), columns, squeeze=False).flatten()
    for axes, model in zip(grid, models, strict=False):
        chosen = [p for p in points if p["model"] == model]
        for path in _values(chosen, "path"):
            line = sorted((p for p in chosen if p["path"] == path), key=lambda p: p["elements"])
            _error_bars(axes, [p["elements"] for p in line], line, _MARKERS[path], path)
        _log_axes(axes, f"{chosen[0]['element']}", "ms a run", model)
    for axes in grid[len(models) :]:
        axes.set_axis_off()


def _speed_up(figure: Figure, points: list[Document]) -> None:
    """Copying by the slowest way that frameworks use (through pageable host memory; on a CPU row-major arrays), against direct views."""
    over = "host" if "host" in _values(points, "path") else "copy"
    axes = figure.subplots()
    for model in _values(points, "model"):
        times = {(p["elements"], p["path"]): p["timing"]["wall_ms"] for p in points if p["model"] == model}
        sizes = sorted(n for n, path in times if path == over)
        axes.plot(sizes, [times[n, over] / times[n, "direct"] for n in sizes], "o-", label=model)
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    _log_axes(axes, "elements", f"time of {over} / time of direct", "direct views against copies")


def _engines(figure: Figure, points: list[Document]) -> None:
    batches = _values(points, "batch")
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False).flatten(), batches, strict=True):
        chosen = [p for p in points if p["batch"] == batch]
        for engine, graph in dict.fromkeys((p["engine"], p["graph"]) for p in chosen):
            line = sorted((p for p in chosen if (p["engine"], p["graph"]) == (engine, graph)), key=lambda p: p["parameters"])
            _error_bars(axes, [p["parameters"] for p in line], line, "s--" if graph else "o-", engine + (", graph" if graph else ""))
        _log_axes(axes, "parameters", "ms a run", f"{batch} rows")


def _error_bars(axes: Axes, x: Iterable[int], line: list[Document], style: str, label: str) -> None:
    times = [p["timing"] for p in line]
    axes.errorbar(list(x), [t["wall_ms"] for t in times], [t["wall_spread_ms"] for t in times], fmt=style, markersize=4, label=label)


def _log_axes(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _values(points: Iterable[Document], key: str) -> list[Any]:
    return list(dict.fromkeys(p[key] for p in points))
