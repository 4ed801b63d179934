"""Hardware counters of every kernel of the chain, read by Nsight Compute, beside the two limits of the device: memory and issue.

Nsight Compute (`ncu`) starts this program again; there `one_batch` runs batches without their graph and lets the profiler see one of them.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hltfarm.proto.errors import BackendError
from hltfarm.workers.configuration import Configuration
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.pipeline import CHAIN
from hltfarm.workers.reconstruct import Source, in_one_piece
from hltfarm.workers.reconstructor import Reconstructor

#: Where ncu may be when it is not on the path; of several versions the last by name.
PLACES = ("usr/local/cuda/bin/ncu", "usr/local/cuda-*/bin/ncu", "opt/nvidia/nsight-compute/*/ncu")

TIME = "gpu__time_duration.sum"
CLOCK = "smsp__cycles_elapsed.avg.per_second"
INSTRUCTIONS = "smsp__inst_executed.sum"  # of warps, not of threads
DRAM, L2 = "dram__bytes.sum", "lts__t_bytes.sum"
OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
ISSUE = "smsp__issue_active.avg.pct_of_peak_sustained_active"
THREADS = "smsp__thread_inst_executed_per_inst_executed.ratio"
L1_HITS, L2_HITS = "l1tex__t_sector_hit_rate.pct", "lts__t_sector_hit_rate.pct"
REGISTERS, GRID = "launch__registers_per_thread", "launch__grid_size"
MIX = {kind: f"smsp__sass_thread_inst_executed_op_{kind}_pred_on.sum" for kind in ("fp32", "fp64", "integer", "control", "memory")}
STALLS = {
    reason: f"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio"
    for reason in (
        *("barrier", "branch_resolving", "dispatch_stall", "drain", "imc_miss", "lg_throttle", "long_scoreboard", "math_pipe_throttle"),
        *("membar", "mio_throttle", "misc", "no_instruction", "not_selected", "short_scoreboard", "sleeping", "tex_throttle", "wait"),
    )
}
METRICS = (
    *(TIME, CLOCK, INSTRUCTIONS, DRAM, L2, OCCUPANCY, ISSUE, THREADS, L1_HITS, L2_HITS, REGISTERS, GRID),
    *MIX.values(),
    *STALLS.values(),
)

#: Powers of ten of the prefixes of units in ncu's tables.
PREFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
WARM_UP = 3


@dataclass(frozen=True)
class Launched:
    """One launch of a kernel with its counters, in s, bytes, Hz, % and plain numbers; what ncu could not read is missing."""

    kernel: str
    values: dict[str, float]


@dataclass(frozen=True)
class Facts:
    """What the profiled process says of its device; rates in 1/s, `memory_bytes_per_s` from memory clock and bus width (0: unknown)."""

    device: str
    multiprocessors: int
    clock_hz: float
    memory_bytes_per_s: float
    copy_bytes_per_s: float


@dataclass(frozen=True)
class KernelCounters:
    """One kernel of the chain, all its launches in the batch together; times, bytes and instructions are per event.

    `memory_us` and `issue_us`: what the bytes would take at the peak bandwidth, and the instructions with one per cycle and scheduler.
    Percentages and ratios are means weighted with time. `stalls`: the three reasons for which warps wait most, in cycles
    per issued instruction. None: ncu could not read it.
    """

    stage: str
    kernel: str
    launches: int
    us: float
    memory_us: float | None
    issue_us: float | None
    occupancy: float | None
    registers: int | None
    blocks: int | None
    issue: float | None
    threads: float | None
    l1_hits: float | None
    l2_hits: float | None
    dram_bytes: float | None
    l2_bytes: float | None
    instructions: float | None
    thread_instructions: dict[str, float]
    stalls: dict[str, float]


@dataclass(frozen=True)
class Counted:
    """A profiled batch."""

    facts: Facts
    kernels: list[KernelCounters]
    missing: list[str]  #: metrics that this ncu or this device does not have


def find_ncu(root: Path = Path("/")) -> Path:
    """The profiler: of the path, else of the places where CUDA puts it below `root`. Raises BackendError if there is none."""
    on_path = shutil.which("ncu")
    if on_path:
        return Path(on_path)
    for place in PLACES:
        for found in sorted(root.glob(place), reverse=True):
            if os.access(found, os.X_OK):
                return found
    raise BackendError(
        "counters are read by Nsight Compute: no ncu on PATH, in /usr/local/cuda/bin or in /opt/nvidia/nsight-compute; install it"
    )


def command(ncu: Path, log: Path, metrics: Sequence[str], program: Sequence[str]) -> list[str]:
    """The call of ncu that profiles what `program` puts between cudaProfilerStart and cudaProfilerStop.

    Clocks stay as they are (the limits go by the clock that is counted), caches are emptied before each pass.
    """
    what = ["--profile-from-start", "off", "--target-processes", "all", "--clock-control", "none", "--cache-control", "all"]
    table = ["--csv", "--page", "raw", "--print-units", "base", "--print-kernel-base", "function", "--log-file", str(log)]
    return [str(ncu), *what, *table, "--metrics", ",".join(metrics), *program]


def profile(ncu: Path, program: Sequence[str], facts: Path, batch: int) -> Counted:
    """Run `program` (which calls `one_batch`) under ncu; metrics that are unknown to it are left out.

    Raises BackendError with what ncu or the program said if there are no counters.
    """
    metrics, missing = list(METRICS), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "ncu.csv")
        while True:
            log.write_text("")
            done = subprocess.run(command(ncu, log, metrics, program), capture_output=True, text=True, check=False)
            text = log.read_text()
            said = "\n".join((text, done.stdout, done.stderr))
            unknown = unknown_metrics(said, metrics)
            if not unknown:
                break
            missing += unknown
            metrics = [m for m in metrics if m not in unknown]
            if TIME not in metrics:
                raise BackendError(f"{ncu} does not know {TIME}; install a newer Nsight Compute")
    if done.returncode:
        raise BackendError(f"{ncu} read no counters: {reason(said, done.returncode)}")
    launches = parse(text)
    if not launches or not facts.stat().st_size:
        raise BackendError(f"{ncu} saw no kernels: {reason(said, done.returncode)}")
    told = Facts(**json.loads(facts.read_text()))
    return Counted(told, summary(launches, told, batch), missing)


def unknown_metrics(said: str, metrics: Sequence[str]) -> list[str]:
    """Those of `metrics` that ncu says it cannot find; it may name one as a regular expression."""
    names = [m.replace("\\", "").lstrip("^").rstrip("$.,") for m in re.findall(r"Failed to find metric (?:regex:)?(\S+)", said)]
    bases = [name.partition("(")[0].rstrip(".") for name in names]
    return [m for m in metrics if any(m == base or m.startswith(base + ".") for base in bases)]


def reason(said: str, code: int) -> str:
    """One line of what ncu and the program said: why there are no counters, and the way out where it is known."""
    if "ERR_NVGPUCTRPERM" in said:
        return "this user may not read the GPU's counters (ERR_NVGPUCTRPERM); run as root, or set NVreg_RestrictProfilingToAdminUsers=0"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for sign in ("hltfarm: error:", "==ERROR==", "No kernels were profiled"):
        found = [line.removeprefix(sign).strip() for line in lines if sign in line]
        if found:
            return "; ".join(dict.fromkeys(found))
    return lines[-1] if lines else f"no message, exit code {code}"


def parse(text: str) -> list[Launched]:
    """Launches of a table of `ncu --csv --page raw`: lines of ncu's own before it, a row of names, one of units, one a launch.

    Raises BackendError if there is a table without the columns that every version has.
    """
    rows = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    start = next((i for i, row in enumerate(rows) if row[0] == "ID"), None)
    if start is None or len(rows) < start + 3:
        return []
    names, units = rows[start], rows[start + 1]
    if "Kernel Name" not in names or TIME not in names or len(units) != len(names):
        raise BackendError(f"the table of this ncu is of another form: columns {', '.join(names[:8])} ...")
    launches = []
    for row in rows[start + 2 :]:
        values = {}
        for name, unit, cell in zip(names, units, row, strict=True):
            value = number(cell, unit) if "__" in name else None
            if value is not None:
                values[name] = value
        launches.append(Launched(row[names.index("Kernel Name")], values))
    return launches


def number(cell: str, unit: str) -> float | None:
    """A cell in base units: "1,234.5" with unit "Kbyte" is 1234500.0; None for "n/a" and texts."""
    try:
        value = float(cell.replace(",", ""))
    except ValueError:
        return None
    if unit == "cycle/nsecond":
        return value * 1e9
    scaled = re.fullmatch(r"([numkKMGT]?)(s|second|byte|hz|Hz|cycle/second)", unit)
    return value * PREFIXES[scaled[1]] if scaled else value


def summary(launches: Sequence[Launched], facts: Facts, batch: int) -> list[KernelCounters]:
    """Kernels of a batch of `batch` events, the slowest first."""
    stages = {kernel.name: stage.name for stage in CHAIN for kernel in stage.kernels}
    by_name: dict[str, list[Launched]] = {}
    for launch in launches:
        by_name.setdefault(launch.kernel.partition("(")[0] if launch.kernel.partition("(")[0] in stages else launch.kernel, []).append(
            launch
        )
    kernels = []
    for name, same in by_name.items():
        instructions, dram, clock = total(same, INSTRUCTIONS), total(same, DRAM), mean(same, CLOCK) or facts.clock_hz
        bandwidth = facts.memory_bytes_per_s or facts.copy_bytes_per_s
        registers, blocks = mean(same, REGISTERS), mean(same, GRID)
        waits = {why: w for why, m in STALLS.items() if (w := mean(same, m)) is not None and w > 0}
        mix = {kind: t / batch for kind, m in MIX.items() if (t := total(same, m)) is not None}
        kernels.append(
            KernelCounters(
                stage=stages.get(name, ""),
                kernel=name,
                launches=len(same),
                us=1e6 * (total(same, TIME) or 0.0) / batch,
                memory_us=None if dram is None or not bandwidth else 1e6 * dram / bandwidth / batch,
                issue_us=None if instructions is None or not clock else 1e6 * instructions / (4 * facts.multiprocessors * clock) / batch,
                occupancy=mean(same, OCCUPANCY),
                registers=None if registers is None else round(registers),
                blocks=None if blocks is None else round(blocks),
                issue=mean(same, ISSUE),
                threads=mean(same, THREADS),
                l1_hits=mean(same, L1_HITS),
                l2_hits=mean(same, L2_HITS),
                dram_bytes=None if dram is None else dram / batch,
                l2_bytes=None if (l2 := total(same, L2)) is None else l2 / batch,
                instructions=None if instructions is None else instructions / batch,
                thread_instructions=mix,
                stalls=dict(sorted(waits.items(), key=lambda w: -w[1])[:3]),
            )
        )
    return sorted(kernels, key=lambda k: -k.us)


def total(launches: Sequence[Launched], metric: str) -> float | None:
    """Sum over launches; None if none of them has it."""
    values = [x.values[metric] for x in launches if metric in x.values]
    return sum(values) if values else None


def mean(launches: Sequence[Launched], metric: str) -> float | None:
    """Mean over launches, weighted with their time; None if none of them has it."""
    values = [(x.values[metric], x.values.get(TIME, 0.0)) for x in launches if metric in x.values]
    weight = sum(t for _, t in values)
    if not values:
        return None
    return sum(v * t for v, t in values) / weight if weight else sum(v for v, _ in values) / len(values)


def one_batch(source: Source, config: Configuration, batch: int, facts: Path) -> None:
    """In the process under ncu: batches of `batch` events without their graph, the last one seen by the profiler; writes `facts`.

    Raises BackendError without CuPy or a device.
    """
    memory, loaded = in_one_piece([source[i % len(source)] for i in range(batch)])
    with Reconstructor(
        source.detector(),
        Menu.parse(DEFAULT_MENU),
        backend="cuda",
        config=config,
        max_events=batch,
        max_batch_bytes=memory.nbytes,
        profile=True,
    ) as reconstructor:
        import cupyx.profiler

        for _ in range(WARM_UP):
            reconstructor.run(loaded)
        facts.write_text(json.dumps(asdict(_facts(reconstructor.device))))
        with cupyx.profiler.profile():
            reconstructor.run(loaded)


def _facts(name: str) -> Facts:
    import cupy

    attributes: dict[str, Any] = cupy.cuda.Device().attributes
    memory_khz, bus_bits = attributes.get("MemoryClockRate", 0), attributes.get("GlobalMemoryBusWidth", 0)
    data, copy = cupy.zeros(1 << 28, cupy.uint8), cupy.empty(1 << 28, cupy.uint8)
    begin, end, runs = cupy.cuda.Event(), cupy.cuda.Event(), 20
    cupy.copyto(copy, data)
    begin.record()
    for _ in range(runs):
        cupy.copyto(copy, data)
    end.record()
    end.synchronize()
    copied = 2 * data.nbytes * runs / (cupy.cuda.get_elapsed_time(begin, end) * 1e-3)
    # Two transfers a clock, as all memory of GPUs has it.
    return Facts(name, attributes["MultiProcessorCount"], 1e3 * attributes.get("ClockRate", 0), 2 * 1e3 * memory_khz * bus_bits / 8, copied)


def write_report(counted: Counted, source: Source, batch: int, path: Path) -> None:
    """JSON with the sample, the device and the kernels, the slowest first."""
    document = {"source": source.name, "backend": "cuda", "batch": batch, "us_per_event": sum(k.us for k in counted.kernels)}
    path.write_text(json.dumps({**document, **asdict(counted)}, indent=1) + "\n")


def print_report(counted: Counted, title: str) -> None:
    """A table on stdout."""
    facts, kernels = counted.facts, counted.kernels
    sums = [
        sum(x or 0.0 for x in column) for column in ([k.us for k in kernels], [k.memory_us for k in kernels], [k.issue_us for k in kernels])
    ]
    out = Console(width=220)
    peak, copy = 1e-12 * (facts.memory_bytes_per_s or facts.copy_bytes_per_s), 1e-12 * facts.copy_bytes_per_s
    limits = f"memory alone {sums[1]:.1f} (peak {peak:.2f} TB/s, a copy reaches {copy:.2f}), issue alone {sums[2]:.1f}"
    out.print(f"{title}, {facts.device}: {sums[0]:.1f} us per event in kernels; {limits}", soft_wrap=True)
    table = Table()
    headings = ("us", "memory us", "issue us", "occup. %", "regs", "issue %", "threads", "L1 %", "L2 %", "DRAM kB", "L2 kB", "k instr.")
    for heading in ("stage", "kernel"):
        table.add_column(heading)
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("cycles waited per instruction", no_wrap=True)
    for k in kernels:
        values = (k.us, k.memory_us, k.issue_us), (k.occupancy, k.registers, k.issue, k.threads, k.l1_hits, k.l2_hits)
        amounts = (k.dram_bytes, k.l2_bytes, k.instructions)
        table.add_row(
            k.stage,
            k.kernel[:28],
            *(_shown(v, 2) for v in values[0]),
            *(_shown(v, 0 if v is k.registers else 1) for v in values[1]),
            *(_shown(None if v is None else v / 1e3, 1) for v in amounts),
            " ".join(f"{why} {w:.1f}" for why, w in k.stalls.items()),
        )
    out.print(table)
    if counted.missing:
        out.print(f"unknown to this ncu or device: {', '.join(counted.missing)}", soft_wrap=True)


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
