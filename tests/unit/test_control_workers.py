"""Commands on workers that no supervisor of this machine runs."""

from __future__ import annotations

import asyncio
import time

import msgspec

from hltfarm.proto.messages import Snapshot
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.control.transitions import Progress
from hltfarm.service.control.worker_control import WorkerControl
from hltfarm.service.registry import Registry
from tests.unit.farm_fake import ENDPOINT, FakeLink


class LeavingLink(FakeLink):
    """An ingest whose worker w0 leaves as soon as it is told, and the monitor sees that before the answer comes."""

    farm: FarmControl | None = None
    left = False

    def snapshot(self) -> Snapshot:
        given = super().snapshot()
        workers = [msgspec.structs.replace(worker, up=not self.left, pid=7) for worker in given.workers if worker.name == "w0"]
        return msgspec.structs.replace(given, workers=workers)

    async def worker_command(self, op: str, worker: str, *, pid: int = 0, reason: str = "") -> None:
        self.left = True
        assert self.farm is not None
        await self.farm.look()


def test_a_worker_that_leaves_at_once_has_left() -> None:
    async def main() -> None:
        link, registry = LeavingLink(), Registry("sqlite://", time.time)
        link.farm = farm = FarmControl(ControlSettings(ingests=(ENDPOINT,)), link, registry, time.monotonic)
        transition = await WorkerControl(farm, None).drain("w0")
        await farm.look()
        found = farm.transitions.get(transition.id)
        assert found is not None
        assert found.progress is Progress.DONE
        await farm.close()
        registry.close()

    asyncio.run(main())
