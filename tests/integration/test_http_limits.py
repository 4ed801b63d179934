"""The real HTTP server against rude peers: heads that never end, too many connections, heads too large."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from hltfarm.proto.messages import RunState
from hltfarm.service.control.app import create_app
from hltfarm.service.control.server import HEADER_BYTES, ControlServer, listen, url_of
from hltfarm.service.control.settings import ControlSettings
from tests.unit.farm_fake import ENDPOINT, FakeLink

PATIENCE_S = 0.2
DEADLINE_S = 20.0
REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"


@asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[tuple[str, int]]:
    listening = listen("127.0.0.1:0")
    app = create_app(ControlSettings(ingests=(ENDPOINT,)), FakeLink(RunState.HALTED))
    server = ControlServer(app, **limits)  # type: ignore[arg-type]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield url_of(listening), listening.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listening.close()


def run(test: Callable[[str, int], Awaitable[None]], **limits: float) -> None:
    async def whole() -> None:
        async with serving(**limits) as (url, port), asyncio.timeout(DEADLINE_S):
            await test(url, port)

    asyncio.run(whole())


async def live(url: str) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{url}/v2/health/live")).status_code


async def dripped(port: int, begin: bytes, drip: bytes) -> bytes:
    """Send the beginning, then a little again and again until the server has had enough; what it answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(begin)
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S / 10):
                    data = await reader.read(65536)
            except TimeoutError:
                writer.write(drip)
                continue
            if not data:
                return answer
            answer += data
    except ConnectionError:
        return answer
    finally:
        writer.close()


def test_heads_that_never_end_are_cut_off() -> None:
    """All of them at once; a well-behaved client is served meanwhile and afterwards."""

    async def test(url: str, port: int) -> None:
        silent = dripped(port, b"", b"")
        slow = [dripped(port, REQUEST, b"X-A: b\r\n") for _ in range(10)]
        *answers, status = await asyncio.gather(silent, *slow, live(url))
        assert status == 200
        assert answers == [b""] * 11
        assert await live(url) == 200

    run(test, headers_s=PATIENCE_S)


def test_a_second_head_that_never_ends_is_cut_off_too() -> None:
    async def test(url: str, port: int) -> None:
        answer = await dripped(port, REQUEST + b"\r\n" + REQUEST, b"X-A: b\r\n")
        assert answer.count(b"HTTP/1.1 200") == 1

    run(test, headers_s=PATIENCE_S)


def test_the_rest_of_an_answered_request_is_not_waited_for() -> None:
    async def test(url: str, port: int) -> None:
        answer = await dripped(port, REQUEST + b"Content-Length: 1000000\r\n\r\n", b"x")
        assert answer.count(b"HTTP/1.1 200") == 1

    run(test, headers_s=PATIENCE_S)


def test_connections_have_a_number_and_recover() -> None:
    async def test(url: str, port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        assert await live(url) == 503
        for _reader, writer in idle:
            writer.close()
            await writer.wait_closed()
        while await live(url) != 200:
            await asyncio.sleep(0.01)

    run(test, connections=8)


def test_large_heads_are_refused() -> None:
    async def test(url: str, port: int) -> None:
        answer = await dripped(port, REQUEST + b"X-A: " + b"a" * (2 * HEADER_BYTES), b"a")
        assert answer.startswith(b"HTTP/1.1 400")
        assert await live(url) == 200

    run(test)
