"""A farm of two fake ingests that keep real programmes, with its HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from hltfarm.service.control.app import create_app
from hltfarm.service.control.settings import ControlSettings
from hltfarm.workers.menu.menu import DEFAULT_MENU, Menu
from tests.unit.test_control_api import ended
from tests.unit.test_control_shards import ENDPOINTS, TwoIngests

TIGHT = "version: 1\nname: tight\npaths:\n  - {name: HLT_All, prescale: 3}\n"
LOOSE = "version: 1\nname: loose\npaths:\n  - {name: HLT_All}\n"
FIRST = Menu.parse(DEFAULT_MENU).hash
Test = Callable[[httpx.AsyncClient], Awaitable[None]]


class Farm(TwoIngests):
    """Two fake ingests that a test may reach one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (self.parts[endpoint] for endpoint in ENDPOINTS)

    def lumi(self, first: int, second: int) -> None:
        """Lumisections that have begun."""
        self.first.programmes.lumi, self.second.programmes.lumi = first, second

    def programmes(self) -> list[list[tuple[int, str]]]:
        """What decides, by first lumisection, in each ingest."""
        return [[(part.first_lumi, part.menu_hash) for part in link.programmes.told()] for link in (self.first, self.second)]


@asynccontextmanager
async def running(link: Farm, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A farm whose run 1 goes on."""
    async with serving(link, **changes) as client:
        await ended(client, await client.post("/v1/control/configure"))
        assert (await client.post("/v1/control/start")).status_code == 200
        yield client


@asynccontextmanager
async def serving(link: Farm, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(ControlSettings(ingests=ENDPOINTS, poll_s=0.02, **changes), link)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://farm") as client:
        yield client


def run(link: Farm, test: Test, **changes: Any) -> None:
    async def main() -> None:
        async with running(link, **changes) as client:
            await test(client)

    asyncio.run(main())


async def activate(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    return await ended(client, await client.post("/v1/control/activate", json=body))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def menu_hash(text: str) -> str:
    return Menu.parse(text).hash
