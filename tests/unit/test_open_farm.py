"""The link to a farm whose ingests come and go, when the name service takes away one that somebody waits for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zmq.asyncio

from hltfarm.service.control.link import IngestLink, UnreachableError
from hltfarm.service.control.open_farm import LOOKUP_S, OpenFarmLink


@pytest.mark.parametrize("silent", [True, False], ids=["an ingest that does not answer", "no ingest there"])
def test_who_waits_for_an_ingest_that_is_taken_away_is_told_and_not_cancelled(tmp_path: Path, silent: bool) -> None:
    async def main() -> None:
        url = f"ipc://{tmp_path}/control"
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as peer:
            if silent:
                peer.bind(url)
            link = IngestLink(context, url, 60.0)
            asked = asyncio.create_task(link.request("snapshot"))
            if silent:
                await peer.recv_multipart()
            else:
                await asyncio.sleep(0)  # the task has begun: its request waits for a connection
            await link.close()
            with pytest.raises(UnreachableError, match="belong to the farm"):
                await asked

    asyncio.run(main())


def test_two_looks_at_a_time_may_both_find_ingests_gone(tmp_path: Path) -> None:
    now, known = 0.0, {f"ipc://{tmp_path}/{i}" for i in range(4)}

    async def resolving(name: str) -> set[str]:
        return known

    async def main() -> None:
        nonlocal now, known
        link = OpenFarmLink((), 60.0, names=("farm:1",), resolving=resolving, clock=lambda: now)
        try:
            await link.look()
            known, now = set(), LOOKUP_S
            await link.look()  # the name service is asked beside
            for _ in range(20):
                await asyncio.sleep(0)  # turns of the loop, in which it answers
            views = await asyncio.gather(link.look(), link.look(), link.look())
            assert [view.problems for view in views] == [["no ingest was found"]] * 3
        finally:
            await link.close()

    asyncio.run(main())
