"""What an ingest that was away, or was restarted, has to be told so that it decides as the others do. Pure.

One that joins gets every programme that events of the run may still need before it is started, each from its lumisection on; one that
missed an exchange gets the newest programme from the same lumisection as the others, or from its next one if that has begun.
"""

from __future__ import annotations

from dataclasses import dataclass

from hltfarm.proto.messages import RunConfig, RunState, Snapshot
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.programmes import in_run
from hltfarm.service.ingest.programmes import MOST_ACTIVE
from hltfarm.service.runcontrol import OPEN


@dataclass(frozen=True, slots=True)
class ShadowOrder:
    """A shadow that all ingests of the run are to have."""

    config: RunConfig
    fraction: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides an open run: programmes as (first lumisection, configuration) in order, the first one from 0, and a shadow beside."""

    run: int
    programmes: tuple[tuple[int, RunConfig], ...]
    shadow: ShadowOrder | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A command to one ingest."""

    op: str
    config: RunConfig | None = None
    lumi: int = 0
    fraction: float = 0.0


def plan(view: FarmView, newest: RunConfig, shadow: ShadowOrder | None = None, earlier: Plan | None = None) -> Plan:
    """What all ingests of the run are to decide with: what the one has that knows most, `newest` among it if any of them knows it.

    `earlier`: of a look before, for a moment without any.
    """
    snapshots = [snapshot for _, snapshot in in_run(view, newest.run)]
    known = [[(part.first_lumi, part.config) for part in snapshot.programmes] for snapshot in snapshots if snapshot.programmes]
    up_to_date = [programmes for programmes in known if programmes[-1][1] == newest]
    if not up_to_date and earlier is not None and earlier.programmes[-1][1] == newest:
        up_to_date = [list(earlier.programmes)]  # all were restarted: from the lumisections that were told before
    elif not known and earlier is not None:
        known = [list(earlier.programmes)]
    best = max(up_to_date or known, key=lambda programmes: (len(programmes), -programmes[-1][0]), default=[])
    if not up_to_date:
        first = max((snapshot.lumi for snapshot in snapshots), default=0) + 1
        best = [*(part for part in best if part[0] < first), (first, newest)]
    (_, oldest), *later = best[-MOST_ACTIVE:]
    return Plan(newest.run, ((0, oldest), *later), shadow)


def next_step(snapshot: Snapshot, plan: Plan, *, exchanging: bool) -> Step | None:
    """The next command to an ingest; None if there is nothing to say, or its workers are still building.

    `exchanging`: an exchange is on its way, which what is pending belongs to.
    """
    if snapshot.state in OPEN and snapshot.run == plan.run:
        return _within(snapshot, plan, exchanging)
    if snapshot.state in (RunState.HALTED, RunState.CONFIGURED):
        return _joining(snapshot, plan)
    return None


def _joining(snapshot: Snapshot, plan: Plan) -> Step | None:
    has = tuple((part.first_lumi, part.config) for part in snapshot.programmes)
    if snapshot.run != plan.run or not has or has != plan.programmes[: len(has)]:
        return Step("configure", plan.programmes[0][1])
    if len(has) == len(plan.programmes):
        return Step("start")
    first, config = plan.programmes[len(has)]
    return _introduce(snapshot, first, config)


def _within(snapshot: Snapshot, plan: Plan, exchanging: bool) -> Step | None:
    if not exchanging and snapshot.programmes:
        first, newest = plan.programmes[-1]
        if snapshot.programmes[-1].config != newest:
            return _introduce(snapshot, max(first, snapshot.lumi + 1), newest)
        if snapshot.pending is not None:
            return Step("discard")  # of a control process that ended half way
    told = None if snapshot.shadow is None else ShadowOrder(snapshot.shadow.config, snapshot.shadow.fraction)
    if told == plan.shadow:
        return None
    return Step("shadow_end") if plan.shadow is None else Step("shadow", plan.shadow.config, fraction=plan.shadow.fraction)


def _introduce(snapshot: Snapshot, first: int, config: RunConfig) -> Step | None:
    pending = snapshot.pending
    if pending is None or pending.config != config:
        return Step("prepare", config)
    return Step("activate", config, lumi=first) if pending.prepared else None
