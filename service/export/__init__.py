"""Events in the field's formats: tracks, vertices, hits, truth and decisions as columns in ROOT, Parquet and Arrow (docs/data-out.md).

    with EventSink("events.parquet") as sink:                 # or .root, .arrow
        for event in consumer.poll(1.0):                      # or decisions of a client
            sink.append(event)

    table = to_arrow(events)                                  # the same in memory; to_awkward

One definition serves all formats: `schema.py` takes names, types, units and documentation from the structures of the reconstruction.
Needs the extra `data` (uproot, awkward, pyarrow), which is imported when the first file or table is made.
"""

from hltfarm.service.export.memory import to_arrow, to_awkward
from hltfarm.service.export.root_file import RootLayout
from hltfarm.service.export.schema import EventSchema, Field, event_schema
from hltfarm.service.export.sink import EventSink
from hltfarm.service.export.table_file import SUFFIXES, TableFile, check_suffix

__all__ = [
    "SUFFIXES",
    "EventSchema",
    "EventSink",
    "Field",
    "RootLayout",
    "TableFile",
    "check_suffix",
    "event_schema",
    "to_arrow",
    "to_awkward",
]
