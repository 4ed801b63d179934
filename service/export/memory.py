"""Events in memory: decisions of a client or events of a consumer as an Arrow table or an Awkward array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hltfarm.service.export.arrow_table import arrow_schema, record_batch
from hltfarm.service.export.awkward_array import awkward_array
from hltfarm.service.export.block import Collector
from hltfarm.service.export.events import FITS, Event, deciders_of, row_of, schema_of
from hltfarm.service.export.extra import load
from hltfarm.service.export.table_file import BLOCK_BYTES


def to_arrow(events: Sequence[Event], *, tables: Sequence[str] = FITS, raw: bool = False, paths: Sequence[str] = ()) -> Any:
    """A pyarrow.Table with one row an event, columns as in a Parquet file. paths: names of the menu's paths, for decisions of a client.

    Raises BackendError without the extra `data`, LayoutError for an event whose tables are not as expected.
    """
    schema = schema_of(events, tables=tables, raw=raw, paths=paths)
    columns = arrow_schema(schema, {"deciders": deciders_of(events), "columns": schema.described()})
    collector, batches = Collector(schema), []
    for event in events:
        collector.append(row_of(event, raw=raw, paths=tuple(paths)))
        if collector.size >= BLOCK_BYTES:  # a batch counts its bytes with 32 bits
            batches.append(record_batch(schema, columns, collector.take()))
    if len(collector) or not batches:
        batches.append(record_batch(schema, columns, collector.take()))
    return load("pyarrow", "an Arrow table").Table.from_batches(batches)


def to_awkward(events: Sequence[Event], *, tables: Sequence[str] = FITS, raw: bool = False, paths: Sequence[str] = ()) -> Any:
    """The same as an ak.Array of records."""
    schema = schema_of(events, tables=tables, raw=raw, paths=paths)
    collector = Collector(schema)
    for event in events:
        collector.append(row_of(event, raw=raw, paths=tuple(paths)))
    return awkward_array(schema, collector.take())
