"""Times of repeated runs on one stream: wall time with a synchronisation after each run, and on a GPU the time between two events."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

MIN_RUNS = 3
WARM_UP_SHARE = 0.2


@dataclass(frozen=True)
class Timing:
    """Mean, standard deviation and median over `runs` runs, in milliseconds. `gpu_ms` is None on a CPU."""

    runs: int
    wall_ms: float
    wall_spread_ms: float
    wall_median_ms: float
    gpu_ms: float | None
    gpu_spread_ms: float | None

    @property
    def ms(self) -> float:
        """Wall time: what a caller waits."""
        return self.wall_ms


def measure(run: Callable[[], object], device: torch.device, runs: int, budget_s: float) -> Timing:
    """Time `runs` runs, fewer (but MIN_RUNS) if they would take longer than `budget_s`. The first runs are warm-up."""
    once = _once_cuda if device.type == "cuda" else _once
    begin = time.perf_counter()
    for _ in range(MIN_RUNS):  # at least one, more while they are cheap
        once(run)
        if time.perf_counter() - begin > WARM_UP_SHARE * budget_s:
            break
    wall, gpu = list[float](), list[float]()
    begin = time.perf_counter()
    while len(wall) < runs and (len(wall) < MIN_RUNS or time.perf_counter() - begin < budget_s):
        took, on_gpu = once(run)
        wall.append(1e3 * took)
        gpu.append(1e3 * on_gpu)
    means = (float(np.mean(gpu)), float(np.std(gpu))) if device.type == "cuda" else (None, None)
    return Timing(len(wall), float(np.mean(wall)), float(np.std(wall)), float(np.median(wall)), *means)


def _once(run: Callable[[], object]) -> tuple[float, float]:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin, 0.0


def _once_cuda(run: Callable[[], object]) -> tuple[float, float]:
    stream = torch.cuda.current_stream()
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    stream.synchronize()
    begin = time.perf_counter()
    first.record(stream)
    run()
    last.record(stream)
    stream.synchronize()
    return time.perf_counter() - begin, 1e-3 * first.elapsed_time(last)
