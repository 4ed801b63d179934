"""What an operator does to supervised (tiny) processes: drain, restart, quarantine, forget, add."""

from __future__ import annotations

import asyncio

import pytest

from hltfarm.proto.errors import StateError
from hltfarm.service.supervisor.policy import Phase
from tests.unit.test_supervisor_processes import PATIENT, STUBBORN, Farm, gone, spec


def phase(farm: Farm, name: str) -> str | None:
    return next((process.phase for process in farm.supervisor.processes() if process.name == name), None)


def test_why_a_process_is_quarantined_is_told() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", "print('hltfarm: error: no such menu'); raise SystemExit(2)"), spec("w1", "raise SystemExit(7)"))
        farm.supervisor.start()
        await farm.until(lambda: len(farm.exits) == 4)
        first, second = farm.supervisor.processes()
        assert first.reason == "its configuration cannot be used: no such menu"
        assert second.reason == "it ended again and again (exit code 7)"
        await farm.supervisor.stop(grace_s=10)

    asyncio.run(main())


def test_a_drained_process_stays_away_until_it_is_released() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", PATIENT))
        farm.supervisor.start()
        await farm.until(lambda: farm.lines == [("w0", "up")])
        farm.supervisor.leave("w0", Phase.DRAINED)
        with pytest.raises(StateError, match="leaving already"):
            farm.supervisor.leave("w0", Phase.QUARANTINED)
        await farm.until(lambda: farm.exits == ["w0"])
        assert phase(farm, "w0") == "drained"
        assert farm.supervisor.release("w0")
        await farm.until(lambda: farm.lines == [("w0", "up")] * 2)
        assert not farm.supervisor.release("w0"), "it runs"
        farm.supervisor.leave("w0", Phase.WAITING)
        await farm.until(lambda: farm.lines == [("w0", "up")] * 3)
        (process,) = farm.supervisor.processes()
        assert (process.phase, process.restarts) == ("running", 2)
        await farm.supervisor.stop(grace_s=10)

    asyncio.run(main())


@pytest.mark.parametrize("now", [False, True])
def test_who_does_not_leave_is_killed(now: bool) -> None:
    async def main() -> None:
        farm = Farm(spec("w0", STUBBORN), leave_s=60.0 if now else 0.2)
        farm.supervisor.start()
        await farm.until(lambda: farm.lines == [("w0", "up")])
        farm.supervisor.leave("w0", Phase.QUARANTINED, reason="noisy fan", now=now)
        await farm.until(lambda: farm.exits == ["w0"])
        (process,) = farm.supervisor.processes()
        assert (process.phase, process.last_exit, process.reason) == ("quarantined", "signal SIGKILL", "noisy fan")
        await farm.supervisor.stop(grace_s=10)

    asyncio.run(main())


def test_processes_come_and_go_while_others_run() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", PATIENT))
        farm.supervisor.start()
        failed = asyncio.create_task(farm.supervisor.failed())
        farm.supervisor.add(spec("w1", PATIENT))
        with pytest.raises(StateError, match="there is a process 'w1' already"):
            farm.supervisor.add(spec("w1", PATIENT))
        await farm.until(lambda: sorted(farm.lines) == [("w0", "up"), ("w1", "up")])
        pid = farm.pid("w1")
        farm.supervisor.leave("w1", Phase.STOPPED)
        await farm.until(lambda: farm.exits == ["w1"])
        async with asyncio.timeout(10):
            while phase(farm, "w1") is not None:
                await asyncio.sleep(0)
        assert gone(pid)
        assert phase(farm, "w0") == "running"
        farm.supervisor.add(spec("w1", PATIENT))  # the name is free again
        await farm.until(lambda: farm.lines.count(("w1", "up")) == 2)
        assert not failed.done(), "one that was forgotten is no fault of the supervisor"
        failed.cancel()
        await farm.supervisor.stop(grace_s=10)
        with pytest.raises(StateError, match="being ended"):
            farm.supervisor.add(spec("w2", PATIENT))

    asyncio.run(main())


def test_an_order_that_comes_while_a_process_is_being_started_is_carried_out() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", PATIENT))
        farm.supervisor.start()
        await asyncio.sleep(0)  # its task has begun and waits for the system
        farm.supervisor.leave("w0", Phase.DRAINED)
        await farm.until(lambda: farm.exits == ["w0"])
        assert phase(farm, "w0") == "drained"
        await farm.supervisor.stop(grace_s=10)

    asyncio.run(main())


def test_a_wedged_process_is_killed_and_its_successor_is_not() -> None:
    async def main() -> None:
        farm = Farm(spec("w0", STUBBORN))
        farm.supervisor.start()
        await farm.until(lambda: farm.lines == [("w0", "up")])
        first = farm.pid("w0")
        farm.supervisor.kill_wedged("w0", first, "it does not end")
        await farm.until(lambda: farm.lines == [("w0", "up")] * 2)
        farm.supervisor.kill_wedged("w0", first, "it does not end")
        farm.supervisor.kill_wedged("w7", first, "it does not end")
        assert farm.exits == ["w0"]
        assert farm.pid("w0") != first
        await farm.supervisor.stop(grace_s=0.1)

    asyncio.run(main())
