"""A menu's text as plain data, with the line of every value.

PyYAML's composer does the parsing; what it makes of a document (nodes with marks) is turned into dictionaries, lists, text, numbers and
booleans here, by the rules of YAML 1.2's core schema, of which JSON is a part: `1e3` is a number, `010` is ten, `on` and `1:30` are text.
A menu is small and flat: size and depth are bounded, and what only makes a document harder to read or to bound is refused (anchors and
aliases, tags of types, the same key twice).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.menu.faults import Fault, Location, place, shortened

MAX_BYTES = 1 << 17  # 64 paths with ten cuts and a description each take a quarter of it
MAX_DEPTH = 16
MAX_NODES = 10_000  # values and keys: half a second of PyYAML

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]{1,20}\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")
_NULL = re.compile(r"(~|null|Null|NULL|)\Z")


class _Loader(yaml.SafeLoader):
    """PyYAML's reader, scanner, parser and composer with other rules for plain words, bounded, without anchors."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name and type)
    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise _Refused("anchors (&) and aliases (*) have no place in a menu; write the value out", event.start_mark)
        if self.depth == MAX_DEPTH:
            raise _Refused(f"more than {MAX_DEPTH} levels of lists and mappings", event.start_mark)
        if self.nodes == MAX_NODES:
            raise _Refused(f"more than {MAX_NODES} keys and values: too large for a menu", event.start_mark)
        self.nodes += 1
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _kind, _pattern, _first in (
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("float", _NOT_FINITE, "-+."),
    ("bool", _BOOL, "tTfF"),
    ("null", _NULL, ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _kind, _pattern, list(_first))


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that a menu may not use."""

    def __init__(self, problem: str, mark: Any = None) -> None:
        super().__init__(problem=problem, problem_mark=mark)


@dataclass
class Source:
    """`data`: the document, None if it could not be read; `lines`: line (from 1) of every entry and item by location.

    `again`: keys that their mapping had already (the first one counts): location of the mapping, key, line.
    """

    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    again: list[tuple[Location, str, int]] = field(default_factory=list)
    fault: Fault | None = None

    def line(self, location: Location) -> int:
        """Line of a location; of the nearest one around it for what is not in the document."""
        while location not in self.lines and location:
            location = location[:-1]
        return self.lines.get(location, 1)

    @property
    def faults(self) -> list[Fault]:
        """What is wrong with the text as YAML."""
        if self.fault is not None:
            return [self.fault]
        faults = []
        for location, key, line in self.again:
            text = f"key {shortened(key)!r} again; first in line {self.lines[(*location, key)]}"
            faults.append(Fault(line, ": ".join(filter(None, (place(self.data, location), text)))))
        return faults


def read(text: str) -> Source:
    """Plain data of a YAML (or JSON) text. Never raises: what is wrong with the text is in `faults` of the result."""
    source = Source()
    try:
        if len(text.encode()) > MAX_BYTES:
            raise _Refused(f"more than {MAX_BYTES >> 10} KiB: too large for a menu")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                source.lines[()] = node.start_mark.line + 1
                source.data = _plain(node, (), source)
        except (ValueError, OverflowError):  # PyYAML lets those of chr() through
            source.fault = Fault(loader.line + 1, "not valid YAML: an escape sequence that is no character")
        finally:
            loader.dispose()
    except _Refused as error:
        source.fault = Fault(_line(error), str(error.problem))
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        source.fault = Fault(_line(error), f"not valid YAML: {' '.join(problem.split())}")
    except yaml.reader.ReaderError as error:
        source.fault = _no_character(text, error.position)
    except UnicodeEncodeError as error:  # a lone surrogate
        source.fault = _no_character(text, error.start)
    return source


def _no_character(text: str, position: int) -> Fault:
    return Fault(text.count("\n", 0, position) + 1, f"not valid YAML: the character U+{ord(text[position]):04X} is not allowed")


def read_file(path: Path) -> str:
    """Text of a menu file. Raises ConfigError with one line that names the file if it cannot be read, is not UTF-8 or is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"menu {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"menu {path} has more than {MAX_BYTES >> 10} KiB: too large for a menu")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"menu {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _line(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark is not None else 1


def _plain(node: yaml.Node, location: Location, source: Source) -> Any:
    """The value of a node; enters the lines of what is in it."""
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, location, source)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        items = []
        for i, item in enumerate(node.value):
            source.lines[(*location, i)] = item.start_mark.line + 1
            items.append(_plain(item, (*location, i), source))
        return items
    if isinstance(node, yaml.ScalarNode):
        if kind == "str":
            return node.value
        if kind == "null" and _NULL.match(node.value):
            return None
        if kind == "bool" and _BOOL.match(node.value):
            return node.value.lower() == "true"
        if kind == "int" and _INT.match(node.value):
            return int(node.value)
        if kind == "float" and (_FLOAT.match(node.value) or _NOT_FINITE.match(node.value)):
            return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise _Refused(f"the tag {shortened(node.tag)!r} has no place here; leave it out", node.start_mark)


def _mapping(node: yaml.MappingNode, location: Location, source: Source) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
            shown = repr(shortened(key)) if isinstance(key, str) else "a list or mapping"
            raise _Refused(f"keys are words, found {shown}", key_node.start_mark)
        if key in values:
            source.again.append((location, key, line))
            continue
        source.lines[(*location, key)] = line
        values[key] = _plain(value_node, (*location, key), source)
    return values
