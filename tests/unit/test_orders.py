"""Commands that an ingest did not hear, as pure histories and over the control of a farm with fake links."""

from __future__ import annotations

import asyncio

import pytest

from hltfarm.proto.messages import RunState, Snapshot, WorkerStatus
from hltfarm.service.control.link import FarmView, IngestView, view_of
from hltfarm.service.control.orders import Orders, Reminder
from hltfarm.service.runcontrol import RunControl
from tests.unit.farm_fake import snapshot
from tests.unit.test_control_shards import ENDPOINTS, TwoIngests, serving, status


def view(*parts: Snapshot | None) -> FarmView:
    return view_of([IngestView(str(index), part) for index, part in enumerate(parts)])


def worker(name: str, quarantined: str = "") -> WorkerStatus:
    return WorkerStatus(
        name=name, backend="cpu", device="", up=True, ready=True, credit_events=0, in_flight=0, processed=0, quarantined=quarantined
    )


@pytest.mark.parametrize(
    ("op", "obeys", "does_not"),
    [
        ("pause", [RunState.PAUSED, RunState.DRAINING], [RunState.RUNNING, RunState.RUNNING_DEGRADED]),
        ("resume", [RunState.RUNNING, RunState.RUNNING_DEGRADED, RunState.DRAINING], [RunState.PAUSED]),
        ("drain", [RunState.DRAINING], [RunState.RUNNING, RunState.PAUSED]),
        ("reset", [RunState.HALTED], [RunState.RUNNING, RunState.PAUSED, RunState.DRAINING]),
    ],
)
def test_who_did_not_hear_a_command_is_reminded(op: str, obeys: list[RunState], does_not: list[RunState]) -> None:
    orders = Orders()
    orders.told(op, 7)
    parts = [snapshot(state=state, run=7) for state in (*obeys, *does_not)]
    expected = [Reminder(str(index), op) for index in range(len(obeys), len(parts))]
    assert orders.reminders(view(*parts)) == expected
    assert orders.reminders(view(*(snapshot(state=state, run=8) for state in does_not))) == [], "that is another run"


def test_a_stop_is_repeated_to_who_drains_for_another_reason_only() -> None:
    orders = Orders()
    orders.told("stop", 7)
    drained = snapshot(state=RunState.DRAINING, run=7, info={"ending": 0})
    ending = snapshot(state=RunState.DRAINING, run=7, info={"ending": 1})
    ended = snapshot(state=RunState.CONFIGURED, run=7)
    assert orders.reminders(view(drained, ending, ended, None)) == [Reminder("0", "stop")], "a stop that is repeated begins its time anew"
    orders.told("start", 8)
    assert orders.reminders(view(drained)) == []


def test_workers_that_are_held_are_so_on_every_ingest() -> None:
    orders = Orders()
    orders.adopt(view(snapshot(workers=[worker("w0", "noisy fan"), worker("w1")]), None))
    assert orders.held == {"w0": "noisy fan"}, "an earlier control process was told so"
    restarted = snapshot(workers=[worker("w0"), worker("w1", "long ago")])
    orders.adopt(view(restarted))
    assert orders.reminders(view(restarted)) == [
        Reminder("0", "worker_quarantine", "w0", "noisy fan"),
        Reminder("0", "worker_release", "w1"),
    ]


def test_workers_are_held_on_an_ingest_that_a_new_control_hears_of_later() -> None:
    orders = Orders()
    orders.adopt(view(snapshot(workers=[]), None))
    later = view(snapshot(workers=[]), snapshot(workers=[worker("w0", "noisy fan"), worker("w1", "flapping")]))
    orders.free("w1")  # meanwhile
    orders.adopt(later)
    assert orders.held == {"w0": "noisy fan"}
    assert orders.reminders(later) == [Reminder("1", "worker_release", "w1")]


@pytest.mark.parametrize(("op", "outcome"), [("stop", "stopped"), ("reset", "interrupted")])
def test_an_ingest_that_was_away_ends_the_run_when_it_is_back(op: str, outcome: str) -> None:
    link = TwoIngests()

    async def main() -> None:
        async with serving(link) as client:
            await status(client, "Running")
            second = link.parts[ENDPOINTS[1]]
            second.gone = True
            await status(client, "RunningDegraded")
            asked = (await client.post(f"/v1/control/{op}")).json()
            await status(client, "Error")
            if op == "stop":
                assert (await client.get(f"/v1/transitions/{asked['id']}")).json()["progress"] == "pending", "the other one takes events"
            assert (await client.get("/v1/runs/1")).json()["outcome"] == "interrupted", "nobody knows what the other one does"
            second.gone = False
            async with asyncio.timeout(10):
                while second.machine.state is RunState.RUNNING:
                    await second.looked(1)
            assert second.sent[-1][0] == op
            await status(client, "Configured" if op == "stop" else "Halted")
            if op == "stop":
                assert (await client.get(f"/v1/transitions/{asked['id']}")).json()["progress"] == "done"
            async with asyncio.timeout(10):
                while (await client.get("/v1/runs/1")).json()["outcome"] != outcome:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_an_ingest_that_joins_a_paused_run_and_fails_to_pause_is_told_again() -> None:
    link = TwoIngests()

    async def main() -> None:
        async with serving(link) as client:
            await status(client, "Running")
            await client.post("/v1/control/pause")
            second = link.parts[ENDPOINTS[1]]
            second.deaf = {"pause": 1}
            second.machine, second.run = RunControl(), None
            async with asyncio.timeout(10):
                while second.machine.state is not RunState.PAUSED:
                    await second.looked(1)
            assert [op for op, _, _ in second.sent][-2:] == ["start", "pause"]
            assert second.deaf == {"pause": 0}
            await status(client, "Paused")

    asyncio.run(main())
