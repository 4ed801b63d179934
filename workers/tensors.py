"""torch tensors over columns of structures of arrays, inputs and outputs alike, without a copy.

A model reads and writes the memory that the kernels read and write. A `TensorCollection` declares which columns form which tensor:

    views = TensorCollection(tracks, size=n)
    x = views.input("x", "chi2", "pt", "eta")        (n, 3): evenly spaced columns are one strided tensor
    cov = views.input("cov", "cov")                  (n, *shape of the column): a matrix column, plane by plane
    beam = views.input("beam", "beam_z")             (n, 1) with stride 0: a scalar column, the same value for every row
    score = views.output("score", "score")           (n, 1): the model writes it in place

What is checked, always, and is a LayoutError that names the column: dtype, number of rows, device, alignment, even spacing, overlap of
outputs with anything else, memory that is still the collection's. Nothing here synchronises a device.

dtypes: float32, float64, int8 .. int64 and uint8 are torch's own. uint16, uint32 and uint64 become tensors that torch moves and
converts (`x.to(torch.float32)`) but does not compute with; `dtype=` reads the same bits as the signed type of that width, or a
uint8 column of zeros and ones as torch.bool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from hltfarm.proto.errors import LayoutError
from hltfarm.proto.soa import ALIGNMENT, Collection
from hltfarm.workers.strides import Run, Span, runs

#: dtypes whose bits may be read as another dtype of the same width.
SAME_BITS: Mapping[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.uint8: (torch.int8, torch.bool),
    torch.uint16: (torch.int16,),
    torch.uint32: (torch.int32,),
    torch.uint64: (torch.int64,),
}

Tensors = Any  # torch.Tensor, or with split=True a tuple of them


class Address(NamedTuple):
    """Where a tensor lies: address of its first element, strides in elements, shape."""

    pointer: int
    strides: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """What may be chosen for a view besides its columns."""

    size: int | None = None
    rows: slice | None = None
    batch: int | None = None
    dtype: torch.dtype | None = None
    split: bool = False


@dataclass(frozen=True)
class View:
    """A declared view: its tensors, their memory, and the versions they had when they were made."""

    tensors: tuple[torch.Tensor, ...]
    split: bool
    output: bool
    inplace: bool
    spans: tuple[Span, ...]
    versions: tuple[int, ...]

    @property
    def value(self) -> Tensors:
        return self.tensors if self.split else self.tensors[0]

    @property
    def columns(self) -> str:
        return ", ".join(dict.fromkeys(span.column for span in self.spans))


class TensorCollection:
    """Named tensors over the columns of one or several collections, all in the memory of one device.

    Rows: all of each collection's capacity, the first `size`, or the range `rows` (a slice without a step); with `batch` they are grouped:
    (rows / batch, batch, ...). `input` and `output` take the same three arguments for a single view. A column is named "pt", or
    "Tracks.pt" where several collections have one.

    The tensors keep the collections' memory alive. After `close` (or the end of a `with` block), or once a collection has got another
    buffer, the views are not given out any more. Raises LayoutError.
    """

    def __init__(self, *collections: Collection, size: int | None = None, rows: slice | None = None, batch: int | None = None) -> None:
        if not collections:
            raise LayoutError("tensor views need at least one collection")
        self._collections = {c.schema.name: c for c in collections}
        if len(self._collections) < len(collections):
            raise LayoutError(f"two collections have the same name: {', '.join(c.schema.name for c in collections)}")
        self._buffers = {name: c.buffer for name, c in self._collections.items()}
        self.device = _one_device(self._collections)
        self._default = Choice(size, rows, batch)
        self._names = ", ".join(self._collections)
        self._views: dict[str, View] = {}
        self._closed = False

    def input(
        self,
        name: str,
        *columns: str,
        size: int | None = None,
        rows: slice | None = None,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
        split: bool = False,
    ) -> Tensors:
        """Declare a tensor that a model reads.

        Columns in any order, adjacent or not: (rows, planes of all columns), or (rows, *shape) for a single matrix column. They must be
        of one dtype, one collection, and evenly spaced in memory, upwards; with `split=True` any choice will do and the result is a tuple
        of the fewest tensors that hold the columns in the given order. `dtype` is the dtype that the model expects (see the module).
        """
        return self._declare(name, columns, Choice(size, rows, batch, dtype, split), output=False, inplace=False)

    def output(
        self,
        name: str,
        *columns: str,
        size: int | None = None,
        rows: slice | None = None,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
        split: bool = False,
        inplace: bool = False,
    ) -> Tensors:
        """Declare a tensor that a model writes, with `out=` or by assigning to its elements; arguments as for `input`.

        No element may lie in another view, unless `inplace=True` allows that inputs share it. A scalar column is no output: its rows are
        one element.
        """
        return self._declare(name, columns, Choice(size, rows, batch, dtype, split), output=True, inplace=inplace)

    def __getitem__(self, name: str) -> Tensors:
        self._check_alive()
        try:
            return self._views[name].value
        except KeyError:
            raise LayoutError(f"no tensor {name!r} is declared; there are {', '.join(self._views) or 'none'}") from None

    @property
    def inputs(self) -> dict[str, Tensors]:
        """Declared inputs by name, in order."""
        self._check_alive()
        return {name: view.value for name, view in self._views.items() if not view.output}

    @property
    def outputs(self) -> dict[str, Tensors]:
        """Declared outputs by name, in order."""
        self._check_alive()
        return {name: view.value for name, view in self._views.items() if view.output}

    def addresses(self) -> dict[str, Address]:
        """Where every declared tensor lies; the parts of a split one are "name[0]", "name[1]", ..."""
        self._check_alive()
        labelled = (
            (f"{name}[{i}]" if view.split else name, tensor) for name, view in self._views.items() for i, tensor in enumerate(view.tensors)
        )
        return {label: Address(t.data_ptr(), tuple(t.stride()), tuple(t.shape)) for label, t in labelled}

    def owns(self, tensor: torch.Tensor) -> bool:
        """Whether every element of a tensor lies in the memory of one of the collections. A result that a model allocated does not."""
        self._check_alive()
        if tensor.device != self.device or tensor.numel() == 0:
            return False
        begin = tensor.data_ptr()
        last = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True))
        end = begin + (last + 1) * tensor.element_size()
        return any(c.pointer <= begin and end <= c.pointer + c.layout.nbytes for c in self._collections.values())

    def check_owned(self, name: str, tensor: torch.Tensor) -> None:
        """Raise LayoutError unless `owns(tensor)`; `name` is what the message calls it."""
        if not self.owns(tensor):
            raise LayoutError(
                f"{name!r}: {tensor.dtype} {tuple(tensor.shape)} on {tensor.device} lies outside of {self._names}; "
                "write into the declared output instead of returning a new tensor"
            )

    def check_unwritten(self) -> None:
        """Raise LayoutError if torch wrote to an input since it was declared.

        Seen by torch's version counter, so without a synchronisation: any in-place operation, `out=` and index assignment through the
        tensor or a view of it, eager or captured. Not seen: kernels outside of torch, and the replay of a captured graph.
        """
        self._check_alive()
        for name, view in self._views.items():
            if not view.output and any(t._version != v for t, v in zip(view.tensors, view.versions, strict=True)):
                raise LayoutError(f"the input {name!r} was written to (columns {view.columns}); inputs are read-only")

    def close(self) -> None:
        """Forget the tensors and the collections; any later use is a LayoutError. Harmless when repeated."""
        self._closed = True
        self._views.clear()
        self._collections.clear()
        self._buffers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _declare(self, name: str, columns: tuple[str, ...], choice: Choice, *, output: bool, inplace: bool) -> Tensors:
        self._check_alive()
        if name in self._views:
            raise LayoutError(f"a tensor {name!r} is declared already (columns {self._views[name].columns})")
        if choice.size is None and choice.rows is None:
            choice = replace(choice, size=self._default.size, rows=self._default.rows)
        if choice.batch is None:
            choice = replace(choice, batch=self._default.batch)
        tensors, spans = [], list[Span]()
        for run in runs(name, [self._find(c) for c in columns], choice.split):
            if output and run.scalar:
                raise LayoutError(f"{name!r}: column {run.columns[0]!r} is one value for all rows; an output needs an element for each")
            first, n = _range(run, choice)
            tensors.append(_tensor(name, run, first, n, choice, self.device))
            spans += run.spans(first, n)
        view = View(tuple(tensors), choice.split, output, inplace, tuple(spans), tuple(t._version for t in tensors))
        self._check_overlap(name, view)
        self._views[name] = view
        return view.value

    def _find(self, name: str) -> tuple[Collection, str]:
        owner, _, column = name.rpartition(".")
        if owner and owner not in self._collections:
            raise LayoutError(f"column {name!r}: there is no collection {owner!r}; there are {self._names}")
        candidates = [self._collections[owner]] if owner else list(self._collections.values())
        holders = [c for c in candidates if column in c] or candidates[:1]
        if len(holders) > 1:
            raise LayoutError(
                f"column {name!r} is in {' and in '.join(c.schema.name for c in holders)}: write {holders[0].schema.name}.{name}"
            )
        holders[0].schema[column]
        return holders[0], column

    def _check_overlap(self, name: str, view: View) -> None:
        if view.output:
            for before, after in pairwise(sorted(span for span in view.spans if span.begin < span.end)):
                if after.begin < before.end:
                    raise LayoutError(f"{name!r}: column {after.column!r} is named twice: an output needs memory for each of its elements")
        for other_name, other in self._views.items():
            if not (view.output or other.output) or (view.output != other.output and (view.inplace or other.inplace)):
                continue
            shared = next((a.column for a in view.spans for b in other.spans if max(a.begin, b.begin) < min(a.end, b.end)), None)
            if shared is not None:
                kinds = "two outputs" if view.output and other.output else "an input and an output (allowed with inplace=True)"
                raise LayoutError(f"column {shared!r} is in {other_name!r} and in {name!r}: {kinds}")

    def _check_alive(self) -> None:
        if self._closed:
            raise LayoutError(f"the tensors over {self._names} are closed")
        for name, collection in self._collections.items():
            if collection.buffer is not self._buffers[name]:
                raise LayoutError(f"{name}: the collection has another buffer since its tensors were declared; declare them again")


def _range(run: Run, choice: Choice) -> tuple[int, int]:
    """First row and number of rows. Raises LayoutError if they are not within the capacity."""
    size, rows = choice.size, choice.rows
    capacity, where = run.collection.capacity, f"column {run.columns[0]!r} of {run.collection.schema.name}"
    if size is not None and rows is not None:
        raise LayoutError(f"{where}: size={size} and rows={rows} are both given")
    if rows is None:
        first, n = 0, capacity if size is None else size
    else:
        if rows.step not in (None, 1):
            raise LayoutError(f"{where}: rows={rows} has a step; take every row")
        first = rows.start or 0
        n = (capacity if rows.stop is None else rows.stop) - first
    if first < 0 or n < 0 or first + n > capacity:
        raise LayoutError(f"{where}: rows {first} .. {first + n} are not within its capacity of {capacity}")
    return first, n


def _tensor(name: str, run: Run, first: int, n: int, choice: Choice, device: torch.device) -> torch.Tensor:
    """The strided tensor over a run of planes. It has a version counter of its own: writes through other views do not count as its."""
    collection, size = run.collection, run.dtype.itemsize
    stored = getattr(torch, run.dtype.name)
    wanted = choice.dtype or stored
    if wanted != stored and wanted not in SAME_BITS.get(stored, ()):
        raise LayoutError(f"{name!r}: column {run.columns[0]!r} is {run.dtype}, {wanted} is expected")
    row = 0 if run.scalar else 1
    shape, strides = (n, *run.shape), (row, *(s // size for s in run.strides))
    if choice.batch is not None:
        if choice.batch < 1 or n % choice.batch:
            raise LayoutError(f"{name!r}: {n} rows of column {run.columns[0]!r} are not a whole number of batches of {choice.batch}")
        shape, strides = (n // choice.batch, choice.batch, *run.shape), (row * choice.batch, *strides)
    begin = row * first * size + run.offset
    alignment = ALIGNMENT if row * first == 0 else size
    if (collection.pointer + begin) % alignment:
        raise LayoutError(
            f"{name!r}: column {run.columns[0]!r} begins at {collection.pointer + begin:#x}, not at a multiple of {alignment}"
        )
    with torch.inference_mode(False):  # tensors made in inference mode have no version counter
        flat = _bytes(name, run, device)
        tensor = flat[: collection.layout.nbytes].view(wanted).as_strided(shape, strides, begin // size)
    if flat.data_ptr() != collection.pointer or tensor.device != device:
        raise LayoutError(f"{name!r}: torch does not share the memory of column {run.columns[0]!r}: it made a copy on {tensor.device}")
    return tensor


def _bytes(name: str, run: Run, device: torch.device) -> torch.Tensor:
    buffer = run.collection.buffer
    if not isinstance(buffer, np.ndarray):
        return torch.as_tensor(buffer, device=device)
    if not buffer.flags.writeable:
        raise LayoutError(f"{name!r}: the memory of column {run.columns[0]!r} is read-only, which torch has no tensors for")
    return torch.from_numpy(buffer)


def _one_device(collections: Mapping[str, Collection]) -> torch.device:
    devices = {name: _device(c) for name, c in collections.items()}
    if len(set(devices.values())) > 1:
        raise LayoutError(f"the collections are on several devices: {', '.join(f'{name} on {d}' for name, d in devices.items())}")
    return next(iter(devices.values()))


def _device(collection: Collection) -> torch.device:
    """The CPU for a NumPy buffer, the device that holds it for a CuPy one."""
    return torch.device("cpu") if isinstance(collection.buffer, np.ndarray) else torch.device("cuda", int(collection.buffer.device.id))
