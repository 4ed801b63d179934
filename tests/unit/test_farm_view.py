"""Several ingests as one farm: states, sums, and commands that only some of them carry out."""

from __future__ import annotations

import pytest

from hltfarm.proto.errors import StateError
from hltfarm.proto.messages import Pending, Programme, RunConfig, RunState, Shadow, Snapshot
from hltfarm.service.control.link import IngestView, UnreachableError, refusal, view_of
from hltfarm.service.control.merge import merge
from hltfarm.service.control.transitions import reached
from tests.unit.farm_fake import SELECTOR, snapshot

GONE = IngestView("b", None, "ingest b did not answer")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (RunState.RUNNING, RunState.RUNNING_DEGRADED),
        (RunState.RUNNING_DEGRADED, RunState.RUNNING_DEGRADED),
        (RunState.PAUSED, RunState.PAUSED),
        (RunState.DRAINING, RunState.DRAINING),
        (RunState.CONFIGURED, RunState.ERROR),
        (RunState.HALTED, RunState.ERROR),
    ],
)
def test_one_ingest_is_gone(state: RunState, expected: RunState) -> None:
    view = view_of([IngestView("a", snapshot(state=state)), GONE])
    assert view.state is expected
    assert view.problems == ["ingest b did not answer"]


def test_no_ingest_answers() -> None:
    view = view_of([GONE, GONE])
    assert (view.state, view.snapshot) == (RunState.ERROR, None)


@pytest.mark.parametrize("op", ["configure", "start"])
def test_a_run_needs_all_to_begin(op: str) -> None:
    error = UnreachableError("gone")
    assert refusal(op, [error], 2) is error


@pytest.mark.parametrize("op", ["pause", "resume", "drain", "stop", "reset", "worker_lost"])
def test_the_others_end_a_run_that_lost_one(op: str) -> None:
    first, second = UnreachableError("gone"), StateError("came back without the run", ("configure",))
    assert refusal(op, [], 2) is None
    assert refusal(op, [second], 2) is None
    assert refusal(op, [first, second], 2) is first


def test_sums_and_disagreements() -> None:
    other = snapshot(run=8, menu_hash="other", info={"reserved_events": 3}, frames_refused={"BAD_MAGIC": 1})
    farm = merge([snapshot(info={"reserved_events": 4}), other])
    assert (farm.totals.received, farm.ledger.in_flight, farm.slots_total, farm.ingest_bytes) == (2000, 30, 256, 246_913_578)
    assert farm.frames_refused == {"BAD_CRC": 6, "BAD_MAGIC": 1}
    assert farm.stage_duration["unpack"].counts == [40, 20, 2]
    assert farm.backpressure_seconds["slots"] == 3.0
    assert farm.info["reserved_events"] == 7
    assert len(farm.problems) == 2


def test_the_farm_tells_of_ingests_with_different_models() -> None:
    unknown = snapshot(menu_hash="")
    farm = merge([unknown, snapshot(models=(SELECTOR,))])
    assert (farm.models, farm.menu_hash) == ((SELECTOR,), "0123456789abcdef")
    assert not any("models" in problem for problem in farm.problems), "an ingest without a ready worker decides nothing"
    farm = merge([snapshot(), snapshot(models=(SELECTOR,))])
    assert farm.problems == ["the ingests decide with different models: none; tiny:fedcba9876543210"]


def test_programmes_and_shadows_of_ingests_add_up() -> None:
    def programme(first: int, menu: str, accepted: int) -> Programme:
        config = RunConfig(run=7, menu=menu)
        return Programme(
            generation=1, first_lumi=first, config=config, menu_hash="ab", models=(), conditions="c", accepted=accepted, rejected=1
        )

    def shadow(events: int, waits_for: tuple[str, ...]) -> Shadow:
        return Shadow(
            config=RunConfig(run=7), fraction=0.1, menu_hash="", models=(), waits_for=waits_for, error=None, events=events,
            matrix=(events, 0, 0, 0), paths={"a": (events, 1, 0)}, failed=1,
        )  # fmt: skip

    pending = Pending(config=RunConfig(run=7), waits_for=("w1",))
    one = snapshot(programmes=(programme(0, "a", 5), programme(4, "b", 2)), shadow=shadow(3, ("w0",)), lumi=5)
    other = snapshot(programmes=(programme(0, "a", 1),), shadow=shadow(4, ()), pending=pending, lumi=3)
    farm = merge([one, other])
    assert [(part.first_lumi, part.accepted, part.rejected) for part in farm.programmes] == [(0, 6, 2), (4, 2, 1)]
    assert farm.lumi == 5
    assert farm.pending is not None
    assert (farm.pending.prepared, farm.pending.waits_for) == (False, ("w1",))
    assert farm.shadow is not None
    assert (farm.shadow.events, farm.shadow.matrix, farm.shadow.paths) == (7, (7, 0, 0, 0), {"a": (7, 2, 0)})
    assert (farm.shadow.waits_for, farm.shadow.failed) == (("w0",), 2)


def drained(**changes: object) -> bool:
    ledger = snapshot().ledger
    given: Snapshot = snapshot(state=RunState.DRAINING, ledger=type(ledger)(received=5, rejected=5), **changes)
    return reached("drain", 7, view_of([IngestView("a", given)]))


def test_a_configuration_is_done_when_a_worker_has_built_it() -> None:
    def done(**changes: object) -> bool:
        return reached("configure", 7, view_of([IngestView("a", snapshot(state=RunState.CONFIGURED, **changes))]))

    assert done()
    assert not done(run=6)
    assert not done(menu_hash="")
    assert done(menu_hash="", workers=[]), "it waits for workers that will come"


def test_a_drain_waits_until_no_client_may_send() -> None:
    assert not drained(info={"reserved_events": 2})
    assert drained(info={"reserved_events": 0})
    assert drained(info={})
