"""What the output of accepted events costs an ingest: the same load with and without files, in turn, with a worker that decides at once."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hltfarm.loadgen.load.driver import LoadConfig
from hltfarm.loadgen.load.processes import run_in_processes
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.proto.errors import BackendError
from hltfarm.proto.messages import RunConfig, RunState, Snapshot
from hltfarm.service.bench.report import machine
from hltfarm.service.control.link import FarmLink
from hltfarm.service.output.settings import Fsync, OutputSettings
from hltfarm.service.supervisor.processes import LAUNCHER
from hltfarm.service.supervisor.specs import HLTFARM

READY_S = 30.0
END_S = 120.0  # a slow disk may have to take what the kernel kept
POLL_S = 0.05
COMMAND_S = 5.0
FILE_BYTES = 256 << 20
KEEP_BYTES = 1 << 30  # accepted events of a fast ingest would fill a disk within minutes
NO_OUTPUT = "no output"


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
    """One load. output: a policy of fsync, or NO_OUTPUT. written_bytes: of files that were closed when the run had ended."""

    share: float
    output: str
    rate_hz: float
    gb_per_s: float
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
    with tempfile.TemporaryDirectory(prefix="hltfarm-bench-", dir=plan.folder) as name, _farm(plan, share, output, Path(name)) as farm:
        farm.command("configure", RunConfig(run=1))
        farm.command("start")
        farm.wait(lambda s: any(worker.ready for worker in s.workers), READY_S, "no worker became ready")
        schedule = Schedule(None, plan.seconds)
        config = LoadConfig(ingests=(farm.clients,), schedule=schedule, source=plan.source.name, patience_s=END_S)
        report = run_in_processes(config, plan.source, None, 1)
        farm.command("stop")
        snapshot = farm.wait(lambda s: s.state is RunState.CONFIGURED, END_S, "the run did not end")
        books = snapshot.ledger
        problems = list(report.problems)
        if books.mismatch or books.received != report.sent or books.accepted != report.decisions.get("accepted", 0):
            problems.append(f"the ledger ({books}) is not what the client saw: {report.sent} sent, {report.decisions}")
        return Measurement(
            share=share,
            output=output,
            rate_hz=report.achieved_rate_hz,
            gb_per_s=report.achieved_rate_hz * report.sent_bytes / max(1, report.sent) * 1e-9,
            received=books.received,
            accepted=books.accepted,
            written_bytes=sum(item.closed_bytes for item in snapshot.outputs),
            problems=problems,
        )


class _Farm:
    def __init__(self, runner: asyncio.Runner, link: FarmLink, clients: str, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.clients = clients
        self._runner, self._link, self._processes = runner, link, processes

    def command(self, op: str, config: RunConfig | None = None) -> None:
        self._runner.run(self._link.command(op, config))

    def wait(self, condition: Callable[[Snapshot], bool], patience_s: float, failure: str) -> Snapshot:
        """Ask until the condition holds. Raises BackendError if it does not in time, or a process ended."""
        deadline = time.monotonic() + patience_s
        while True:
            view = self._runner.run(self._link.look())
            if view.snapshot is not None and condition(view.snapshot):
                return view.snapshot
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                raise BackendError(f"{failure}: {'; '.join(view.problems) or 'no reason known'}")
            time.sleep(POLL_S)  # the interval of asking


@contextmanager
def _farm(plan: Plan, share: float, output: str, folder: Path) -> Iterator[_Farm]:
    """An ingest and a worker, until the end of the block. Sockets are ipc, so that ports need not be found."""
    clients, workers, control = (f"ipc://{folder}/{name}" for name in ("clients", "workers", "control"))
    ring = Path("/dev/shm") / f"hltfarm-{os.getpid()}-{folder.name}"
    ingest = [*HLTFARM, "ingest", *("--clients", clients), *("--workers", workers), *("--control", control), *("--ring", str(ring))]
    ingest += [*("--slots", str(plan.slots)), *("--errors", str(folder / "errors")), *("--canary-s", "0")]
    if output != NO_OUTPUT:
        settings = OutputSettings(fsync=Fsync(output), columns=plan.columns_bytes > 0, file_bytes=FILE_BYTES, keep_bytes=KEEP_BYTES)
        ingest += settings.arguments(folder / "output", None)
    worker = [sys.executable, "-P", "-m", "hltfarm.workers.instant", workers, str(share), str(plan.columns_bytes)]
    processes: list[subprocess.Popen[bytes]] = []
    with asyncio.Runner() as runner:
        link = runner.run(_link(control))
        try:
            for name, command in (("ingest", ingest), ("worker", worker)):
                with (folder / f"{name}.log").open("wb") as log:
                    launched = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command]  # ends with this process
                    processes.append(subprocess.Popen(launched, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            farm = _Farm(runner, link, clients, processes)
            farm.wait(lambda s: True, READY_S, "the ingest did not start")
            yield farm
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                try:
                    process.wait(READY_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            runner.run(link.close())


async def _link(control: str) -> FarmLink:
    return FarmLink([control], COMMAND_S)


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
    for heading in ("accepted", "output", "events/s", "rounds", "in MB/s", "files MB/s", "to no output"):
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
            f"{case['ratio']:.2f}",
        )
    console.print(table)
    for item in measurements:
        for problem in item.problems:
            console.print(f"{item.share:.0%} accepted, {item.output}: {problem}")
