"""A TCP proxy that can stall and break connections: a network that fails, between the clients or the workers and an ingest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from hltfarm.proto.errors import BackendError
from hltfarm.service.farm_process import LOOPBACK

CHUNK = 1 << 16
START_S = 10.0


class Proxy:
    """Forwards connections to a port of this machine, from a thread of its own. Raises BackendError if it cannot listen."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flow: asyncio.Event | None = None  # set: data pass
        self._end: asyncio.Event | None = None
        self._refuse = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name=f"proxy to {target}")
        self._thread.start()
        if not self._up.wait(START_S) or not self.port:
            raise BackendError(f"the proxy to port {target} cannot listen on {LOOPBACK}")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"tcp://{LOOPBACK}:{self.port}"

    def stall(self) -> None:
        """Nothing passes any more, in either direction; connections stay open, as on a link that is down."""
        self._do(lambda: self._gate().clear())

    def drop(self) -> None:
        """Break every connection, with what is on its way, and refuse new ones."""
        self._do(self._drop)

    def heal(self) -> None:
        """All is well again; what waits in open connections arrives."""
        self._do(self._heal)

    def close(self) -> None:
        """Break all connections and end."""
        self._do(lambda: self._end.set() if self._end is not None else None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- in the proxy's thread ---------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], object]) -> None:
        if self._loop is None:
            return
        done = threading.Event()

        def run() -> None:
            work()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(START_S)

    def _gate(self) -> asyncio.Event:
        assert self._flow is not None, "the proxy runs"
        return self._flow

    def _drop(self) -> None:
        self._refuse = True
        for writer in self._writers:
            writer.transport.abort()

    def _heal(self) -> None:
        self._refuse = False
        self._gate().set()

    async def _main(self) -> None:
        self._flow, self._end = asyncio.Event(), asyncio.Event()
        self._flow.set()
        try:
            server = await asyncio.start_server(self._connected, LOOPBACK, 0)
            self.port = server.sockets[0].getsockname()[1]
            self._loop = asyncio.get_running_loop()
        finally:
            self._up.set()
        await self._end.wait()
        server.close()
        self._drop()
        self._flow.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if not self._refuse:
                await self._forward(reader, writer)
        except OSError:
            return  # the other end is gone; both sides see it
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(LOOPBACK, self._target)
        self._writers.add(back)
        ways = [asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._pump(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers.discard(back)
            back.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._gate().wait()
            writer.write(data)
            await writer.drain()
