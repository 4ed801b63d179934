"""Ingests that come and go: who belongs to the farm, and what remains of those that left."""

from __future__ import annotations

import msgspec
import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import LedgerCounts, RunConfig, RunState, Snapshot
from hltfarm.service.control.discovery import check_name
from hltfarm.service.control.link import FarmView, IngestView
from hltfarm.service.control.membership import Membership
from hltfarm.service.control.newcomers import unconfigured
from hltfarm.service.control.restarts import IngestRestarts
from hltfarm.service.control.run_counters import LEDGER, RunCounters
from hltfarm.service.control.strays import Strays
from hltfarm.service.registry import RunCounts
from tests.unit.farm_fake import snapshot

A, B = "tcp://a:7402", "tcp://b:7402"


def part(state: RunState = RunState.RUNNING, *, started: float = 1.0, decided: int = 10, leaving: bool = False, run: int = 7) -> Snapshot:
    counts = LedgerCounts(received=decided, accepted=decided)
    return snapshot(
        state=state, run=run, started=started, ledger=counts, totals=counts, path_accepts={"HLT_A": decided}, problems=[],
        info={"leaving": int(leaving)},
    )  # fmt: skip


def seen(members: Membership, now: float, **answers: Snapshot | None) -> FarmView:
    """A look: what the members said, None for one that did not answer."""
    told = {"tcp://" + name + ":7402": answer for name, answer in answers.items()}
    present = [(endpoint, told.get(endpoint)) for endpoint in members.members(now)]
    return members.view([IngestView(e, answer, None if answer is not None else "gone") for e, answer in present], now)


def test_a_name_makes_a_candidate_and_an_answer_a_member() -> None:
    members = Membership([], forget_s=30)
    assert seen(members, 0.0).problems == ["no ingest was found"]
    members.named([A, B], 0.0)
    assert (members.members(0.0), members.candidates(0.0)) == ((), (A, B))
    members.answered(A, part(), 1.0)
    view = seen(members, 1.0, a=part())
    assert [ingest.endpoint for ingest in view.ingests] == [A]
    assert view.state is RunState.RUNNING, "one that never answered holds nobody up"
    assert view.problems == [f"1 ingests that the name service knows do not answer: {B}"]


def test_a_silent_one_degrades_the_farm_until_it_is_forgotten_and_may_come_back() -> None:
    members = Membership([], forget_s=30)
    members.named([A, B], 0.0)
    for endpoint in (A, B):
        members.answered(endpoint, part(), 0.0)
    assert seen(members, 5.0, a=part(), b=None).state is RunState.RUNNING_DEGRADED
    view = seen(members, 31.0, a=part(), b=None)
    assert (view.state, [ingest.endpoint for ingest in view.ingests]) == (RunState.RUNNING, [A])
    members.answered(B, part(), 40.0)
    assert B in members.members(40.0)


def test_a_name_service_that_forgets_takes_nobody_away_who_answers() -> None:
    members = Membership([], forget_s=30)
    members.named([A, B], 0.0)
    members.answered(A, part(), 0.0)
    members.named([], 1.0)
    assert (members.known, members.members(1.0)) == ({A}, (A,))
    members.named([], 40.0)
    assert members.known == frozenset()


def test_fixed_ingests_stay() -> None:
    members = Membership([A], forget_s=30)
    members.named([], 100.0)
    view = seen(members, 100.0, a=None)
    assert (members.known, view.state, view.problems) == ({A}, RunState.ERROR, ["gone"])


def test_one_that_leaves_says_nothing_of_the_state_and_its_books_remain() -> None:
    members = Membership([], forget_s=30)
    members.named([A, B], 0.0)
    for endpoint in (A, B):
        members.answered(endpoint, part(), 0.0)
    view = seen(members, 1.0, a=part(), b=part(RunState.DRAINING, leaving=True))
    assert (view.state, len(view.ingests)) == (RunState.RUNNING, 2), "the farm does not drain because one of its ingests does"
    assert members.addressed(1.0) == (A,)
    view = seen(members, 2.0, a=part(), b=part(RunState.CONFIGURED, leaving=True))
    assert (view.state, [ingest.endpoint for ingest in view.ingests], view.problems) == (RunState.RUNNING, [A], [])
    assert view.snapshot is not None
    assert (view.snapshot.ledger.received, view.snapshot.totals.received, view.snapshot.path_accepts) == (20, 20, {"HLT_A": 20})
    again = seen(members, 3.0, a=part())
    assert again.snapshot == view.snapshot, "it is counted once, however often it is seen"
    other = seen(members, 4.0, a=part(run=8, decided=1)).snapshot
    assert other is not None
    assert (other.run, other.ledger.received, other.totals.received) == (8, 1, 11), "its ledger is of its own run"


def test_the_next_process_under_the_name_of_one_that_left_counts_anew() -> None:
    members = Membership([], forget_s=30)
    members.named([A, B], 0.0)
    for endpoint in (A, B):
        members.answered(endpoint, part(), 0.0)
    strays, restarts, counters = Strays(), IngestRestarts(), RunCounters(RunCounts())

    def take_in(view: FarmView) -> None:
        restarts.observe(view)
        counters.observe(view)
        strays.observe(view, 7)
        assert view.snapshot is not None
        counters.ledger(view.snapshot.ledger)

    strays.begin(7, seen(members, 0.0, a=part(RunState.CONFIGURED, decided=0), b=part(RunState.CONFIGURED, decided=0)))
    take_in(seen(members, 0.0, a=part(decided=0), b=part(decided=0)))
    take_in(seen(members, 1.0, a=part(), b=part(RunState.CONFIGURED, leaving=True)))
    for started in (2.0, 3.0):  # it comes back twice, and leaves again
        members.answered(B, part(RunState.HALTED, started=started, decided=0), started)
        view = seen(members, started, a=part(), b=part(RunState.HALTED, started=started, decided=0))
        assert strays.of(view) == [B]
        assert not strays.lost_counts(view), "the books of the process before are known"
        take_in(view)
        take_in(seen(members, started, a=part(), b=part(started=started, decided=4)))
        take_in(seen(members, started, a=part(), b=part(RunState.CONFIGURED, started=started, decided=5, leaving=True)))
    assert counters.counts.values[LEDGER]["received"] == 30
    assert counters.counts.values["paths"] == {"HLT_A": 30}
    assert restarts.counts == {A: 0, B: 0}
    assert not strays.gone(seen(members, 4.0, a=part()))


def test_a_run_that_begins_after_one_was_replaced_counts_only_its_own() -> None:
    members = Membership([], forget_s=30)
    members.named([A], 0.0)
    members.answered(A, part(), 0.0)
    seen(members, 1.0, a=part(RunState.CONFIGURED, decided=500, leaving=True))
    for decided in (100, 900):  # by its successor, in the run before: fewer and more than by itself
        counters = RunCounters(RunCounts())
        members.answered(A, part(started=2.0, decided=decided), 2.0)
        counters.observe(seen(members, 2.0, a=part(RunState.CONFIGURED, started=2.0, decided=decided)))
        counters.observe(seen(members, 3.0, a=part(started=2.0, decided=decided + 7, run=8)))
        assert counters.counts.values["paths"] == {"HLT_A": 7}


def test_ingests_of_addresses_that_never_come_again_take_no_room_for_ever() -> None:
    members = Membership([], forget_s=30)
    for number in range(1, 40):  # each of them has a run of its own, and half of one
        new, old = f"n{number}", f"n{number - 1}"
        members.named([f"tcp://{name}:7402" for name in (old, new)], number)
        members.answered(f"tcp://{new}:7402", part(run=number), number)
        if number > 1:
            seen(members, number, **{old: part(RunState.CONFIGURED, run=number - 1, leaving=True), new: part(run=number)})
        members.named([f"tcp://{new}:7402"], number)
        view = seen(members, number, **{new: part(run=number)})
        assert view.snapshot is not None
        assert (view.snapshot.run, view.snapshot.ledger.received, view.snapshot.totals.received) == (number, 10, 10 * number)
        assert view.snapshot.path_accepts == {"HLT_A": 10 * number}
        assert len(view.left) + len(view.books) <= 4


def test_one_that_came_later_has_lost_nothing_and_one_that_was_forgotten_has() -> None:
    members = Membership([], forget_s=30)
    members.named([A], 0.0)
    members.answered(A, part(), 0.0)
    strays = Strays()
    strays.begin(7, seen(members, 0.0, a=part()))
    strays.observe(seen(members, 0.0, a=part()), 7)
    members.named([A, B], 1.0)
    members.answered(B, part(RunState.HALTED, decided=0), 1.0)
    view = seen(members, 1.0, a=part(), b=part(RunState.HALTED, decided=0))
    strays.observe(view, 7)
    assert (strays.of(view), strays.lost_counts(view)) == ([B], False)
    strays.observe(seen(members, 2.0, a=part(), b=part()), 7)
    later = seen(members, 40.0, a=part(), b=None)
    strays.observe(later, 7)
    assert strays.gone(later)
    assert strays.lost_counts(later)


@pytest.mark.parametrize("name", ["_control._tcp.hltfarm-ingest", "_control-1._tcp.hltfarm-ingest.hlt.svc.cluster.local.", "ingest:7402"])
def test_names_to_find_ingests_by(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "ingest", "tcp://ingest:7402", "ingest:0", "ingest:70000", "_control._udp.x", "_control._tcp"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError, match="--ingest-dns"):
        check_name(name)


@pytest.mark.parametrize("name", ["a..b:7402", 64 * "x" + ":7402", "_control._tcp." + 64 * "x"])
def test_labels_that_no_name_service_knows(name: str) -> None:
    with pytest.raises(ConfigError, match="--ingest-dns"):
        check_name(name)


def test_one_that_comes_between_configure_and_start_is_configured_too() -> None:
    members = Membership([], forget_s=30)
    members.named([A, B], 0.0)
    for endpoint in (A, B):
        members.answered(endpoint, part(), 0.0)
    config = RunConfig(run=7)
    halted = part(RunState.HALTED)
    assert unconfigured(seen(members, 0.0, a=part(RunState.CONFIGURED), b=halted), config) == [B]
    assert unconfigured(seen(members, 0.0, a=part(RunState.CONFIGURED, run=6), b=halted), config) == [], "of a run that is over"
    assert unconfigured(seen(members, 0.0, a=halted, b=halted), config) == []
    assert unconfigured(seen(members, 0.0, a=part(RunState.CONFIGURED), b=part(RunState.HALTED, leaving=True)), config) == []


def test_books_of_many_runs_stay_few_and_complete() -> None:
    members = Membership([], forget_s=30)
    members.named([A, B], 0.0)
    members.answered(A, part(run=1), 0.0)
    for run in range(1, 6):
        for process in range(2):  # it leaves twice in each run, the second time with another menu
            left = part(RunState.CONFIGURED, started=10.0 * run + process, run=run, leaving=True)
            members.answered(B, msgspec.structs.replace(left, menu_hash=f"{process}"), 0.0)
    view = seen(members, 0.0, a=part(run=5))
    assert view.snapshot is not None
    assert (view.snapshot.totals.received, view.snapshot.ledger.received) == (10 + 10 * 10, 10 + 2 * 10)
    assert (view.problems, len(view.books)) == ([], 3)
