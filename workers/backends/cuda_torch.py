"""A torch model inside the CUDA graph of a lane.

The number of tracks is known to the device alone, and torch kernels have fixed sizes. So the rows are cut into ranges of doubling size;
each range is a conditional node of the graph whose body is the model over just these rows, and a kernel that reads the count switches on
the ranges that hold tracks. Work is proportional to the tracks (less than twice as many rows), without a synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cupy
import numpy as np
import torch
from cuda.bindings import runtime

from hltfarm.proto.errors import BackendError
from hltfarm.workers.dnn.scorer import Scorer

FIRST_RANGE = 2048
MAX_RANGES = 24

#: The device function that sets a condition belongs to the driver, so it needs a declaration only.
_SOURCE = f"""
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
extern "C" __device__ void cudaGraphSetConditional(uint64_t handle, unsigned int value);
struct Ranges {{ uint64_t handle[{MAX_RANGES}]; uint32_t first[{MAX_RANGES}]; uint32_t n; uint32_t reserved_; }};
extern "C" __global__ void choose_ranges(uint32_t const* count, Ranges ranges) {{
  if (threadIdx.x < ranges.n) cudaGraphSetConditional(ranges.handle[threadIdx.x], *count > ranges.first[threadIdx.x]);
}}
"""
_RANGES = np.dtype([("handle", "u8", MAX_RANGES), ("first", "u4", MAX_RANGES), ("n", "u4"), ("reserved_", "u4")])


def row_ranges(capacity: int) -> list[tuple[int, int]]:
    """Ranges of rows that together are 0 .. capacity: 2048, 2048, 4096, 8192, ... The last one takes what is left."""
    ranges, first, size = list[tuple[int, int]](), 0, FIRST_RANGE
    while first < capacity and len(ranges) < MAX_RANGES:
        last = capacity if len(ranges) == MAX_RANGES - 1 else min(capacity, first + size)
        ranges.append((first, last))
        first, size = last, max(FIRST_RANGE, last)
    return ranges


class GraphScorer:
    """A scorer that can be captured. torch's intermediate tensors live in a memory pool of its own, as long as the graph."""

    def __init__(self, scorer: Scorer, capacity: int, count: int) -> None:
        """`count`: address on the device of the number of rows."""
        self._scorer = scorer
        self._ranges = row_ranges(capacity)
        self._count = count
        self._choose = cupy.RawModule(code=_SOURCE, options=("-std=c++17",)).get_function("choose_ranges")
        self._side = cupy.cuda.Stream(non_blocking=True)
        self._torch_side = torch.cuda.ExternalStream(self._side.ptr)
        self._pool = torch.cuda.MemPool()
        self._warm_up()

    def _warm_up(self) -> None:
        """Every range once outside of a capture: libraries are loaded, kernels compiled and chosen, the pool is as large as needed."""
        with self._on(self._torch_side):
            for first, last in self._ranges:
                self._scorer.score(first, last)
        self._side.synchronize()

    @contextmanager
    def _on(self, stream: Any) -> Iterator[None]:
        """torch allocates from the pool and works on a stream."""
        with torch.cuda.use_mem_pool(self._pool), torch.cuda.stream(stream):
            yield

    def capture(self, stream: cupy.cuda.Stream) -> None:
        """Add the model to the graph that the stream is capturing."""
        graph = _checked(runtime.cudaStreamGetCaptureInfo(stream.ptr), "query the capture")[2]
        handles = [_checked(runtime.cudaGraphConditionalHandleCreate(graph, 0, 1), "create a condition")[0] for _ in self._ranges]
        ranges = np.zeros(1, _RANGES)
        ranges["n"] = n = len(self._ranges)
        ranges["handle"][0, :n] = [int(handle) for handle in handles]
        ranges["first"][0, :n] = [first for first, _ in self._ranges]
        self._choose((1,), (32,), (np.uint64(self._count), ranges[0]))
        for handle, (first, last) in zip(handles, self._ranges, strict=True):
            body = self._add_condition(stream, handle)
            mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
            _checked(runtime.cudaStreamBeginCaptureToGraph(self._side.ptr, body, None, None, 0, mode), "begin the capture of the model")
            try:
                with self._on(self._torch_side):
                    self._scorer.score(first, last)
            finally:
                ended = runtime.cudaStreamEndCapture(self._side.ptr)
            _checked(ended, "capture the model")

    @staticmethod
    def _add_condition(stream: cupy.cuda.Stream, handle: Any) -> Any:
        """Append a conditional node to what the stream has captured; the graph of its body."""
        _, _, graph, dependencies, edges, n = _checked(runtime.cudaStreamGetCaptureInfo(stream.ptr), "query the capture")
        node = runtime.cudaGraphNodeParams()
        node.type = runtime.cudaGraphNodeType.cudaGraphNodeTypeConditional
        node.conditional.handle = handle
        node.conditional.type = runtime.cudaGraphConditionalNodeType.cudaGraphCondTypeIf
        node.conditional.size = 1
        (added,) = _checked(runtime.cudaGraphAddNode(graph, dependencies, edges, n, node), "add a conditional node")
        replace = runtime.cudaStreamUpdateCaptureDependenciesFlags.cudaStreamSetCaptureDependencies
        _checked(runtime.cudaStreamUpdateCaptureDependencies(stream.ptr, [added], None, 1, replace), "continue after a conditional node")
        return node.conditional.phGraph_out[0]

    def run(self, stream: cupy.cuda.Stream, rows: int) -> None:
        """Score `rows` rows on a stream, without a graph (profiled batches)."""
        with self._on(torch.cuda.ExternalStream(stream.ptr)):
            self._scorer.score(0, rows)


def _checked(answer: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """What a call of the runtime returned besides its error code. Raises BackendError."""
    error, *values = answer
    if error != runtime.cudaError_t.cudaSuccess:
        raise BackendError(f"CUDA cannot {what}: {error.name}; torch models need a driver of CUDA 12.4 or later (engine fused does not)")
    return tuple(values)
