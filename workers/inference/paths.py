"""Ways from input columns to output columns of a model. Each does all of its work on torch's current stream.

direct       the model reads and writes views of the columns
graph        direct, captured once as a CUDA graph and replayed
copy         columns -> row-major arrays -> model -> row-major arrays -> columns, all where the model runs
host         what frameworks without shared device memory do: columns to the host, row-major arrays there, these to the device, model,
             its results to the host, into columns there, these to the device
host-pinned  the same through page-locked memory, so that no copy is staged
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hltfarm.proto.soa import Collection, aligned_empty
from hltfarm.workers.inference.cases import Case, Port
from hltfarm.workers.inference.fill import Fill, fill
from hltfarm.workers.tensors import TensorCollection

Run = Callable[[], None]
Allocate = Callable[[int], Any]  # bytes -> a uint8 array, aligned to 128 bytes

CPU_PATHS = ("direct", "copy")
CUDA_PATHS = ("direct", "graph", "copy", "host", "host-pinned")
SEED = 20260101


def host_memory(nbytes: int) -> Any:
    """Ordinary host memory, touched."""
    buffer = aligned_empty(nbytes)
    buffer.fill(0)
    return buffer


def pinned_memory(nbytes: int) -> Any:
    """Page-locked host memory."""
    import cupyx

    return cupyx.zeros_pinned((nbytes,), np.uint8)


def device_memory(nbytes: int) -> Any:
    """Memory of CuPy's current device."""
    import cupy

    return cupy.zeros(nbytes, cupy.uint8)


class Columns:
    """The columns of a case for a size, and the tensors of its ports over them."""

    def __init__(self, case: Case, size: int, allocate: Allocate) -> None:
        self.case = case
        capacities = case.capacities(size)
        layouts = [schema.layout(capacities[schema.name]) for schema in case.schemas]
        self.collections = [Collection(layout, allocate(layout.nbytes)) for layout in layouts]
        self.views = TensorCollection(*self.collections)
        self.inputs = tuple(p.arrange(self.views.input(p.name, *p.columns, dtype=p.dtype)) for p in case.inputs)
        self.outputs = tuple(p.arrange(self.views.output(p.name, *p.columns, dtype=p.dtype)) for p in case.outputs)

    @property
    def device(self) -> torch.device:
        return self.views.device

    def fill(self) -> None:
        """Numbers into all input columns; on a device by kernels on CuPy's current stream."""
        named = _named(self.case.inputs)
        for collection in self.collections:
            for i, column in enumerate(collection.schema.columns):
                if column.name in named:
                    fill(collection, column.name, self.case.fills.get(column.name, Fill()), SEED + i)

    def blocks(self, ports: Iterable[Port]) -> list[Tensor]:
        """The bytes of the columns of ports, without a copy; columns that follow one another are one block."""
        named = _named(ports)
        return [torch.as_tensor(c.buffer, device=self.device)[begin:end] for c in self.collections for begin, end in _ranges(c, named)]


def direct(network: nn.Module, columns: Columns) -> Run:
    """The model on the columns."""

    def run() -> None:
        network(columns.inputs, columns.outputs)

    return run


def captured(run: Run) -> Run:
    """A run as a CUDA graph of torch's current stream; it must have run there before, so that nothing is set up during the capture."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        run()
    return graph.replay  # type: ignore[no-any-return]


def copied(network: nn.Module, columns: Columns) -> Run:
    """The model on row-major arrays beside the columns."""
    inputs, outputs = _row_major(columns.inputs, columns.device), _row_major(columns.outputs, columns.device)

    def run() -> None:
        _copy(columns.inputs, inputs)
        network(inputs, outputs)
        _copy(outputs, columns.outputs)

    return run


def through_host(network: nn.Module, columns: Columns, size: int, pinned: bool) -> Run:
    """The model on row-major arrays that the host makes out of columns, and columns that it makes out of the results."""
    case, allocate = columns.case, pinned_memory if pinned else host_memory
    host = Columns(case, size, allocate)
    host_inputs, host_outputs = (_row_major(t, host.device, allocate) for t in (host.inputs, host.outputs))
    inputs, outputs = (_row_major(t, columns.device) for t in (columns.inputs, columns.outputs))
    device_in, host_in = columns.blocks(case.inputs), host.blocks(case.inputs)
    device_out, host_out = columns.blocks(case.outputs), host.blocks(case.outputs)

    def run() -> None:
        _copy(device_in, host_in, pinned)
        torch.cuda.current_stream().synchronize()
        _copy(host.inputs, host_inputs)
        _copy(host_inputs, inputs, pinned)
        network(inputs, outputs)
        _copy(outputs, host_outputs, pinned)
        torch.cuda.current_stream().synchronize()
        _copy(host_outputs, host.outputs)
        _copy(host_out, device_out, pinned)

    return run


def host_bytes(case: Case, size: int) -> int:
    """Bytes that cross between host and device in a run of `host`, both ways together: each column once, each array once."""
    capacities, named = case.capacities(size), _named((*case.inputs, *case.outputs))
    total = 0
    for schema in case.schemas:
        layout = schema.layout(capacities[schema.name])
        for c in schema.columns:
            if c.name in named:
                total += c.planes * (layout.plane_bytes(c) + c.type.itemsize * layout.capacity)
    return total


def _named(ports: Iterable[Port]) -> set[str]:
    return {column for port in ports for column in port.columns}


def _ranges(collection: Collection, named: set[str]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for column in collection.schema.columns:
        if column.name in named:
            begin = collection.layout.offsets[column.name]
            end = begin + column.planes * collection.layout.plane_bytes(column)
            if ranges and ranges[-1][1] == begin:
                begin = ranges.pop()[0]
            ranges.append((begin, end))
    return ranges


def _row_major(tensors: Iterable[Tensor], device: torch.device, allocate: Allocate | None = None) -> tuple[Tensor, ...]:
    if allocate is None:
        return tuple(torch.empty(t.shape, dtype=t.dtype, device=device) for t in tensors)
    return tuple(torch.from_numpy(allocate(t.numel() * t.element_size())).view(t.dtype).view(t.shape) for t in tensors)


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor], non_blocking: bool = False) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=non_blocking)
