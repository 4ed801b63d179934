"""Menus and their rates as tables for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor, isnan, log10
from typing import Any

from rich.console import Console
from rich.table import Table

from hltfarm.workers.menu.faults import Fault, number
from hltfarm.workers.menu.menu import Cut, Menu, Path
from hltfarm.workers.menu.rates import Difference, Fraction, MenuRates, StreamRate


@dataclass(frozen=True)
class SampleRates:
    """Rates of one menu or several, by the name of their file, on the events of one source, and how the others differ from the first.

    `input_rate_hz`: what turns fractions into rates; None for a sample that stands for no rate.
    """

    source: str
    events: int
    made_by: dict[str, str]
    menus: dict[str, MenuRates]
    differences: dict[str, Difference]
    input_rate_hz: float | None = None

    @property
    def first(self) -> MenuRates:
        """Rates of the first menu."""
        return next(iter(self.menus.values()))


def menu_document(menu: Menu) -> dict[str, Any]:
    """A valid menu: every path with its bit (null for those that are not enabled)."""
    bits = [*enumerate(menu.paths), *((None, path) for path in menu.disabled)]
    return {
        "name": menu.name,
        "hash": menu.hash,
        "streams": menu.streams,
        "paths": [{"bit": bit, **path.model_dump(exclude_none=True)} for bit, path in bits],
    }


def faults_document(faults: Iterable[Fault]) -> list[dict[str, Any]]:
    """Faults in the order of lines."""
    return [{"line": fault.line, "text": fault.text} for fault in faults]


def rates_document(sample: SampleRates) -> dict[str, Any]:
    """Everything that the tables show, with fractions between 0 and 1."""
    hz = sample.input_rate_hz
    return {
        "source": sample.source,
        "events": sample.events,
        **sample.made_by,
        "input_rate_hz": hz,
        "menus": [{"file": file, **_rates(rates, hz)} for file, rates in sample.menus.items()],
        "differences": [{"file": file, **_difference(d, hz)} for file, d in sample.differences.items()],
    }


def _rates(rates: MenuRates, hz: float | None) -> dict[str, Any]:
    return {
        "name": rates.menu.name,
        "hash": rates.menu.hash,
        "total": _stream(rates.total, hz),
        "streams": {name: _stream(stream, hz) for name, stream in rates.streams.items()},
        "paths": [
            {
                "name": p.path.name,
                "stream": p.path.stream,
                "prescale": p.path.prescale,
                "raw": p.raw,
                "kept": p.kept,
                **_fraction("fraction", p.fraction, hz),
                **_fraction("unique", p.unique, hz),
            }
            for p in rates.paths
        ],
        "overlap": [[None if isnan(x) else x for x in row] for row in rates.overlap.tolist()],
    }


def _stream(stream: StreamRate, hz: float | None) -> dict[str, Any]:
    return {"kept": stream.kept, **_fraction("fraction", stream.fraction, hz)}


def _difference(d: Difference, hz: float | None) -> dict[str, Any]:
    counts = {name: getattr(d, name) for name in d.fractions}
    return {name: {"events": counts[name], **_fraction("fraction", fraction, hz)} for name, fraction in d.fractions.items()}


def _fraction(name: str, fraction: Fraction, hz: float | None) -> dict[str, list[float]]:
    """`name`: value, low, high; in Hz too where there is a rate."""
    out = {name: [fraction.value, fraction.low, fraction.high]}
    if hz is not None:
        rate = fraction.times(hz)
        out["rate_hz" if name == "fraction" else f"{name}_hz"] = [rate.value, rate.low, rate.high]
    return out


def print_menu(menu: Menu, file: str) -> None:
    """Name, hash and paths with their cuts."""
    names = (
        f"{len(menu.paths)} path{'' if len(menu.paths) == 1 else 's'}, {len(menu.streams)} stream{'' if len(menu.streams) == 1 else 's'}"
    )
    _print(f"{file}: menu {menu.name}, hash {menu.hash}, {names}")
    table = _table("bit", "path", "stream", "prescale", "requires", numbers=("bit", "prescale"))
    described = any(path.description for path in (*menu.paths, *menu.disabled))
    if described:
        table.add_column("description")
    for bit, path in [*((str(i), path) for i, path in enumerate(menu.paths)), *(("off", path) for path in menu.disabled)]:
        table.add_row(bit, path.name, path.stream, _prescale(path), cuts(path), *([path.description] if described else []))
    _print(table)
    for stream, description in menu.streams.items():
        members = [path.name for path in menu.paths if path.stream == stream]
        _print(f"stream {stream}: {', '.join(members) or 'no path'}{f' ({description})' if description else ''}")


def cuts(path: Path) -> str:
    """The cuts of a path on one line."""
    return ", ".join(_cut(quantity, cut) for quantity, cut in path.require.items()) or "nothing: pass-through"


def _cut(quantity: str, cut: Cut) -> str:
    if cut.min is None:
        assert cut.max is not None
        return f"{quantity} <= {number(cut.max)}"
    if cut.max is None:
        return f"{quantity} >= {number(cut.min)}"
    return f"{quantity} = {number(cut.min)}" if cut.min == cut.max else f"{number(cut.min)} <= {quantity} <= {number(cut.max)}"


def _prescale(path: Path) -> str:
    return str(path.prescale) if path.prescale else "0: never"


def print_rates(sample: SampleRates) -> None:
    """Rates and overlaps of the first menu, then its differences to the others."""
    rates, hz = sample.first, sample.input_rate_hz
    made_by = ", ".join(f"{key} {value}" for key, value in sample.made_by.items())
    _print(f"{sample.source}: {sample.events} events; {made_by}; menu {rates.menu.name} ({rates.menu.hash})")
    numbers = ("prescale", "raw", "kept", "fraction / %", *(("rate / Hz",) if hz else ()), "unique / %")
    table = _table("bit", "path", "stream", *numbers, numbers=("bit", *numbers))
    for bit, p in enumerate(rates.paths):
        shown = _both(p.fraction, hz)
        table.add_row(str(bit), p.path.name, p.path.stream, _prescale(p.path), str(p.raw), str(p.kept), *shown, percent(p.unique))
    table.add_section()
    for name, stream in rates.streams.items():
        table.add_row("", "", name, "", "", str(stream.kept), *_both(stream.fraction, hz), "")
    table.add_section()
    table.add_row("", "total", "", "", "", str(rates.total.kept), *_both(rates.total.fraction, hz), "")
    _print(table)
    if len(rates.paths) > 1:
        _print("overlap before prescales: of the events of the path in the row, % that the path in the column takes too")
        bits = [str(bit) for bit in range(len(rates.paths))]
        matrix = _table("bit", "path", *bits, numbers=("bit", *bits))
        for bit, (p, shares) in enumerate(zip(rates.paths, rates.overlap.tolist(), strict=True)):
            matrix.add_row(str(bit), p.path.name, *("-" if isnan(x) else f"{100 * x:.0f}" for x in shares))
        _print(matrix)
    for (file, other), d in zip(list(sample.menus.items())[1:], sample.differences.values(), strict=True):
        _print_difference(next(iter(sample.menus)), rates, file, other, d, hz)


def _print_difference(file: str, rates: MenuRates, other_file: str, other: MenuRates, d: Difference, hz: float | None) -> None:
    _print(f"{file} beside {other_file}: menu {other.menu.name} ({other.menu.hash})")
    unit: Callable[[Fraction], str] = percent if hz is None else lambda fraction: spread(fraction.times(hz))
    headers = [f"{name} / {'%' if hz is None else 'Hz'}" for name in (file, other_file)]
    table = _table("path", *headers, numbers=headers)
    sides = [{p.path.name: p.fraction for p in side.paths} for side in (rates, other)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        table.add_row(name, *(unit(side[name]) if name in side else "" for side in sides))
    table.add_section()
    table.add_row("total", unit(rates.total.fraction), unit(other.total.fraction))
    _print(table)
    split = _table("accepted by", "events", "%", numbers=("events", "%"))
    for label, fraction in zip(("both", f"{file} only", f"{other_file} only", "none"), d.fractions.items(), strict=True):
        split.add_row(label, str(getattr(d, fraction[0])), percent(fraction[1]))
    _print(split)


def verdict(rates: MenuRates, input_rate_hz: float, budget_hz: float) -> tuple[bool, str]:
    """Whether the total rate is within a budget, and the sentence that says so."""
    total = rates.total.fraction.times(input_rate_hz)
    within = total.value <= budget_hz
    sure = total.high <= budget_hz if within else total.low > budget_hz
    text = f"total {spread(total)} Hz {'is within' if within else 'exceeds'} the budget of {_thousands(budget_hz)} Hz"
    return within, text if sure else f"{text}, by less than its uncertainty: take more events to be sure"


def percent(fraction: Fraction) -> str:
    """A fraction in percent with its interval."""
    return spread(fraction.times(100))


def spread(value: Fraction) -> str:
    """Value (low .. high) with two digits of the uncertainty."""
    half = (value.high - value.low) / 2
    digits = min(9, max(0, 1 - floor(log10(half)))) if half > 0 else 0
    return f"{value.value:,.{digits}f} ({value.low:,.{digits}f} .. {value.high:,.{digits}f})"


def _thousands(value: float) -> str:
    return f"{value:,.10g}"


def _both(fraction: Fraction, hz: float | None) -> list[str]:
    return [percent(fraction), *([] if hz is None else [spread(fraction.times(hz))])]


def _table(*headers: str, numbers: Sequence[str]) -> Table:
    table = Table()
    for header in headers:
        table.add_column(header, justify="right" if header in numbers else "left", no_wrap=True)
    return table


def _print(what: str | Table) -> None:
    """On stdout, as wide as it is: a table that the terminal wraps can still be read, one that is cut cannot."""
    console = Console(markup=False, emoji=False, highlight=False)
    if isinstance(what, Table):
        console.width = max(console.width, Console(width=1 << 16, markup=False, emoji=False).measure(what).maximum)
    console.print(what, soft_wrap=isinstance(what, str))
