"""Writing Arrow IPC files and Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hltfarm.service.export.arrow_table import arrow_schema, record_batch
from hltfarm.service.export.block import Block
from hltfarm.service.export.extra import load
from hltfarm.service.export.schema import PAYLOAD, EventSchema, Field


class ArrowFile:
    """An Arrow IPC file (also known as Feather, version 2) that is being written; a block becomes a record batch.

    It is not compressed, so that readers map it.
    """

    def __init__(self, path: Path, schema: EventSchema, metadata: Mapping[str, Any]) -> None:
        ipc = load("pyarrow.ipc", "Arrow output")
        self._schema, self._columns = schema, arrow_schema(schema, metadata)
        self._sink = path.open("wb")
        self._writer = ipc.new_file(self._sink, self._columns)

    def write(self, block: Block) -> None:
        """Append the events of a block."""
        self._writer.write_batch(record_batch(self._schema, self._columns, block))

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()
        self._sink.close()

    def abandon(self) -> None:
        """Close the descriptor; the file is of no use."""
        self._sink.close()


class ParquetFile:
    """A Parquet file that is being written; a block becomes a row group."""

    def __init__(self, path: Path, schema: EventSchema, metadata: Mapping[str, Any]) -> None:
        parquet = load("pyarrow.parquet", "Parquet output")
        self._schema, self._columns = schema, arrow_schema(schema, metadata)
        self._sink = path.open("wb")
        floats = [_leaf(field) for field in schema.fields if field.dtype.kind == "f"]
        self._writer = parquet.ParquetWriter(
            self._sink,
            self._columns,
            compression="zstd",
            compression_level=1,
            use_dictionary=[_leaf(field) for field in schema.fields if field.dtype.kind != "f"],
            use_byte_stream_split=floats,  # as ROOT does: exponents compress, mantissas do not
        )

    def write(self, block: Block) -> None:
        """Append the events of a block."""
        self._writer.write_batch(record_batch(self._schema, self._columns, block))

    def close(self) -> None:
        """Complete the file."""
        self._writer.close()
        self._sink.close()

    def abandon(self) -> None:
        """Close the descriptor; the file is of no use."""
        try:
            self._writer.close()
        finally:
            self._writer.is_open = False  # else it tries again when it is collected
            self._sink.close()


def _leaf(field: Field) -> str:
    """Path of the values of a column in the schema of Parquet."""
    depth = 0 if not field.table or field.table == PAYLOAD else 1 + (field.listed or bool(field.shape))
    return field.name + depth * ".list.element"
