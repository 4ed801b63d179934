"""Columns filled where they lie, by a kernel on a device, with numbers that depend on nothing but the seed: the same bits everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.soa import Collection

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Fill:
    """Values uniform in low .. high (exclusive; whole numbers for integer columns), plus `step` for every `group` elements before."""

    low: float = -1.0
    high: float = 1.0
    group: int = 0
    step: int = 0


def fill(collection: Collection, column: str, values: Fill, seed: int) -> None:
    """Write every element of a column (NumPy or CuPy). On a device it is one kernel on the current stream; does not synchronise."""
    view = collection[column]
    if isinstance(view, np.ndarray):
        width = view[0].size
        rows = max(1, _CHUNK // width)
        for first in range(0, len(view), rows):
            part = view[first : first + rows]
            part[...] = _numbers(np.arange(first * width, first * width + part.size), values, seed).reshape(part.shape)
    else:
        group = values.group or view.size
        _kernel()(
            np.uint32(seed), np.float64(values.low), np.float64(values.high - values.low), np.int64(group), np.int64(values.step), view
        )


def _numbers(index: NDArray[np.int64], values: Fill, seed: int) -> NDArray[np.float64]:
    """The finalizer of MurmurHash3 (A. Appleby, public domain) over index and seed, as 24-bit fractions of the range."""
    h = (index.astype(np.uint32) * np.uint32(0x9E3779B1)) ^ np.uint32(seed)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    drawn = values.low + (values.high - values.low) * ((h >> np.uint32(8)).astype(np.float64) * 2.0**-24)
    return drawn if not values.group else np.floor(drawn) + (index // values.group) * np.float64(values.step)


@cache
def _kernel() -> Any:
    import cupy

    return cupy.ElementwiseKernel(
        "uint32 seed, float64 low, float64 span, int64 group, int64 step",
        "T x",
        """
        unsigned int h = ((unsigned int)i * 0x9E3779B1u) ^ seed;
        h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
        h = (h ^ (h >> 13)) * 0xC2B2AE35u;
        h ^= h >> 16;
        x = (T)(low + span * ((h >> 8) * 0x1p-24)) + (T)(i / group * step);
        """,
        "fill_column",
        options=("--fmad=false",),
    )
