"""What the output of accepted events costs an ingest: the same load with and without files, in turn, with a worker that decides at once."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hltfarm.loadgen.load.driver import LoadConfig
from hltfarm.loadgen.load.processes import run_in_processes
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.proto.errors import BackendError
from hltfarm.proto.messages import RunState, Snapshot
from hltfarm.service.bench.cpu import cpu_seconds
from hltfarm.service.bench.ingest_alone import Commands, Decides, running
from hltfarm.service.bench.report import machine
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.service.output.settings import Fsync, OutputSettings

END_S = 120.0  # a slow disk may have to take what the kernel kept
POLL_S = 0.05
FILE_BYTES = 256 << 20
KEEP_BYTES = 1 << 30  # accepted events of a fast ingest would fill a disk within minutes
NO_OUTPUT = "no output"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure: each share with no output and with files under each policy. seconds: of a load; folder: where the files go."""

    source: Path
    shares: Sequence[float]
    policies: Sequence[Fsync]
    rounds: int
    seconds: float
    slots: int
    columns_bytes: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One load. output: a policy of fsync, or NO_OUTPUT. ingest_us: CPU time of the ingest's process for each event, its files included;
    it depends less than the rate on what else the machine does. written_bytes: of files that were closed when the run had ended."""

    share: float
    output: str
    rate_hz: float
    gb_per_s: float
    ingest_us: float
    received: int
    accepted: int
    written_bytes: int
    problems: list[str]


def run_plan(plan: Plan, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Measure; the order of the outputs is turned round after each round, so that a machine that changes favours none."""
    outputs = [NO_OUTPUT, *(str(policy) for policy in plan.policies)]
    for share in plan.shares:
        for number in range(plan.rounds):
            for output in outputs if number % 2 == 0 else reversed(outputs):
                say(f"{share:.0%} accepted, {output}: round {number + 1} of {plan.rounds}")
                yield _measure(plan, share, output)


def _measure(plan: Plan, share: float, output: str) -> Measurement:
    decides = Decides(share, plan.columns_bytes)
    with tempfile.TemporaryDirectory(prefix="hltfarm-bench-", dir=plan.folder) as name:
        settings = _settings(plan, output, Path(name))
        with running(settings, decides) as commands:
            schedule = Schedule(None, plan.seconds)
            config = LoadConfig(ingests=(settings.clients_url,), schedule=schedule, source=plan.source.name, patience_s=END_S)
            before = cpu_seconds(commands.ingest_pid)
            report = run_in_processes(config, plan.source, None, 1)
            snapshot = _ended(commands)
            used_s = cpu_seconds(commands.ingest_pid) - before
    books = snapshot.ledger
    problems = list(report.problems)
    if books.mismatch or books.received != report.sent or books.accepted != report.decisions.get("accepted", 0):
        problems.append(f"the ledger ({books}) is not what the client saw: {report.sent} sent, {report.decisions}")
    return Measurement(
        share=share,
        output=output,
        rate_hz=report.achieved_rate_hz,
        gb_per_s=report.achieved_rate_hz * report.sent_bytes / max(1, report.sent) * 1e-9,
        ingest_us=used_s / max(1, books.received) * 1e6,
        received=books.received,
        accepted=books.accepted,
        written_bytes=sum(item.closed_bytes for item in snapshot.outputs),
        problems=problems,
    )


def _settings(plan: Plan, output: str, folder: Path) -> IngestSettings:
    """An ingest over ipc, so that no ports have to be found."""
    files = OutputSettings()
    if output != NO_OUTPUT:
        columns = plan.columns_bytes > 0
        files = OutputSettings(folder=folder / "output", fsync=Fsync(output), columns=columns, file_bytes=FILE_BYTES, keep_bytes=KEEP_BYTES)
    return IngestSettings(
        clients_url=f"ipc://{folder}/clients",
        workers_url=f"ipc://{folder}/workers",
        control_url=f"ipc://{folder}/control",
        ring=SHARED_MEMORY / f"hltfarm-{os.getpid()}-{folder.name}",
        slots=plan.slots,
        error_dir=folder / "errors",
        canary_s=0.0,
        output=files,
    )


def _ended(commands: Commands) -> Snapshot:
    """Stop the run and wait until its files are closed. Raises BackendError if that takes too long."""
    snapshot = commands.give("stop")
    deadline = time.monotonic() + END_S
    while snapshot.state is not RunState.CONFIGURED:
        if time.monotonic() > deadline:
            raise BackendError(f"the run did not end within {END_S:g} s: {'; '.join(snapshot.problems) or 'no reason known'}")
        time.sleep(POLL_S)  # the interval of asking
        snapshot = commands.give("snapshot")
    return snapshot


def median_rate(measurements: Sequence[Measurement], share: float, output: str) -> float:
    """Of the rounds."""
    return statistics.median(item.rate_hz for item in measurements if (item.share, item.output) == (share, output))


def to_json(plan: Plan, measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Everything, as plain JSON values; ratio: to no output, of the medians."""
    cases = dict.fromkeys((item.share, item.output) for item in measurements)
    return {
        "machine": machine(),
        "source": plan.source.name,
        "options": {"seconds": plan.seconds, "rounds": plan.rounds, "slots": plan.slots, "columns_bytes": plan.columns_bytes},
        "cases": [
            {
                "share": share,
                "output": output,
                "rate_hz": median_rate(measurements, share, output),
                "ingest_us": statistics.median(item.ingest_us for item in measurements if (item.share, item.output) == (share, output)),
                "ratio": median_rate(measurements, share, output) / median_rate(measurements, share, NO_OUTPUT),
            }
            for share, output in cases
        ],
        "measurements": [asdict(item) for item in measurements],
        "closed": not any(item.problems for item in measurements),
    }


def print_report(plan: Plan, measurements: Sequence[Measurement], console: Console) -> None:
    """A table of the medians and the spread of the rounds."""
    table = Table(title=f"{plan.source.name}, {plan.seconds:g} s each, {plan.rounds} rounds", title_justify="left")
    for heading in ("accepted", "output", "events/s", "rounds", "in MB/s", "files MB/s", "ingest us/event", "to no output"):
        table.add_column(heading, justify="left" if heading == "output" else "right")
    for case in to_json(plan, measurements)["cases"]:
        mine = [item for item in measurements if (item.share, item.output) == (case["share"], case["output"])]
        rates = sorted(item.rate_hz for item in mine)
        size = statistics.median(item.gb_per_s for item in mine) * 1e3
        files = statistics.median(item.written_bytes / item.received * item.rate_hz for item in mine) * 1e-6
        table.add_row(
            f"{case['share']:.0%}",
            case["output"] if case["output"] == NO_OUTPUT else f"files, fsync {case['output']}",
            f"{case['rate_hz']:,.0f}",
            f"{rates[0]:,.0f} .. {rates[-1]:,.0f}",
            f"{size:,.0f}",
            f"{files:,.0f}" if files else "-",
            f"{case['ingest_us']:,.0f}",
            f"{case['ratio']:.2f}",
        )
    console.print(table)
    for item in measurements:
        for problem in item.problems:
            console.print(f"{item.share:.0%} accepted, {item.output}: {problem}")
