"""Files of events read back with the libraries of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.service.export.block import Lists

FORMATS = ("events.root", "ttree.root", "events.parquet", "events.arrow")


def metadata_of(path: Path) -> dict[str, Any]:
    """The metadata of a file."""
    if path.suffix == ".root":
        import uproot

        with uproot.open(path) as file:
            return dict(json.loads(str(file["hltfarm"])))
    return dict(json.loads(arrow_table(path).schema.metadata[b"hltfarm"]))


def columns_of(path: Path) -> dict[str, NDArray[Any] | Lists]:
    """All columns of a file but the counters of a TTree."""
    if path.suffix == ".root":
        import uproot

        with uproot.open(path) as file:
            array = file["events"].arrays()
        return {name: _lists(array[name].layout) for name in array.fields if not name.startswith("n_")}
    table = arrow_table(path)
    return {name: _arrow(table[name]) for name in table.column_names}


def arrow_table(path: Path) -> Any:
    """The table of a Parquet or Arrow file."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path.suffix == ".parquet":
        return parquet.read_table(path)
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _lists(layout: Any) -> NDArray[Any] | Lists:
    """Columns of an Awkward array."""
    layout = layout.to_packed()
    if layout.is_numpy:
        return np.asarray(layout.data)
    offsets, content, inner = np.asarray(layout.offsets), layout.content, None
    if content.is_list and not content.is_regular:
        inner, content = np.asarray(content.offsets), content.content
    if content.is_regular:
        size, content = content.size, content.content
        return Lists(offsets, np.asarray(content.data).reshape(-1, size), inner)
    return Lists(offsets, np.asarray(content.data), inner)


def _arrow(column: Any) -> NDArray[Any] | Lists:
    import pyarrow as pa

    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_binary(array.type):
        parts = [np.frombuffer(value, np.uint8) for value in array.to_pylist()]
        return Lists(np.cumsum([0, *map(len, parts)]), np.concatenate([np.zeros(0, np.uint8), *parts]))
    if not pa.types.is_list(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    offsets, content, inner = np.asarray(array.offsets), array.flatten(), None
    if pa.types.is_list(content.type):
        inner, content = np.asarray(content.offsets), content.flatten()
    if pa.types.is_fixed_size_list(content.type):
        size = content.type.list_size
        return Lists(offsets, np.asarray(content.flatten().to_numpy(zero_copy_only=False)).reshape(-1, size), inner)
    return Lists(offsets, np.asarray(content.to_numpy(zero_copy_only=False)), inner)
