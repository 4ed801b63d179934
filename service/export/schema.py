"""What the columns of an event are: one definition for every format, made of the structures of the reconstruction.

An event has values of its own (`run`, `digest`, `passed_NAME`, ...) and tables whose columns are lists (`track_pt`: one value a track).
A column of a table may have a fixed number of values a row (`track_cov`: 15), or a list of them (`track_hits`: those of the track).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.results import DECIDER_COLUMNS, RESULT_COLUMNS
from hltfarm.proto.soa import Column
from hltfarm.service.export.truth import TRUTH
from hltfarm.workers.columns import REPLY_TRACKS, VERTEX_COLUMNS
from hltfarm.workers.hits import HITS
from hltfarm.workers.tracks import TRACKS
from hltfarm.workers.vertices import VERTICES

#: Table -> what its columns begin with.
PREFIXES = {
    "tracks": "track_",
    "vertices": "vertex_",
    "hits": "hit_",
    "particles": "particle_",
    "collisions": "collision_",
    "crossings": "crossing_",
    "pixels": "pixel_",
    "raw": "raw",
}
RECONSTRUCTED = ("tracks", "vertices", "hits")  #: tables of the reconstruction
PAYLOAD = "raw"  #: the table of raw data: bytes
PATH = "passed_"  #: what the columns of the menu's paths begin with
HAS_TABLES = "has_tables"

IDENTITY = (
    Column("run", "<u4", "run"),
    Column("lumi", "<u4", "lumisection"),
    Column("event", "<u8", "event number"),
    Column("bx", "<u4", "bunch crossing"),
)
_STREAM = Column("stream", "<u2", "stream of the file that the event was in: place in `streams` of the metadata")
_TABLES_DOC = "true: the reconstructed tables of this event are here; false: nobody kept them, and its lists are empty"
_RAW = Column("", "|u1", "payload of the event (docs/wire-format.md, format 1)")
#: Columns that are made of others, or in another form than in the structure of that name.
_DERIVED = {
    "charge": Column("charge", "<i4", "charge"),
    "hits": Column("hits", "<i4", "hits of the track from the inside out: places among the hits of the event"),
}


@dataclass(frozen=True)
class Field:
    """One column. `table`: empty for one value an event. `shape`: of one row; `listed`: a row has a list of values."""

    name: str
    dtype: np.dtype[Any]
    doc: str
    unit: str = ""
    table: str = ""
    source: str = ""  # name of the column in its table
    shape: tuple[int, ...] = ()
    listed: bool = False

    @property
    def width(self) -> int:
        """Values of a row that has a fixed number of them."""
        return prod(self.shape)

    @property
    def type(self) -> str:
        """For people: float32, list of float32, list of 15 float32, list of lists of int32."""
        if not self.table:
            return self.dtype.name
        inner = "lists of " if self.listed else f"{self.width} " if self.shape else ""
        return f"list of {inner}{self.dtype.name}"


@dataclass(frozen=True)
class EventSchema:
    """The columns of a file, in their order."""

    fields: tuple[Field, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(field.name for field in self.fields)

    @cached_property
    def tables(self) -> dict[str, tuple[Field, ...]]:
        """Columns by table."""
        found: dict[str, tuple[Field, ...]] = {}
        for field in self.fields:
            if field.table:
                found[field.table] = (*found.get(field.table, ()), field)
        return found

    def described(self) -> dict[str, dict[str, str]]:
        """Type, unit and documentation of every column, for the metadata of a file."""
        return {f.name: {"type": f.type, **({"unit": f.unit} if f.unit else {}), "doc": f.doc} for f in self.fields}

    def chosen(self, patterns: Sequence[str]) -> EventSchema:
        """Only the columns that match one of the patterns (`track_*`), run, lumi and event besides. Raises ConfigError for one that
        matches nothing."""
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in self.names):
                raise ConfigError(f"no column matches {pattern!r}; there are {', '.join(self.names)}")
        kept = ("run", "lumi", "event")
        return EventSchema(tuple(f for f in self.fields if f.name in kept or any(fnmatchcase(f.name, p) for p in patterns)))


def event_schema(
    *, decision: np.dtype[Any] | None, paths: Iterable[str] = (), tables: Sequence[str] = (), streams: bool = False
) -> EventSchema:
    """Columns of events. decision: fields of the decisions, None without them. paths: names in the menus.

    Raises ConfigError for an unknown table, or for two columns of one name.
    """
    for table in tables:
        if table not in PREFIXES:
            raise ConfigError(f"table {table!r} is unknown; there are {', '.join(PREFIXES)}")
    fields = [_single(column) for column in (*IDENTITY, *((_STREAM,) if streams else ()))]
    if decision is not None:
        known = {column.name: column for column in (*DECIDER_COLUMNS, *RESULT_COLUMNS)}
        for name in decision.names or ():
            unknown = Column(name, decision[name], "of another version of hltfarm")
            fields.append(_single(known[name] if name in known and known[name].type == decision[name] else unknown))
        fields += [
            Field(PATH + name, np.dtype(np.bool_), f"path {name} accepted the event, after prescale") for name in dict.fromkeys(paths)
        ]
    if set(tables) & set(RECONSTRUCTED):
        fields.append(Field(HAS_TABLES, np.dtype(np.bool_), _TABLES_DOC))
    for table in PREFIXES:
        if table in tables:
            fields += [_listed(table, column) for column in _columns(table)]
    _check(fields)
    return EventSchema(tuple(fields))


def _columns(table: str) -> tuple[Column, ...]:
    if table == "tracks":
        return tuple(_DERIVED[name] if name in _DERIVED else TRACKS[name] for name in REPLY_TRACKS)
    if table == "vertices":
        return tuple(VERTICES[name] for name in VERTEX_COLUMNS)
    if table == "hits":
        return HITS.columns
    return (_RAW,) if table == PAYLOAD else TRUTH[table]


def _single(column: Column) -> Field:
    return Field(column.name, column.type, column.doc, column.unit, source=column.name)


def _listed(table: str, column: Column) -> Field:
    listed = table == "tracks" and column.name == "hits"
    return Field(PREFIXES[table] + column.name, column.type, column.doc, column.unit, table, column.name, column.shape, listed)


def _check(fields: Sequence[Field]) -> None:
    seen: set[str] = set()
    for field in fields:
        if field.name in seen:
            raise ConfigError(f"two columns are named {field.name}: a field of the decisions or a path has the name of another column")
        seen.add(field.name)
