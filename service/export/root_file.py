"""Writing ROOT files with uproot: an RNTuple, or a TTree for programs that read no RNTuple."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from hltfarm.service.export.awkward_array import awkward_array, awkward_layout
from hltfarm.service.export.block import Block, Lists
from hltfarm.service.export.extra import load
from hltfarm.service.export.schema import PREFIXES, EventSchema

NAME = "events"  #: of the RNTuple or TTree
METADATA_NAME = "hltfarm"  #: of the TObjString with the metadata


class RootLayout(StrEnum):
    """How a ROOT file holds the events: rntuple (as in the other formats) or ttree (rows with several values flattened)."""

    RNTUPLE = "rntuple"
    TTREE = "ttree"


class RootFile:
    """A ROOT file that is being written; a block becomes a cluster."""

    def __init__(self, path: Path, schema: EventSchema, metadata: Mapping[str, Any], layout: RootLayout) -> None:
        uproot = load("uproot", "ROOT output")
        self._schema, self._layout = schema, layout
        self._sink = path.open("w+b")  # not by name: uproot takes `::` and `data:` in one for a file within another, or elsewhere
        self._file = uproot.recreate(self._sink, compression=uproot.ZSTD(1))
        self._file[METADATA_NAME] = json.dumps(metadata, sort_keys=True)
        self._events: Any = None

    def write(self, block: Block) -> None:
        """Append the events of a block."""
        array = _flat(self._schema, block) if self._layout is RootLayout.TTREE else awkward_array(self._schema, block)
        if self._events is None:
            self._events = self._open(array)
        self._events.extend(array)

    def _open(self, array: Any) -> Any:
        if self._layout is RootLayout.RNTUPLE:
            return self._file.mkrntuple(NAME, array.layout.form)
        ak = load("awkward", "ROOT output")
        types = {name: column.dtype if not isinstance(column, ak.Array) else ak.type(column).content for name, column in array.items()}
        return self._file.mktree(NAME, types, counter_name=_counter, field_name=_branch)

    def close(self) -> None:
        """Complete the file."""
        self._file.close()
        self._sink.close()

    def abandon(self) -> None:
        """Close the descriptor; the file is of no use."""
        try:
            self._file.close()
        finally:
            self._sink.close()


def _flat(schema: EventSchema, block: Block) -> dict[str, Any]:
    """Branches of a TTree: a table becomes one record of lists with a common counter; rows of several values are appended to one another in
    a branch of their own, as a TTree written by uproot has no lists of lists."""
    ak = load("awkward", "ROOT output")
    branches: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for field in schema.fields:
        column = block[field.name]
        if not isinstance(column, Lists):
            branches[field.name] = column
        elif field.listed or field.shape or field.name == PREFIXES[field.table]:
            branches[field.name] = ak.Array(awkward_layout(_joined(column)))
        else:
            tables.setdefault(field.table, {})[field.source] = awkward_layout(column)
    for table, columns in tables.items():
        names = list(columns)
        first = columns[names[0]]
        record = ak.contents.RecordArray([columns[name].content for name in names], names)
        branches[PREFIXES[table].rstrip("_")] = ak.Array(ak.contents.ListOffsetArray(first.offsets, record))
    return branches


def _joined(column: Lists) -> Lists:
    """Rows of several values one after the other: as many values an event as its rows have together."""
    if column.inner is not None:
        return Lists(column.inner[column.offsets], column.values)
    width = column.values.shape[1] if column.values.ndim > 1 else 1
    return Lists(column.offsets * width, column.values.reshape(-1))


def _counter(branch: str) -> str:
    return f"n_{branch}"


def _branch(outer: str, inner: str) -> str:
    return inner if outer == "" else f"{outer}_{inner}"
