"""The control plane inside `serve` is begun anew, whatever it ended with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI

from hltfarm.proto.errors import ConfigError
from hltfarm.service.control.server import listen
from hltfarm.service.supervisor.control_host import ControlHost

Ended = Callable[[BaseException | None], None]


@pytest.mark.parametrize("starting", [False, True])
def test_a_control_plane_that_cannot_begin_again_is_tried_again(starting: bool) -> None:
    made: list[str] = []

    async def main() -> None:
        last = asyncio.Event()

        def make(monitor_ended: Ended) -> FastAPI:
            made.append("asked")
            if len(made) == 2 and not starting:
                raise ConfigError("the tokens file cannot be read: line 3")

            @asynccontextmanager
            async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
                if len(made) == 1:
                    asyncio.get_running_loop().call_soon(monitor_ended, RuntimeError("a fault of the monitor"))
                elif len(made) == 2:
                    raise ValueError("a fault at the start")
                else:
                    last.set()
                yield

            return FastAPI(lifespan=lifespan)

        with listen("127.0.0.1:0") as listening:
            host = ControlHost(make, listening, time.monotonic)
            serving = asyncio.create_task(host.serve())
            async with asyncio.timeout(20):
                await last.wait()
                host.end()
                await serving
            assert host.restarts == 2

    asyncio.run(main())
    assert made == ["asked"] * 3


def test_what_is_wrong_from_the_first_ends_the_farm() -> None:
    def make(_ended: Ended) -> FastAPI:
        raise ConfigError("the tokens file cannot be read: line 3")

    async def main() -> None:
        with listen("127.0.0.1:0") as listening:
            await ControlHost(make, listening, time.monotonic).serve()

    with pytest.raises(ConfigError, match="line 3"):
        asyncio.run(main())
