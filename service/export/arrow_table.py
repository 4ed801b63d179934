"""Blocks as Arrow record batches: lists as Arrow lists over the same memory where the types allow it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.service.export.block import Block, Lists, Offsets
from hltfarm.service.export.extra import load
from hltfarm.service.export.schema import PAYLOAD, EventSchema, Field

METADATA_KEY = "hltfarm"  #: key of the metadata, a JSON text


def arrow_schema(schema: EventSchema, metadata: Mapping[str, Any]) -> Any:
    """The schema with documentation and unit of each column, and the metadata of the file."""
    pa = load("pyarrow", "Arrow and Parquet output")
    fields = [
        pa.field(f.name, _type(pa, f), nullable=False, metadata={"doc": f.doc, **({"unit": f.unit} if f.unit else {})})
        for f in schema.fields
    ]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def record_batch(schema: EventSchema, columns: Any, block: Block) -> Any:
    """A block as a record batch with the Arrow schema `columns`."""
    pa = load("pyarrow", "Arrow and Parquet output")
    arrays = [_array(pa, field, block[field.name]) for field in schema.fields]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _type(pa: Any, field: Field) -> Any:
    scalar = pa.from_numpy_dtype(field.dtype)
    if not field.table:
        return scalar
    if field.table == PAYLOAD:
        return pa.binary()
    if field.listed:
        return pa.list_(_item(pa, pa.list_(_item(pa, scalar))))
    return pa.list_(_item(pa, pa.list_(_item(pa, scalar), field.width) if field.shape else scalar))


def _item(pa: Any, kind: Any) -> Any:
    return pa.field("element", kind, nullable=False)


def _array(pa: Any, field: Field, values: NDArray[Any] | Lists) -> Any:
    if not isinstance(values, Lists):
        return pa.array(values)
    kind = _type(pa, field)
    if field.table == PAYLOAD:
        buffers = [None, pa.py_buffer(_narrow(values.offsets)), pa.py_buffer(np.ascontiguousarray(values.values))]
        return pa.BinaryArray.from_buffers(kind, len(values.offsets) - 1, buffers)
    content = pa.array(np.ascontiguousarray(values.values).reshape(-1))
    if field.shape:
        content = pa.FixedSizeListArray.from_arrays(content, type=kind.value_type)
    if values.inner is not None:
        content = pa.ListArray.from_arrays(pa.array(_narrow(values.inner)), content, type=kind.value_type)
    return pa.ListArray.from_arrays(pa.array(_narrow(values.offsets)), content, type=kind)


def _narrow(offsets: Offsets) -> NDArray[np.int32]:
    """Offsets as Arrow lists have them; a block is far smaller than 2 GiB."""
    return offsets.astype(np.int32)
