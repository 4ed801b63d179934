"""How old a view of the farm may be: from when it was asked for, not from when its answer was read."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.registry import Registry
from tests.unit.farm_fake import ENDPOINT, FakeLink


class SlowLink(FakeLink):
    """Its first answer is that of the moment it was asked, and comes when `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()
        self.asked = asyncio.Event()
        self.looks = 0

    async def look(self) -> FarmView:
        view = await super().look()
        self.looks += 1
        if self.looks == 1:
            self.asked.set()
            await self.answer.wait()
        return view


def test_a_look_that_began_before_is_not_fresh(tmp_path: Path) -> None:
    """Somebody asks while an older look is under way: what has happened in between is in the answer."""

    async def main() -> None:
        link, ticks = SlowLink(), count()
        registry = Registry(f"sqlite:///{tmp_path}/runs.db", lambda: 0.0)
        farm = FarmControl(ControlSettings(ingests=(ENDPOINT,)), link, registry, lambda: float(next(ticks)))
        older = asyncio.create_task(farm.look())
        await link.asked.wait()
        link.received = 40
        newer = asyncio.create_task(farm.look())
        await asyncio.sleep(0)  # both wait for the first answer now
        link.answer.set()
        snapshot = (await newer).snapshot
        assert snapshot is not None
        assert snapshot.totals.received == 40
        await older
        assert link.looks == 2
        await farm.close()
        registry.close()

    asyncio.run(main())


def test_a_recent_view_is_used_again(tmp_path: Path) -> None:
    async def main() -> None:
        link, now = SlowLink(), [10.0]
        link.answer.set()
        registry = Registry(f"sqlite:///{tmp_path}/runs.db", lambda: 0.0)
        farm = FarmControl(ControlSettings(ingests=(ENDPOINT,)), link, registry, lambda: now[0])
        await farm.look(max_age_s=0.5)
        now[0] = 10.5
        await farm.look(max_age_s=0.5)
        assert link.looks == 1
        now[0] = 10.6
        await farm.look(max_age_s=0.5)
        assert link.looks == 2
        await farm.close()
        registry.close()

    asyncio.run(main())
