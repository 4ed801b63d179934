"""Structures of arrays from one definition: buffer layout, NumPy/CuPy views, the kernels' C++ struct.

A `Schema` lists columns. Bound to a capacity and one byte buffer it becomes a `Collection`:

* every column starts at a multiple of 128 bytes, columns follow one another in the order of the schema;
* a column with a fixed `shape` (say 3x3) is stored plane by plane: plane k of element i lies at `k * stride + i`;
* a `scalar` column holds one value for the whole collection.

Views and C++ struct point into that buffer, and so do the torch tensors of `hltfarm.workers.tensors`; nothing copies. This module
loads neither cupy nor torch: CuPy buffers are recognised by their interface.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from hltfarm.proto.errors import LayoutError

ALIGNMENT = 128
_MAPPED = 1 << 20  # bytes from which on memory is a mapping of its own

_CPP_TYPES = {
    "u1": "uint8_t",
    "i1": "int8_t",
    "u2": "uint16_t",
    "i2": "int16_t",
    "u4": "uint32_t",
    "i4": "int32_t",
    "u8": "uint64_t",
    "i8": "int64_t",
    "f4": "float",
    "f8": "double",
}


def cpp_type(dtype: np.dtype[Any]) -> str:
    """C++ type of a scalar dtype. Raises LayoutError for one that kernels do not know."""
    code = f"{dtype.kind}{dtype.itemsize}"
    if code not in _CPP_TYPES:
        raise LayoutError(f"dtype {dtype} has no counterpart in the kernels; use one of {', '.join(sorted(_CPP_TYPES))}")
    return _CPP_TYPES[code]


@dataclass(frozen=True)
class Column:
    """One column: `dtype` per element, optional fixed `shape`, `scalar` for one value per collection."""

    name: str
    dtype: DTypeLike
    doc: str
    unit: str = ""
    shape: tuple[int, ...] = ()
    scalar: bool = False

    @property
    def type(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    @property
    def planes(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Schema:
    """A named list of columns. Raises LayoutError on duplicate names or unknown dtypes."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for column in self.columns:
            if column.name in self._by_name or column.name == "capacity":
                raise LayoutError(f"{self.name}: column name {column.name!r} is taken")
            cpp_type(column.type)
            self._by_name[column.name] = column

    def __getitem__(self, name: str) -> Column:
        try:
            return self._by_name[name]
        except KeyError:
            raise LayoutError(f"{self.name} has no column {name!r}; it has {', '.join(self._by_name)}") from None

    def layout(self, capacity: int) -> Layout:
        return Layout(self, capacity)

    def cpp(self) -> str:
        """Definition of the view struct that kernels receive by value."""
        lines = [f"// {self.doc}", f"struct {self.name} {{", "  uint32_t capacity;", "  uint32_t reserved_;"]
        for c in self.columns:
            unit = f" [{c.unit}]" if c.unit else ""
            lines.append(f"  {cpp_type(c.type)}* {c.name};  // {c.doc}{unit}")
        for c in self.columns:
            if c.shape:
                stride = f"((uint64_t(capacity) * {c.type.itemsize} + {ALIGNMENT - 1}) / {ALIGNMENT} * {ALIGNMENT // c.type.itemsize})"
                lines.append(
                    f"  HLT_FN {cpp_type(c.type)}& {c.name}_at(uint32_t i, uint32_t k) const {{ return {c.name}[k * {stride} + i]; }}"
                )
        return "\n".join([*lines, "};", ""])

    @cached_property
    def struct(self) -> np.dtype[Any]:
        """dtype of the view struct: capacity, padding, one pointer a column."""
        return np.dtype([("capacity", "u4"), ("reserved_", "u4"), *((c.name, "u8") for c in self.columns)])


@dataclass(frozen=True)
class Layout:
    """Byte offsets of a schema at a capacity (elements)."""

    schema: Schema
    capacity: int
    offsets: dict[str, int] = field(init=False)
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.capacity < 2**32:
            raise LayoutError(f"{self.schema.name}: capacity {self.capacity} is not within 1 .. 2^32 - 1")
        offsets, at = {}, 0
        for c in self.schema.columns:
            offsets[c.name] = at
            at += c.planes * self.plane_bytes(c)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "nbytes", at)

    def plane_bytes(self, column: Column) -> int:
        """Bytes from one plane of a column to the next, a multiple of the alignment."""
        n = (1 if column.scalar else self.capacity) * column.type.itemsize
        return -(-n // ALIGNMENT) * ALIGNMENT


class Collection:
    """A schema bound to a buffer: columns are attributes.

    `buffer` is a one-dimensional uint8 array (NumPy or CuPy) of at least `layout.nbytes`, aligned to 128 bytes; the collection keeps
    it alive. Raises LayoutError if it does not fit.
    """

    def __init__(self, layout: Layout, buffer: Any) -> None:
        name = layout.schema.name
        if buffer.dtype != np.uint8 or buffer.ndim != 1:
            raise LayoutError(f"{name}: the buffer must be a one-dimensional uint8 array, not {buffer.dtype} with {buffer.ndim} dimensions")
        if buffer.nbytes < layout.nbytes:
            raise LayoutError(f"{name}: the buffer has {buffer.nbytes} bytes, {layout.nbytes} are needed for capacity {layout.capacity}")
        if _address(buffer) % ALIGNMENT:
            raise LayoutError(f"{name}: the buffer is not aligned to {ALIGNMENT} bytes")
        self.layout = layout
        self.schema = layout.schema
        self.capacity = layout.capacity
        self.buffer = buffer
        self._views = {c.name: self._view(c) for c in layout.schema.columns}

    def _view(self, c: Column) -> Any:
        begin, plane = self.layout.offsets[c.name], self.layout.plane_bytes(c)
        flat = self.buffer[begin : begin + c.planes * plane].view(c.type)
        n = 1 if c.scalar else self.capacity
        if not c.shape:
            return flat[:n]
        planes = flat.reshape(c.planes, plane // c.type.itemsize)[:, :n]
        return planes.T.reshape(n, *c.shape) if len(c.shape) == 1 else _unflatten(planes, n, c.shape)

    def __getattr__(self, name: str) -> Any:
        views = self.__dict__.get("_views", {})
        if name in views:
            return views[name]
        raise AttributeError(f"{self.__dict__['schema'].name if 'schema' in self.__dict__ else 'Collection'} has no column {name!r}")

    def __getitem__(self, name: str) -> Any:
        self.schema[name]
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    @property
    def pointer(self) -> int:
        """Address of the buffer, in the memory of its device."""
        return _address(self.buffer)

    @cached_property
    def struct(self) -> np.ndarray[Any, Any]:
        """The view struct as an array of one element: what a kernel gets."""
        base = self.pointer
        pointers = (base + self.layout.offsets[c.name] for c in self.schema.columns)
        return np.array([(self.capacity, 0, *pointers)], dtype=self.schema.struct)

    def address(self, name: str) -> int:
        """Address of the first element of a column, in the memory of the buffer's device."""
        self.schema[name]
        return self.pointer + self.layout.offsets[name]


@dataclass(frozen=True)
class Params:
    """A small struct that kernels receive by value: fields of scalar dtypes with a doc."""

    name: str
    doc: str
    columns: tuple[Column, ...]

    @cached_property
    def struct(self) -> np.dtype[Any]:
        return np.dtype([(c.name, c.type) for c in self.columns], align=True)

    def cpp(self) -> str:
        lines = [f"// {self.doc}", f"struct {self.name} {{"]
        for c in self.columns:
            unit = f" [{c.unit}]" if c.unit else ""
            lines.append(f"  {cpp_type(c.type)} {c.name};  // {c.doc}{unit}")
        return "\n".join([*lines, "};", ""])

    def pack(self, **values: Any) -> np.ndarray[Any, Any]:
        """The struct as an array of one element. Raises LayoutError unless exactly the fields are given."""
        names = [c.name for c in self.columns]
        if sorted(values) != sorted(names):
            raise LayoutError(f"{self.name}: fields {sorted(values)} given, {sorted(names)} expected")
        return np.array([tuple(values[n] for n in names)], dtype=self.struct)


def aligned_empty(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Uninitialised uint8 array that starts at a multiple of the alignment; pages are only touched when used.

    A large one is a mapping of its own with small pages. NumPy asks for pages of 2 MiB, and an arena, of which events use a little here and
    a little there, would fill hundreds of MB with zeros in its first batch. Raises MemoryError.
    """
    if nbytes >= _MAPPED:
        return _small_pages(nbytes)
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    shift = -raw.ctypes.data % ALIGNMENT
    return raw[shift : shift + nbytes]


def _small_pages(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {nbytes} bytes: {error}") from error
    try:
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel that has no large pages
            raise
    return np.frombuffer(mapping, np.uint8)


def _address(buffer: Any) -> int:
    if isinstance(buffer, np.ndarray):
        return int(buffer.ctypes.data)
    if hasattr(buffer, "__cuda_array_interface__"):
        return int(buffer.__cuda_array_interface__["data"][0])
    raise LayoutError(f"a buffer must be a NumPy or a CuPy array, not {type(buffer).__name__}")


def _unflatten(planes: Any, n: int, shape: tuple[int, ...]) -> Any:
    """(planes, n) -> (n, *shape) as a view: split the plane axis, which is evenly strided, then move the elements first."""
    view = planes.reshape(*shape, planes.shape[1]) if planes.flags.c_contiguous else _split_axis(planes, shape)
    return view.transpose(len(shape), *range(len(shape)))[:n]


def _split_axis(planes: Any, shape: tuple[int, ...]) -> Any:
    step = planes.strides[0]
    strides: list[int] = []
    for extent in reversed(shape):
        strides.insert(0, step)
        step *= extent
    as_strided = np.lib.stride_tricks.as_strided
    if not isinstance(planes, np.ndarray):
        import cupy

        as_strided = cupy.lib.stride_tricks.as_strided
    return as_strided(planes, (*shape, planes.shape[1]), (*strides, planes.strides[1]))
