"""Events side by side: what is collected event by event becomes columns, which the formats write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.errors import LayoutError
from hltfarm.proto.events import EventId
from hltfarm.service.export.schema import HAS_TABLES, PATH, PAYLOAD, RECONSTRUCTED, EventSchema, Field

Offsets: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lists:
    """A column of lists. Rows of event i: offsets[i] .. offsets[i + 1].

    inner: offsets of the rows in `values`, where each row is a list itself. values: one entry a row, of the shape of the
    column, or one a value where the rows are lists.
    """

    offsets: Offsets
    values: NDArray[Any]
    inner: Offsets | None = None


#: A chunk of events: column -> one value an event, or lists.
Block: TypeAlias = dict[str, NDArray[Any] | Lists]


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event. decision: one record, with the fields that the schema was made with. paths: names of its bits. stream: place in the list
    of streams. tables: as `hltfarm.proto.columns` has them; None or without a table where it was not kept."""

    id: EventId
    decision: NDArray[np.void] | None = None
    paths: tuple[str, ...] = ()
    stream: int = 0
    tables: Mapping[str, Mapping[str, NDArray[Any]]] | None = None


class Collector:
    """Collects events; `take` gives them as a block. `size`: bytes so far."""

    def __init__(self, schema: EventSchema) -> None:
        self._schema = schema
        self._rows: list[EventRow] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: EventRow) -> None:
        """Add an event. Its arrays are kept, not copied, until `take`. Raises LayoutError if it has not what the schema says."""
        for table, fields in self._schema.tables.items():
            columns = (row.tables or {}).get(table)
            if columns is None and table in RECONSTRUCTED and not _reconstructed(row):
                continue
            rows = None
            for field in fields:
                values = _checked(row, field, columns)
                rows = len(values) if rows is None else rows
                if len(values) != rows:
                    raise LayoutError(f"{_where(row, field)} has {len(values)} rows, others have {rows}")
                self.size += values.nbytes
        self.size += 8 * len(self._schema.fields)
        self._rows.append(row)

    def take(self) -> Block:
        """The block of the events so far; begins anew."""
        rows, self._rows, self.size = self._rows, [], 0
        return block(self._schema, rows)


def block(schema: EventSchema, rows: Sequence[EventRow]) -> Block:
    """Columns of events."""
    made: Block = {}
    offsets: dict[str, Offsets] = {}
    decisions = [row.decision for row in rows if row.decision is not None]
    decision = np.concatenate(decisions) if decisions and len(decisions) == len(rows) else None
    for field in schema.fields:
        if field.table:
            if field.table not in offsets:
                offsets[field.table] = _offsets([_length(row, field) for row in rows])
            made[field.name] = _lists(field, offsets[field.table], [_part(row, field) for row in rows])
        elif field.source in EventId._fields:
            made[field.name] = np.array([getattr(row.id, field.source) for row in rows], field.dtype)
        elif field.source == "stream":
            made[field.name] = np.array([row.stream for row in rows], field.dtype)
        elif field.name == HAS_TABLES:
            made[field.name] = np.array([_reconstructed(row) for row in rows], field.dtype)
        elif not rows:
            made[field.name] = np.zeros(0, field.dtype)
        elif decision is None:
            raise LayoutError(f"column {field.name}: {len(rows) - len(decisions)} of {len(rows)} events have no decision")
        elif field.source:
            made[field.name] = np.ascontiguousarray(decision[field.source], field.dtype)
        else:
            made[field.name] = _accepts(field.name.removeprefix(PATH), rows, decision["path_bits"])
    return made


def _reconstructed(row: EventRow) -> bool:
    return row.tables is not None and any(table in row.tables for table in RECONSTRUCTED)


def _accepts(name: str, rows: Sequence[EventRow], bits: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether the path of that name accepted each event; each event has the bits of its own menu."""
    places = {paths: paths.index(name) if name in paths else -1 for paths in {row.paths for row in rows}}
    place = np.array([places[row.paths] for row in rows], np.int64)
    return (place >= 0) & (bits >> np.maximum(place, 0).astype(np.uint64) & np.uint64(1)).astype(np.bool_)


def _checked(row: EventRow, field: Field, columns: Mapping[str, NDArray[Any]] | None) -> NDArray[Any]:
    """A column of an event. Raises LayoutError if it is not as the schema says."""
    values = None if columns is None else columns.get(field.source)
    if values is None:
        raise LayoutError(f"{_where(row, field)} is missing; leave the table out, or choose columns that are there")
    if values.dtype != field.dtype or values.ndim != 1 + bool(field.shape or field.listed):
        raise LayoutError(f"{_where(row, field)} is {values.ndim}-dimensional {values.dtype}, expected {field.type}")
    if field.shape and values.shape[1:] != field.shape:
        raise LayoutError(f"{_where(row, field)} has rows of {values.shape[1]} values, expected {field.width}")
    return values


def _where(row: EventRow, field: Field) -> str:
    return f"run {row.id.run}, event {row.id.event}: column {field.source or field.table!r} of {field.table}"


def _part(row: EventRow, field: Field) -> NDArray[Any] | None:
    columns = None if row.tables is None else row.tables.get(field.table)
    return None if columns is None else columns[field.source]


def _length(row: EventRow, field: Field) -> int:
    part = _part(row, field)
    return 0 if part is None else len(part)


def _lists(field: Field, offsets: Offsets, parts: Sequence[NDArray[Any] | None]) -> Lists:
    there = [part for part in parts if part is not None]
    if field.listed:  # padded with -1 behind the last value of each row
        uses = [part >= 0 for part in there]
        counts = np.concatenate([np.zeros(0, np.int64), *(use.sum(axis=1) for use in uses)])
        values = np.concatenate([np.zeros(0, field.dtype), *(part[use] for part, use in zip(there, uses, strict=True))])
        return Lists(offsets, values, _offsets(counts))
    return Lists(offsets, np.concatenate([np.zeros((0, *field.shape), field.dtype), *there]))


def _offsets(counts: Sequence[int] | NDArray[np.int64]) -> Offsets:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def payload_table(payload: NDArray[np.uint8]) -> dict[str, dict[str, NDArray[Any]]]:
    """The table of raw data."""
    return {PAYLOAD: {"": payload}}
