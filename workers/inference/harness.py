"""Models by size and path: measured one after another on one stream, each checked against another way to the same numbers."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.workers.inference import paths
from hltfarm.workers.inference.cases import CASES, Case
from hltfarm.workers.inference.networks import seeded
from hltfarm.workers.inference.timing import Timing, measure

if TYPE_CHECKING:
    from hltfarm.workers.inference.engines import EnginePoint

#: Largest difference between ways that compute the same, relative to 1 + |value|.
TOLERANCE = 1e-5
#: Parts of the free memory that a point may take. A page-locked gigabyte takes about half a second to get: hence the limit.
DEVICE_SHARE, HOST_SHARE, HOST_LIMIT = 0.6, 0.4, 8 << 30


@dataclass(frozen=True)
class Settings:
    """What to run: names of models, sizes in elements, most runs of a point.

    A point takes `budget_s` seconds if three runs take no longer. A size at which a single run would take longer than `limit_s`, judged
    by the size before, is left out.
    """

    device: torch.device
    models: tuple[str, ...] = tuple(case.name for case in CASES)
    sizes: tuple[int, ...] = (10**3, 10**4, 10**5, 10**6)
    runs: int = 100
    budget_s: float = 0.4
    limit_s: float = 3.0

    def __post_init__(self) -> None:
        known = [case.name for case in CASES]
        for name in self.models:
            if name not in known:
                raise ConfigError(f"model {name!r} is unknown; known are {', '.join(known)}")

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(case for case in CASES if case.name in self.models)


@dataclass(frozen=True)
class ViewPoint:
    """A model on so many elements by one path. `difference`: largest relative one to the outputs of the direct path.

    `host_bytes` cross between host and device in a run. `index_conversion_ms`: the part of a direct run that makes int64 of int32 indices.
    """

    model: str
    element: str
    elements: int
    path: str
    timing: Timing
    difference: float
    host_bytes: int = 0
    index_conversion_ms: float | None = None


@dataclass(frozen=True)
class Skipped:
    """A point that was left out, and why."""

    what: str
    reason: str


@dataclass
class Results:
    """Points in the order in which they were measured."""

    views: list[ViewPoint] = field(default_factory=list)
    engines: list[EnginePoint] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def choose_device(name: str) -> torch.device:
    """The device for cpu, cuda or auto. Raises ConfigError for other names, BackendError where torch or CuPy have no CUDA device."""
    if name not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"--device {name!r}: use cpu, cuda or auto")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError("no CUDA device for torch; use --device cpu")
    try:
        import cupy
    except ImportError:
        raise BackendError("CuPy is not installed; install hltfarm[cuda] or use --device cpu") from None
    return torch.device("cuda", int(cupy.cuda.Device().id))


@contextmanager
def measuring(device: torch.device) -> Iterator[None]:
    """Inference mode, on one stream of the device."""
    with torch.inference_mode():
        if device.type == "cpu":
            yield
            return
        import cupy

        with cupy.cuda.Device(device.index), torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions without TF32, which cuDNN takes unasked: its results differ by 1e-3 from path to path."""
    if device.type == "cpu":
        yield
        return
    convolution = torch.backends.cudnn.conv
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


def points(settings: Settings) -> list[tuple[Case, int]]:
    """Models and sizes that differ: a size below one graph is one graph."""
    return [(case, size) for case in settings.cases for size in {case.elements(size): size for size in settings.sizes}.values()]


def run_views(settings: Settings, results: Results, done: Callable[[str], None]) -> None:
    """Measure every model and size by every path; `done` is called with a text after each. Raises BackendError if two paths disagree."""
    with measuring(settings.device), full_precision(settings.device):
        for case, size in points(settings):
            what = f"{case.name}, {case.elements(size)} {case.element}"
            reason = too_large(case, size, settings.device) or too_slow(case, size, settings.limit_s, results.views)
            if reason is None:
                try:
                    results.views += _measure(case, size, settings)
                except Exception as error:
                    reason = _memory_reason(error)
                    if reason is None:
                        raise
            if reason is not None:
                results.skipped.append(Skipped(what, reason))
            release(settings.device)
            done(what)


def too_large(case: Case, size: int, device: torch.device) -> str | None:
    """Why a size does not fit into memory; None if it does."""
    needs = [("of the host", case.device_bytes(size), HOST_SHARE * _free_host())]
    if device.type == "cuda":
        needs = [
            ("of the device", case.device_bytes(size), DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]),
            ("of the host", case.host_bytes(size), min(HOST_LIMIT, HOST_SHARE * _free_host())),
        ]
    for where, need, limit in needs:
        if need > limit:
            return f"needs {need / 2**30:.1f} GiB {where}, {limit / 2**30:.1f} GiB are allowed"
    return None


def too_slow(case: Case, size: int, limit_s: float, measured: Sequence[ViewPoint]) -> str | None:
    """Why a size would take too long, judged by the slowest path of the largest size so far; None if it does not."""
    before = [p for p in measured if p.model == case.name and p.elements < case.elements(size)]
    if not before:
        return None
    last = max(before, key=lambda p: (p.elements, p.timing.ms))
    seconds = 1e-3 * last.timing.ms * case.elements(size) / last.elements
    return f"a run of {last.path} would take about {seconds:.1f} s, {limit_s:g} s are allowed" if seconds > limit_s else None


def release(device: torch.device) -> None:
    """Give the memory of the last point back."""
    gc.collect()
    if device.type == "cuda":
        import cupy

        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest |a - b| / (1 + |b|); NaN if anything is not a number."""
    return float(np.max([float(((a - b).abs() / (1 + b.abs())).max()) for a, b in zip(found, expected, strict=True)]))


def _measure(case: Case, size: int, settings: Settings) -> list[ViewPoint]:
    device = settings.device
    on_gpu = device.type == "cuda"
    columns = paths.Columns(case, size, paths.device_memory if on_gpu else paths.host_memory)
    columns.fill()
    network = seeded(case.network, paths.SEED, device)
    if on_gpu:
        torch.cuda.synchronize(device)  # the columns were filled on another stream
    index = _index_conversion(columns, settings)
    found: list[ViewPoint] = []
    expected: list[Tensor] = []
    for path in paths.CUDA_PATHS if on_gpu else paths.CPU_PATHS:
        run = _path(path, network, columns, size)
        for output in columns.outputs:
            output.fill_(torch.nan)
        run()
        outputs = [output.to("cpu", copy=True) for output in columns.outputs]
        expected = expected or outputs
        worst = difference(outputs, expected)
        if not worst <= TOLERANCE:
            raise BackendError(
                f"{case.name}, {case.elements(size)} {case.element}: {path} and direct differ by {worst:.2g}, more than {TOLERANCE}"
            )
        columns.views.check_unwritten()
        timing = measure(run, device, settings.runs, settings.budget_s)
        crossed = paths.host_bytes(case, size) if path.startswith("host") else 0
        in_run = index if path in ("direct", "graph") else None
        found.append(ViewPoint(case.name, case.element, case.elements(size), path, timing, worst, crossed, in_run))
        del run
    return found


def _path(path: str, network: nn.Module, columns: paths.Columns, size: int) -> paths.Run:
    if path == "direct":
        return paths.direct(network, columns)
    if path == "graph":
        return paths.captured(paths.direct(network, columns))
    if path == "copy":
        return paths.copied(network, columns)
    return paths.through_host(network, columns, size, pinned=path == "host-pinned")


def _index_conversion(columns: paths.Columns, settings: Settings) -> float | None:
    indices = [tensor for port, tensor in zip(columns.case.inputs, columns.inputs, strict=True) if port.index]
    if not indices:
        return None
    return measure(lambda: [t.to(torch.int64) for t in indices], settings.device, settings.runs, settings.budget_s / 4).ms


def _memory_reason(error: Exception) -> str | None:
    """The text of an error that says that memory was short after all; None for others. CuPy is not imported on a CPU: by name."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {str(error).partition(chr(10))[0]}"
    return None


def _free_host() -> int:
    """Bytes that the host can give: what Linux calls available, free pages elsewhere."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
