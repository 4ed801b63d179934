"""Time of every kernel of the chain: on a device from the profiler's trace of whole batches as CUDA graphs, on the CPU per launch."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hltfarm.proto.errors import BackendError
from hltfarm.workers.arena import Capacity
from hltfarm.workers.backends.cpu import CpuLane
from hltfarm.workers.configuration import Configuration
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.pipeline import CHAIN
from hltfarm.workers.reconstruct import Source, in_one_piece
from hltfarm.workers.reconstructor import Reconstructor, host_tables, load_selector, parameters

#: Batches before the measured ones; the first runs without its graph.
WARM_UP, RUNS = 70, 5


@dataclass(frozen=True)
class KernelTime:
    """A kernel or a copy: its stage ("" for copies and torch's kernels) and microseconds per event."""

    stage: str
    kernel: str
    us: float


def on_cpu(source: Source, config: Configuration, events: int) -> list[KernelTime]:
    """One event at a time on one thread, `events` events of the source; wall times."""
    loaded = [source[i % len(source)] for i in range(events)]
    detector, menu, selector = source.detector(), Menu.parse(DEFAULT_MENU), load_selector(config.selection)
    words = max(-(-e.payload.nbytes // 128) * 32 for e in loaded)
    tables, params = host_tables(detector, menu, config, selector), parameters(detector, config, selector)
    lane = CpuLane(detector, Capacity(1, words, config))
    program = lane.programs[0] = lane.prepare(tables, params, selector)
    lane.run(loaded[:1], 0)
    program.kernel_seconds()
    for event in loaded:
        lane.run([event], 0)
    return _sorted({name: 1e6 * t / events for name, t in program.kernel_seconds().items()})


def on_device(source: Source, config: Configuration, batch: int) -> list[KernelTime]:
    """Batches of `batch` events in their CUDA graphs, by the device's clock.

    Raises BackendError without CuPy, torch with CUDA, or a device.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendError(f"kernels are timed by torch's profiler, which is not installed ({error})") from None
    if not torch.cuda.is_available():
        raise BackendError("kernels are timed by torch's profiler, which sees no CUDA device here; use --backend cpu")
    memory, loaded = in_one_piece([source[i % len(source)] for i in range(batch)])
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings(action="ignore"):  # the profiler says which traces it will not keep
        with torch.profiler.profile(activities=kinds):  # it sees kernels of graphs that were captured after its first use only
            torch.zeros(1, device="cuda").add_(1)
            torch.cuda.synchronize()
        menu = Menu.parse(DEFAULT_MENU)
        with Reconstructor(
            source.detector(), menu, backend="cuda", config=config, max_events=batch, max_batch_bytes=memory.nbytes
        ) as reconstructor:
            reconstructor.register(memory.data)
            for _ in range(WARM_UP):
                reconstructor.run(loaded)
            with torch.profiler.profile(activities=kinds) as profile:
                for _ in range(RUNS):
                    reconstructor.run(loaded)
                torch.cuda.synchronize()
    return _sorted({name: t / RUNS / batch for name, t in _durations(profile).items()})


def _durations(profile: Any) -> dict[str, float]:
    """Microseconds on the device by name, copies by their direction."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())["traceEvents"]
    total: dict[str, float] = {}
    for e in trace:
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            name = e["name"].partition(" (")[0] if e["cat"] != "kernel" else e["name"]
            total[name] = total.get(name, 0.0) + float(e["dur"])
    return total


def _sorted(us: dict[str, float]) -> list[KernelTime]:
    stages = {kernel.name: stage.name for stage in CHAIN for kernel in stage.kernels}
    return sorted((KernelTime(stages.get(name, ""), name, t) for name, t in us.items()), key=lambda k: -k.us)


def write_report(times: Sequence[KernelTime], source: Source, device: str, batch: int, path: Path) -> None:
    """JSON with the sample, the batch and the kernels, the slowest first."""
    document = {"source": source.name, "backend": device, "batch": batch, "us_per_event": sum(t.us for t in times)}
    path.write_text(json.dumps({**document, "kernels": [asdict(t) for t in times]}, indent=1) + "\n")


def print_report(times: Sequence[KernelTime], title: str) -> None:
    """A table on stdout."""
    total = sum(t.us for t in times)
    table = Table(title=f"{title}: {total:.1f} us per event", title_justify="left")
    for heading, justify in (("stage", "left"), ("kernel", "left"), ("us / event", "right"), ("%", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for t in times:
        table.add_row(t.stage, t.kernel[:60], f"{t.us:.2f}", f"{100 * t.us / total:.1f}" if total else "")
    Console(width=110).print(table)
