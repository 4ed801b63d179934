"""A soak: a farm of its own, its capacity, then a share of that for a long time, watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hltfarm.loadgen.load.crosscheck import disagreements
from hltfarm.loadgen.load.driver import LoadConfig, run_load
from hltfarm.loadgen.load.report import LoadReport, to_json
from hltfarm.loadgen.load.schedule import Arrival, Schedule
from hltfarm.proto.events import RawEvent
from hltfarm.service.api import FarmApi, FarmError
from hltfarm.service.chaos.load import LiveLoad
from hltfarm.service.chaos.watch import Watcher
from hltfarm.service.endpoints import client_endpoints
from hltfarm.service.farm_process import LOOPBACK, farm_process, free_ports, watcher
from hltfarm.service.soak.footprint import Footprint, farm_footprint
from hltfarm.service.soak.latency import Interval, Intervals
from hltfarm.service.soak.verdict import Bounds, Judgement, judge

READY_S = 240.0
COMMAND_S = 60.0
WARM_UP_S = 3.0  # of the farm, before its capacity is measured
CAPACITY_S = 10.0
#: This part of the load is the warm-up of its memory and does not count.
WARM_UP_SHARE = 0.3
PATIENCE_S = 60.0
LUMI_S = 10.0  # several lumisections even in a short soak: files are closed, counts of old ones are given up
#: A small memory of decisions is full before what counts begins; the usual one grows for the first 262144 events, as it should.
ENVIRONMENT = {"HLTFARM_INGEST_WINDOW": "512"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakSettings:
    """A soak. load: share of the capacity that is offered. rate_hz: offered instead, without measuring. interval_s: between samples."""

    folder: Path
    source: str
    payloads: list[RawEvent]
    serve: Sequence[str]
    duration_s: float
    load: float = 0.8
    rate_hz: float | None = None
    interval_s: float = 2.0
    connections: int = 4
    ingests: int = 1
    seed: int = 1
    bounds: Bounds = field(default_factory=Bounds)


class SoakResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. capacity_hz: None if it was not measured. mismatches: of statuses, by amount. problems: empty if all is well."""

    capacity_hz: float | None
    offered_hz: float
    load: LoadReport
    ledger: dict[str, int] | None
    mismatches: dict[int, int]
    farm_said: dict[str, int]
    judgements: list[Judgement]
    footprints: list[Footprint]
    intervals: list[Interval]
    problems: list[str]

    @property
    def sound(self) -> bool:
        """Nothing grew, nothing was lost."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return {"sound": self.sound, **values, "load": to_json(self.load)}


def run_soak(settings: SoakSettings, say: Say) -> SoakResult:
    """Run it. Raises HltfarmError if the farm does not start, or ends. Call it from the main thread."""
    http, *ports = free_ports(1 + settings.ingests)
    first = f"tcp://{LOOPBACK}:{ports[0]}"
    arguments = [*("--http", f"{LOOPBACK}:{http}"), *("--ingest", first), *("--ingests", str(settings.ingests))]
    arguments += [*("--data", str(settings.folder / "data")), *settings.serve]
    log = settings.folder / "serve.log"
    say("starting a farm")
    with farm_process(arguments, log, ENVIRONMENT) as process, FarmApi(f"http://{LOOPBACK}:{http}") as api:
        check = watcher(process, log)
        api.wait_ready(READY_S, check)
        soak = _Soak(settings, api, process.pid, client_endpoints(first, settings.ingests), check, say)
        result = soak.run()
    if process.returncode:
        raise FarmError(f"the farm ended with exit code {process.returncode} (see {log})")
    return result


class _Soak:
    """One soak on a farm that is ready."""

    def __init__(
        self, settings: SoakSettings, api: FarmApi, serve: int, ingests: tuple[str, ...], check: Callable[[], None], say: Say
    ) -> None:
        self._settings, self._api, self._serve, self._ingests, self._check, self._say = settings, api, serve, ingests, check, say
        self._reports: list[LoadReport] = []

    def run(self) -> SoakResult:
        """Capacity, load, end of the run, verdict."""
        settings = self._settings
        self._say("warming up")  # with all that the farm holds: slots and batches as large as they get
        self._full(WARM_UP_S)
        capacity = self._capacity() if settings.rate_hz is None else None
        rate = settings.rate_hz if capacity is None else max(1.0, settings.load * capacity)
        assert rate is not None
        footprints, intervals = list[Footprint](), Intervals()
        looks: list[Interval] = []
        with Watcher(self._api.url) as watch:
            with LiveLoad(
                self._config(Schedule(rate, settings.duration_s, arrival=Arrival.POISSON, seed=settings.seed)),
                settings.payloads,
                intervals.attach,
            ) as load:
                due = settings.interval_s
                while load.wait_until(due):
                    self._check()
                    footprints.append(farm_footprint(self._serve, load.now))
                    looks.append(intervals.look(load.now))
                    p99 = looks[-1].p99_ms
                    self._say(
                        f"{load.now:.0f} of {settings.duration_s:.0f} s: {load.answered} events, p99 {0.0 if p99 is None else p99:.1f} ms"
                    )
                    due = load.now + settings.interval_s
                report = load.finish()
            self._reports.append(report)
            ledger, problems = self._close()
        judgements, found = judge(footprints, looks, WARM_UP_SHARE * settings.duration_s, settings.bounds)
        wrong = sum(number for mismatch, number in watch.mismatches.items() if mismatch)
        problems += [f"{wrong} of {watch.mismatches.total()} statuses told of a ledger that does not close"] if wrong else []
        problems += [] if watch.mismatches else ["no status was seen"]
        return SoakResult(
            capacity_hz=capacity,
            offered_hz=rate,
            load=report,
            ledger=ledger,
            mismatches=dict(watch.mismatches),
            farm_said=dict(watch.problems.most_common(20)),
            judgements=judgements,
            footprints=footprints,
            intervals=looks,
            problems=problems + found,
        )

    def _capacity(self) -> float:
        """Events per second that are decided with as many as credit allows."""
        self._say(f"measuring the capacity for {CAPACITY_S:g} s")
        return self._full(CAPACITY_S).achieved_rate_hz

    def _full(self, seconds: float) -> LoadReport:
        report = run_load(self._config(Schedule(None, seconds)), self._settings.payloads)
        self._check()
        self._reports.append(report)
        return report

    def _config(self, schedule: Schedule) -> LoadConfig:
        last = self._reports[-1].last_event if self._reports else 0
        return LoadConfig(
            ingests=self._ingests,
            schedule=schedule,
            source=self._settings.source,
            connections=self._settings.connections,
            first_event=last + 1,
            patience_s=PATIENCE_S,
            lumi_s=LUMI_S,
        )

    def _close(self) -> tuple[dict[str, int] | None, list[str]]:
        """Drain and stop the run: its ledger, and what does not agree with it."""
        run = int(self._api.status()["run"])
        self._api.command("drain", COMMAND_S)
        metrics = self._api.metrics()
        self._api.command("stop", COMMAND_S)
        ledger: dict[str, int] | None = self._api.run(run)["ledger"]
        if ledger is None:
            return None, [f"run {run} has no final ledger"]
        return ledger, disagreements(self._reports, ledger, metrics)
