"""Which columns of a structure of arrays form one strided array: planes of one dtype, evenly spaced in one buffer, upwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hltfarm.proto.errors import LayoutError
from hltfarm.proto.soa import Collection


class Span(NamedTuple):
    """Bytes [begin, end) that a view takes of one plane of a column."""

    begin: int
    end: int
    column: str


@dataclass(frozen=True)
class Run:
    """Planes at `offset`, `offset + step`, ... (bytes from the start of the buffer) of columns that follow one another in a tensor.

    `columns` names the column of each plane; `shape` is what follows the rows: (planes,), or the shape of a lone matrix column.
    """

    collection: Collection
    columns: tuple[str, ...]
    dtype: np.dtype[Any]
    scalar: bool
    offset: int
    step: int
    shape: tuple[int, ...]

    @property
    def planes(self) -> int:
        return len(self.columns)

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from element to element along `shape`, whose elements lie plane by plane in C order."""
        strides, step = list[int](), self.step
        for extent in reversed(self.shape):
            strides.insert(0, step)
            step *= extent
        return tuple(strides)

    def spans(self, first: int, n: int) -> list[Span]:
        """The memory of rows first .. first + n - 1, as addresses."""
        size = self.dtype.itemsize
        first, n = (0, min(n, 1)) if self.scalar else (first, n)
        begin = self.collection.pointer + self.offset + first * size
        return [Span(begin + i * self.step, begin + i * self.step + n * size, column) for i, column in enumerate(self.columns)]


def runs(tensor: str, columns: Sequence[tuple[Collection, str]], split: bool) -> list[Run]:
    """The fewest runs that hold whole columns in the given order: one, or with `split` as many as it takes.

    Raises LayoutError, naming the column that does not continue the run, if there is more than one and `split` is False; and without
    columns.
    """
    if not columns:
        raise LayoutError(f"{tensor!r}: a tensor needs at least one column")
    # Any part of a run is a run: to take each as long as it gets gives the fewest.
    found = [_single(*columns[0])]
    for collection, name in columns[1:]:
        run, column = found[-1], _single(collection, name)
        step = column.offset - run.offset - (run.planes - 1) * run.step
        obstacle = _obstacle(run, column, step)
        if obstacle is None:
            names = (*run.columns, *column.columns)
            found[-1] = Run(run.collection, names, run.dtype, run.scalar, run.offset, step, (len(names),))
        elif split:
            found.append(column)
        else:
            raise LayoutError(f"{tensor!r}: column {name!r} {obstacle}; choose other columns, or split=True for several tensors")
    return found


def _single(collection: Collection, name: str) -> Run:
    column = collection.schema[name]
    names, step = (name,) * column.planes, collection.layout.plane_bytes(column)
    return Run(collection, names, column.type, column.scalar, collection.layout.offsets[name], step, column.shape or (1,))


def _obstacle(run: Run, column: Run, step: int) -> str | None:
    """Why a column cannot continue a run at `step` bytes from its last plane; None if it can."""
    last = run.columns[-1]
    if column.collection is not run.collection:
        return f"is in {column.collection.schema.name}, {last!r} in {run.collection.schema.name}: one tensor has one collection"
    if column.dtype != run.dtype:
        return f"is {column.dtype}, {last!r} is {run.dtype}: one tensor has one dtype"
    if column.scalar != run.scalar:
        return f"and {last!r} differ in kind: a scalar column has one value, the other one for every row"
    if step < 0:
        return f"lies before {last!r} in memory, and torch has no negative strides"
    if (run.planes > 1 and step != run.step) or (column.planes > 1 and step != column.step):
        return f"breaks the even spacing: it lies {step} bytes after {last!r}, not {run.step if run.planes > 1 else column.step}"
    return None
