"""One round: a run under load, the faults of a plan, the end in order, the books."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import msgspec

from hltfarm.loadgen.load.driver import LoadConfig, run_load
from hltfarm.loadgen.load.schedule import Arrival, Schedule
from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.events import RawEvent
from hltfarm.service.chaos import books
from hltfarm.service.chaos.batches import hang, out_of_memory, poison, slow
from hltfarm.service.chaos.farm import TURN_S, Farm
from hltfarm.service.chaos.full_disk import full_disk
from hltfarm.service.chaos.load import LiveLoad
from hltfarm.service.chaos.network import partition_clients, partition_workers
from hltfarm.service.chaos.plan import Fault, Injection, Together, title, together
from hltfarm.service.chaos.processes import kill_control, kill_ingest, kill_worker, stop_worker
from hltfarm.service.chaos.recovery import recovery
from hltfarm.service.chaos.scene import ChaosError, Injector, Orders, Scene
from hltfarm.service.chaos.swap import swap
from hltfarm.service.chaos.vandal import corrupt
from hltfarm.service.chaos.watch import Watcher

COMMAND_S = 60.0
PATIENCE_S = 30.0
WARM_UP_S = 2.0
LUMI_S = 0.5  # lumisections that begin and end while a fault lasts
TOGETHER_S = 1.0  # faults of one moment strike within this

INJECTORS: dict[Fault, Injector] = {
    Fault.KILL: kill_worker,
    Fault.KILL_INGEST: kill_ingest,
    Fault.KILL_CONTROL: kill_control,
    Fault.STOP: stop_worker,
    Fault.HANG: hang,
    Fault.OOM: out_of_memory,
    Fault.SLOW: slow,
    Fault.CORRUPT: corrupt,
    Fault.DISK_FULL: full_disk,
    Fault.PARTITION: partition_clients,
    Fault.PARTITION_WORKERS: partition_workers,
    Fault.POISON: poison,
    Fault.SWAP: swap,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """The load of a round. connections: clients, dealt out to the ingests in turn."""

    source: str
    payloads: list[RawEvent]
    rate_hz: float
    duration_s: float
    connections: int = 4


class Struck(msgspec.Struct, frozen=True):
    """A fault as it was made: which, and in which manner.

    recovery_s: until decisions flowed at the offered rate again; None if they did not before the load ended.
    """

    fault: str
    manner: str
    at_s: float
    seconds: float
    in_flight: int
    recovery_s: float | None


class RoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a round. closed: nothing in `problems`. slowest_ms: longest time that an event waited for its decision."""

    fault: str
    seed: int
    run: int
    struck: list[Struck]
    offered: int
    decided: int
    resends: int
    reconnects: int
    slowest_ms: float | None
    ledger: dict[str, int] | None
    outcome: str
    statuses: int
    farm_said: dict[str, int]  # problems that statuses told of, with their number
    problems: list[str]

    @property
    def closed(self) -> bool:
        """Whether all books agree."""
        return not self.problems


def run_round(farm: Farm, faults: Together, seed: int, settings: LoadSettings) -> RoundResult:
    """A run of the farm with the faults of this seed in it. Raises HltfarmError if the farm cannot take a run any more."""
    plans = together(faults, seed, settings.duration_s, farm.settings.timing)
    farm.ready()
    before, run = farm.api.metrics(), int(farm.api.status()["run"])
    with Watcher(farm.url) as watcher:
        config = LoadConfig(
            ingests=farm.ingests,
            schedule=Schedule(settings.rate_hz, settings.duration_s, arrival=Arrival.POISSON, seed=seed),
            source=settings.source,
            connections=settings.connections,
            run=run,
            patience_s=PATIENCE_S,
            silence_s=farm.settings.timing.silence_s,
            lumi_s=LUMI_S,
        )
        with LiveLoad(config, settings.payloads) as load:
            orders = Orders(farm.settings.faults)
            scenes = [Scene(farm, run, load, settings.payloads, orders) for _ in plans]
            try:
                _inject_together(farm, scenes, plans)
            finally:
                orders.clear()
            report = load.finish()
        farm.ready()  # all of it recovers, or else the round has failed
        farm.api.command("drain", COMMAND_S)
        metrics = books.since(before, farm.api.metrics())
        farm.api.command("stop", COMMAND_S)
        record = farm.api.run(run)
    kept, unfinished = farm.kept(run), farm.unfinished(run)
    evidence = books.Evidence(
        reports=[report, *(further for scene in scenes for further in scene.further_loads)],
        ledger=record["ledger"],
        outcome=record["outcome"],
        metrics=metrics,
        mismatches=watcher.mismatches,
        forced=load.forced,
        bundled=farm.bundled(run),
        poison=frozenset(event for scene in scenes for event in scene.victims) if _spares_others(plans, len(farm.doors)) else None,
        accepted=[*load.accepted, *(event for scene in scenes for event in scene.further_accepted)],
        kept=kept,
        unfinished=unfinished,
        deciders=load.deciders,
        activations=record.get("activations") or (),
        lost_counts=max((scene.lost_counts for scene in scenes if scene.lost_counts is not None), default=None),
        further=[problem for scene in scenes for problem in scene.problems],
    )
    problems = books.problems(evidence)
    if not problems:
        farm.forget_outputs(run)
    made = [pair for scene, plan in zip(scenes, plans, strict=True) for pair in zip(plan, scene.hits, strict=False)]
    made.sort(key=lambda pair: (pair[0].at_s, pair[1].at_s))
    ends = [min((other.at_s for _, other in made if other.at_s > hit.at_s + TOGETHER_S), default=float("inf")) for _, hit in made]
    return RoundResult(
        fault=title(faults),
        seed=seed,
        run=run,
        struck=[
            Struck(
                str(what.fault), what.manner, hit.at_s, what.seconds, hit.in_flight, recovery(load.samples, hit.at_s, end, settings.rate_hz)
            )
            for (what, hit), end in zip(made, ends, strict=True)
        ],
        offered=report.offered,
        decided=sum(report.decisions.values()),
        resends=report.resends,
        reconnects=report.reconnects,
        slowest_ms=report.latency_ms["max"],
        ledger=record["ledger"],
        outcome=record["outcome"],
        statuses=watcher.mismatches.total(),
        farm_said=dict(watcher.problems.most_common(20)),
        problems=problems,
    )


def warm_up(farm: Farm, settings: LoadSettings) -> None:
    """A run without a fault, so that caches and memory are there when it counts. Raises HltfarmError if it does not close."""
    farm.ready()
    config = LoadConfig(
        ingests=farm.ingests,
        schedule=Schedule(settings.rate_hz, WARM_UP_S),
        source=settings.source,
        connections=settings.connections,
    )
    report = run_load(config, settings.payloads)
    farm.api.command("stop", COMMAND_S)
    if not report.closed:
        raise ChaosError(f"the farm does not work even without a fault: {'; '.join(report.problems)}")


def _spares_others(plans: Sequence[Sequence[Injection]], ingests: int) -> bool:
    """Whether no other event than the poisonous ones may end in the error stream.

    One ingest tries suspects alone; several do not know of each other's, and one's poison can take the worker with another's suspect along,
    as can a fault that strikes together with it.
    """
    return (ingests == 1 and len(plans) == 1) or not any(item.manner in ("die", "hang") for plan in plans for item in plan)


def _inject_together(farm: Farm, scenes: Sequence[Scene], plans: Sequence[Sequence[Injection]]) -> None:
    """Make the faults of every plan, several each in a thread of its own. Call it from the main thread."""
    if len(plans) == 1:
        _inject(scenes[0], plans[0])
        return
    with ThreadPoolExecutor(len(plans), thread_name_prefix="fault") as pool:
        faults = [pool.submit(_inject, scene, plan) for scene, plan in zip(scenes, plans, strict=True)]
        while not all(fault.done() for fault in faults):
            farm.turn()
            wait(faults, timeout=TURN_S)
    for fault in faults:
        fault.result()


def _inject(scene: Scene, plan: Sequence[Injection]) -> None:
    """Make every fault of the plan, one after the other; what cannot be made is a problem of the round."""
    for injection in plan:
        if not scene.load.wait_until(injection.at_s):
            scene.problems.append(f"the load ended before the fault planned at {injection.at_s:.1f} s")
            return
        try:
            INJECTORS[injection.fault](scene, injection)
        except HltfarmError as error:
            scene.problems.append(str(error))
            return


def failed(faults: Together, seed: int, error: HltfarmError) -> RoundResult:
    """A round that could not be brought to its end."""
    return RoundResult(
        fault=title(faults), seed=seed, run=0, struck=[], offered=0, decided=0, resends=0, reconnects=0, slowest_ms=None, ledger=None,
        outcome="", statuses=0, farm_said={}, problems=[str(error)],
    )  # fmt: skip
