"""What an ingest that was away or restarted is told, as pure histories: real programmes of an ingest carry the steps out."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from hltfarm.proto.messages import RunConfig, RunState
from hltfarm.service.control.catching_up import Plan, ShadowOrder, Step, next_step, plan
from hltfarm.service.control.link import FarmView, IngestView, view_of
from hltfarm.service.ingest.programmes import MOST_ACTIVE
from hltfarm.service.runcontrol import RunControl
from tests.unit.farm_fake import ENDPOINT, FakeLink


def config(name: str, run: int = 7) -> RunConfig:
    return RunConfig(run=run, menu=f"version: 1\nname: {name}\npaths:\n  - {{name: HLT_{name}}}\n")


A, B, C = config("A"), config("B"), config("C")


def ingest(*programmes: tuple[int, RunConfig], lumi: int = 0, state: RunState = RunState.RUNNING) -> FakeLink:
    """One that has these programmes and has seen this lumisection."""
    link = FakeLink(state, run=7)
    link.settle_programme(link.programmes.configure(programmes[0][1]))
    for first, part in programmes[1:]:
        link.programmes.prepare(part)
        link.build()
        link.programmes.activate(first, [])
    link.programmes.lumi = lumi
    return link


def view(*links: FakeLink) -> FarmView:
    return view_of([IngestView(str(index), link.snapshot()) for index, link in enumerate(links)])


def carry_out(link: FakeLink, wanted: Plan) -> list[str]:
    """Every step that the ingest is told."""
    told = []

    async def tell(step: Step) -> None:
        if step.op in ("configure", "start"):
            await link.command(step.op, step.config)
        else:
            await link.change_programme(ENDPOINT, step.op, step.config, lumi=step.lumi, fraction=step.fraction)

    while (step := next_step(link.snapshot(), wanted, exchanging=False)) is not None:
        asyncio.run(tell(step))
        told.append(step.op)
        assert len(told) < 20
    return told


def have(link: FakeLink) -> list[tuple[int, RunConfig]]:
    return [(part.first_lumi, part.config) for part in link.programmes.told()]


def test_one_that_was_restarted_decides_late_and_future_events_as_the_others_do() -> None:
    other, back = ingest((0, A), (5, B), (9, C), lumi=6), FakeLink()
    wanted = plan(view(other, back), C)
    assert carry_out(back, wanted) == ["configure", "prepare", "activate", "prepare", "activate", "start"]
    assert (back.machine.state, have(back)) == (RunState.RUNNING, have(other))
    for lumi in (3, 5, 8, 9, 20):
        assert back.decide(lumi, [True]) == other.decide(lumi, [True])


def test_one_that_is_still_building_is_not_started() -> None:
    other, back = ingest((0, A), (5, B), lumi=6), FakeLink()
    back.builds = False
    wanted = plan(view(other), B)
    assert carry_out(back, wanted) == ["configure", "prepare"]
    assert back.machine.state is RunState.CONFIGURED
    back.build()
    assert carry_out(back, wanted) == ["activate", "start"]


def test_one_that_has_another_run_or_other_programmes_begins_anew() -> None:
    wanted = plan(view(ingest((0, A), (5, B), lumi=6)), B)
    configured = ingest((0, A), (4, B), state=RunState.CONFIGURED)
    assert carry_out(configured, wanted)[0] == "configure"
    assert have(configured) == [(0, A), (5, B)]
    other_run = FakeLink(RunState.CONFIGURED, run=6)
    other_run.programmes.configure(config("A", run=6))
    assert carry_out(other_run, wanted)[0] == "configure"


@pytest.mark.parametrize(("lumi", "first"), [(3, 5), (4, 5), (5, 6), (8, 9)])
def test_one_that_missed_an_exchange_gets_it_from_the_same_lumisection_or_its_next(lumi: int, first: int) -> None:
    other, away = ingest((0, A), (5, B), lumi=4), ingest((0, A), lumi=lumi)
    assert carry_out(away, plan(view(away, other), B)) == ["prepare", "activate"]
    assert have(away) == [(0, A), (first, B)]
    assert carry_out(other, plan(view(away, other), B)) == []


def test_what_nobody_knows_any_more_begins_with_the_next_lumisection_of_all() -> None:
    parts = ingest((0, A), lumi=4), ingest((0, A), lumi=7)
    assert plan(view(*parts), B).programmes == ((0, A), (8, B))
    assert plan(view(), B).programmes == ((0, B),)


def test_no_plan_has_more_programmes_than_an_ingest_keeps() -> None:
    names = [config(name) for name in "ABCDEF"]
    other = ingest((0, names[0]), *((5 * i, part) for i, part in enumerate(names[1:4], start=1)), lumi=16)
    wanted = plan(view(other), names[-1])
    assert len(wanted.programmes) == MOST_ACTIVE
    assert wanted.programmes[0][0] == 0
    assert carry_out(FakeLink(), wanted)[-1] == "start"


def test_what_is_pending_belongs_to_an_exchange_or_is_discarded() -> None:
    link = ingest((0, A), lumi=4)
    link.programmes.prepare(B)
    wanted = plan(view(link), A)
    assert next_step(link.snapshot(), wanted, exchanging=True) is None
    assert carry_out(link, wanted) == ["discard"]
    assert link.programmes.pending is None


def test_shadows_are_started_changed_and_ended() -> None:
    link = ingest((0, A))
    wanted = Plan(7, ((0, A),), ShadowOrder(B, 0.5))
    assert carry_out(link, wanted) == ["shadow"]
    assert carry_out(link, wanted) == []
    assert carry_out(link, with_fraction(wanted, 0.25)) == ["shadow"]
    assert link.programmes.shadow is not None
    assert link.programmes.shadow.fraction == 0.25
    assert carry_out(link, Plan(7, ((0, A),))) == ["shadow_end"]
    assert link.programmes.shadow is None


def with_fraction(wanted: Plan, fraction: float) -> Plan:
    return Plan(wanted.run, wanted.programmes, ShadowOrder(B, fraction))


def test_nothing_is_said_to_one_that_ended_the_run_or_is_in_error() -> None:
    wanted = plan(view(ingest((0, A))), A)
    failed = FakeLink()
    failed.machine = RunControl(RunState.ERROR)
    assert next_step(failed.snapshot(), wanted, exchanging=False) is None
    assert next_step(msgspec.structs.replace(ingest((0, A)).snapshot(), run=8), wanted, exchanging=False) is None


def test_the_only_ingest_gets_the_lumisections_that_were_told_before_its_restart() -> None:
    wanted = plan(view(ingest((0, A), (2, B), lumi=5)), B)
    back = FakeLink()
    for _ in range(20):  # a look before each step, as the monitor does
        wanted = plan(view(back), B, earlier=wanted)
        step = next_step(back.snapshot(), wanted, exchanging=False)
        if step is None:
            break
        if step.op in ("configure", "start"):
            asyncio.run(back.command(step.op, step.config))
        else:
            asyncio.run(back.change_programme(ENDPOINT, step.op, step.config, lumi=step.lumi, fraction=step.fraction))
    assert have(back) == [(0, A), (2, B)]
    assert back.snapshot().state is RunState.RUNNING
