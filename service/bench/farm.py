"""Runs farms and loads, and measures: the shell around `points`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hltfarm.loadgen.load.driver import LoadConfig
from hltfarm.loadgen.load.processes import run_in_processes
from hltfarm.loadgen.load.report import LoadReport
from hltfarm.loadgen.load.schedule import Arrival, Schedule
from hltfarm.proto.errors import HltfarmError
from hltfarm.service.api import POLL_S, FarmApi, FarmError
from hltfarm.service.bench.cpu import CpuMeter
from hltfarm.service.bench.points import Point, Setting, keeps_up, knee, rising
from hltfarm.service.endpoints import client_endpoints
from hltfarm.service.farm_process import LOOPBACK, farm_process, free_ports, watcher

READY_S = 240.0  # kernels may have to be compiled first
SETTLE_S = 10.0
WARM_UP_S = 1.0
LEDGER = ("received", "accepted", "rejected", "error", "duplicates")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure. Rates of the first setting are `fractions` of its saturation, those of further deadlines `few` of it.

    clients: client processes, 0 for one each ingest. seconds: of each point. limit_ms: latency that 99 % of the events must keep.
    serve: further options of `hltfarm serve`. chain_hz: rate of the chain in process, None if it was not measured.
    """

    source: Path
    settings: Sequence[Setting]
    serve: Sequence[str]
    clients: int
    connections: int
    seconds: float
    fractions: Sequence[float]
    few: Sequence[float]
    limit_ms: float
    arrival: Arrival
    chain_hz: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of one setting, in the order in which they were measured."""

    setting: Setting
    points: list[Point]

    @property
    def knee(self) -> Point | None:
        """See `points.knee`."""
        return knee(self.points)

    @property
    def saturation_hz(self) -> float:
        """What was decided with as many events as credit allowed."""
        return max((point.reached_hz for point in self.points if point.offered_hz is None), default=0.0)


def chain_rate(source: Path, backend: str, threads: int, events: int, seconds: float, batches: str) -> dict[str, Any]:
    """The fastest point of `hltfarm bench pipeline`, in a process of its own. Raises HltfarmError if it fails."""
    with tempfile.TemporaryDirectory(prefix="hltfarm-bench-") as folder:
        out = Path(folder) / "pipeline.json"
        command = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()", "bench", "pipeline", str(source)]
        command += [*("--backend", backend), *("--batches", batches), *("--threads", str(threads))]
        command += [*("--events", str(events)), *("--repeat", "3"), *("--seconds", str(seconds))]
        done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise HltfarmError(f"the chain in process cannot be measured: {''.join(last) or f'exit code {done.returncode}'}")
        points: list[dict[str, Any]] = json.loads(out.read_text())["points"]
    return max(points, key=lambda point: float(point["events_per_second"]))


def run_plan(plan: Plan, say: Say) -> Iterator[Curve]:
    """Measure every setting in a farm of its own."""
    for index, setting in enumerate(plan.settings):
        first = index == 0 or (setting.ingests, setting.transport) != (plan.settings[index - 1].ingests, plan.settings[index - 1].transport)
        with measured_farm(plan, setting, say) as farm:
            yield Curve(setting, list(farm.curve(plan.fractions if first else plan.few)))


@contextmanager
def measured_farm(plan: Plan, setting: Setting, say: Say) -> Iterator[MeasuredFarm]:
    """A farm that is ready and warm, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="hltfarm-bench-") as name:
        folder = Path(name)
        http, *ports = free_ports(1 + setting.ingests)
        first = f"tcp://{LOOPBACK}:{ports[0]}" if setting.transport == "tcp" else f"ipc://{folder / 'clients'}"
        arguments = [*("--http", f"{LOOPBACK}:{http}"), *("--ingest", first), *("--ingests", str(setting.ingests))]
        arguments += [*("--deadline-ms", str(setting.deadline_ms)), *("--data", str(folder / "data")), *plan.serve]
        if not any(option.startswith("--output") for option in plan.serve):
            arguments.append("--no-output")  # the disk is not what is measured
        log = folder / "serve.log"
        say(f"{setting}: starting the farm")
        with farm_process(arguments, log) as process, FarmApi(f"http://{LOOPBACK}:{http}") as api:
            check = watcher(process, log)
            api.wait_ready(READY_S, check)
            farm = MeasuredFarm(plan, setting, api, process.pid, client_endpoints(first, setting.ingests), check, say)
            say(f"{setting}: warming up")
            farm.load(None, WARM_UP_S)
            yield farm


class MeasuredFarm:
    """A running farm and the loads that are put on it."""

    def __init__(
        self, plan: Plan, setting: Setting, api: FarmApi, pid: int, endpoints: tuple[str, ...], check: Callable[[], None], say: Say
    ) -> None:
        self._plan, self._setting, self._api, self._endpoints, self._check, self._say = plan, setting, api, endpoints, check, say
        self._cpu = CpuMeter(pid)
        self._next_event = 1

    def curve(self, fractions: Sequence[float]) -> Iterator[Point]:
        """As many events as credit allows, then rising rates, to the first beyond the knee."""
        full = self.point(None)
        yield full
        for rate in rising(full.reached_hz, fractions):
            point = self.point(rate)
            yield point
            if not point.kept and rate > full.reached_hz / 2:
                return

    def point(self, rate_hz: float | None) -> Point:
        """Measure one rate, None for as much as credit allows."""
        plan = self._plan
        self._say(f"{self._setting}: {'as much as credit allows' if rate_hz is None else f'{rate_hz:,.0f} events/s'}")
        before = self._settled(None)
        report = self.load(rate_hz, plan.seconds)
        cores = {role: seconds / report.seconds for role, seconds in (self._cpu.used() | {"clients": report.cpu_seconds}).items()}
        after = self._settled(before["received"] + report.sent)
        ledger = {name: after[name] - before[name] for name in LEDGER}
        p99 = report.latency_ms["p99"]
        return Point(
            offered_hz=rate_hz,
            reached_hz=report.achieved_rate_hz,
            gb_per_s=report.achieved_rate_hz * report.sent_bytes / max(1, report.sent) * 1e-9,
            latency_ms={key: report.latency_ms[key] for key in ("p50", "p90", "p99", "max")},
            cores=cores,
            ledger=ledger,
            mismatch=after["mismatch"] + abs(ledger["received"] - report.sent),
            backlog_peak=report.backlog_peak,
            seconds=report.seconds,
            share=None if not plan.chain_hz else report.achieved_rate_hz / plan.chain_hz,
            kept=rate_hz is not None and report.closed and keeps_up(report.offered_rate_hz, report.achieved_rate_hz, p99, plan.limit_ms),
            problems=report.problems,
        )

    def load(self, rate_hz: float | None, seconds: float) -> LoadReport:
        """Put a load on the farm. Raises FarmError if the farm ended."""
        plan = self._plan
        clients = plan.clients or self._setting.ingests
        config = LoadConfig(
            ingests=self._endpoints,
            schedule=Schedule(rate_hz, seconds, arrival=plan.arrival),
            source=plan.source.name,
            connections=max(plan.connections, clients, self._setting.ingests),
            first_event=self._next_event,
        )
        report = run_in_processes(config, plan.source, None, clients, self._cpu.start)
        self._check()
        self._next_event = report.last_event + 1
        return report

    def _settled(self, received: int | None) -> dict[str, int]:
        """The farm's ledger with nothing in flight and, if that is given, so many events received; else what it is after SETTLE_S."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            status = self._api.status()
            ledger: dict[str, int] | None = status["ledger"]
            if ledger is None:
                raise FarmError(f"the farm has no ledger: {'; '.join(status['problems'])}")
            parts = [ingest["ledger"] for ingest in status["ingests"] if ingest["ledger"] is not None]
            ledger["mismatch"] = sum(abs(part["mismatch"]) for part in parts)
            if (ledger["in_flight"] == 0 and received in (None, ledger["received"])) or time.monotonic() > deadline:
                return ledger
            time.sleep(POLL_S)  # the interval of asking
