"""Blocks as Awkward arrays: one record an event, over the memory of the block."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from hltfarm.service.export.block import Block, Lists
from hltfarm.service.export.extra import load
from hltfarm.service.export.schema import EventSchema


def awkward_array(schema: EventSchema, block: Block) -> Any:
    """An array of records with the columns of the schema."""
    ak = load("awkward", "Awkward arrays and ROOT output")
    contents = [awkward_layout(block[name]) for name in schema.names]
    return ak.Array(ak.contents.RecordArray(contents, list(schema.names)))


def awkward_layout(values: NDArray[Any] | Lists) -> Any:
    """The layout of one column."""
    ak = load("awkward", "Awkward arrays and ROOT output")
    if not isinstance(values, Lists):
        return ak.contents.NumpyArray(values)
    content = ak.contents.NumpyArray(values.values)
    if values.values.ndim > 1:
        content = content.to_RegularArray()
    if values.inner is not None:
        content = ak.contents.ListOffsetArray(ak.index.Index64(values.inner), content)
    return ak.contents.ListOffsetArray(ak.index.Index64(values.offsets), content)
