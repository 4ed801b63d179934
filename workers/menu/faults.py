"""What is wrong with a menu, in words: the line, the place, the value found and the way out.

menu.yaml:12: paths[2] "HLT_X": require: unknown quantity 'trakcs'; did you mean 'tracks'? known are modules, digis, ...
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

#: Way from the top of the document to a value: keys of mappings and indices (from 0) of lists.
Location: TypeAlias = tuple[str | int, ...]

_LONGEST_SHOWN = 40
#: Words that are listed, and compared with an unknown one: hundreds of faults with thousands of choices would take seconds.
_MOST_KNOWN = 64


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. `line` counts from 1; `text` is one line, with the place in front."""

    line: int
    text: str

    def at(self, origin: str) -> str:
        """The fault as compilers print theirs: origin, line, text."""
        return f"{origin}:{self.line}: {self.text}"


def place(data: Any, location: Location) -> str:
    """`paths[2] "HLT_X": require.hits` for a location; empty for the document itself."""
    words = []
    if location[:1] == ("paths",) and len(location) > 1 and isinstance(location[1], int):
        words.append(f"paths[{location[1]}]")
        path = data["paths"][location[1]]
        if isinstance(path, dict) and isinstance(path.get("name"), str):
            words[0] += f' "{shortened(path["name"])}"'
        location = location[2:]
    if location:
        words.append(".".join(shortened(str(key)) for key in location))
    return ": ".join(words)


def unknown(what: str, value: str, known: Iterable[str]) -> str:
    """Text for a word that is not one of `known`, with the nearest of them."""
    choices = tuple(known)
    near = get_close_matches(value, choices, n=1) if len(choices) <= _MOST_KNOWN else []
    guess = f"; did you mean '{near[0]}'?" if near else ";"
    more = f", ... ({len(choices)} in all)" if len(choices) > _MOST_KNOWN else ""
    return f"unknown {what} {shortened(value)!r}{guess} known are {', '.join(choices[:_MOST_KNOWN])}{more}"


def shortened(text: str) -> str:
    """The text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SHOWN else line[: _LONGEST_SHOWN - 3] + "..."


def found(value: Any) -> str:
    """What a value is, for "expected ..., found ..."."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {shortened(value)!r}"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else number(value)


def number(value: float) -> str:
    """A number as an author would write it: 8000, not 8000.0."""
    return str(int(value)) if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15) else repr(value)


def worded(error: Any, known_keys: Iterable[str]) -> str:
    """One item of pydantic's `ValidationError.errors()` in the words of a menu's author.

    `known_keys`: those of the mapping that an unknown key is in.
    """
    value, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return unknown("key", str(error["loc"][-1]), known_keys)
        case "missing":
            return f"{str(error['loc'][-1])!r} is missing"
        case "value_error":
            return str(context["error"])
        case "string_pattern_mismatch":
            return f"{shortened(value)!r} is not a name: it must match {context['pattern']}"
        case "string_too_long":
            return f"{len(value)} characters, {context['max_length']} at most"
        case "finite_number":
            return f"expected a finite number, found {value}; leave a bound out where there is none"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {number(value)}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {number(value)}"
        case "too_short":
            return "a menu needs at least one path"
        case kind if kind in _EXPECTED:
            return f"expected {_EXPECTED[kind]}, found {found(value)}"
        case _:
            return f"{error['msg']}, found {found(value)}"


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
