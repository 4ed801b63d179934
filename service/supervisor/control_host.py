"""The control plane inside `serve`: an HTTP server and its monitor of the farm, begun anew when one of them fails.

The processes of the farm do not depend on it: ingests and workers go on with the run, and the next one adopts it from the registry.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TypeAlias

from fastapi import FastAPI

from hltfarm.proto.errors import BackendError, HltfarmError
from hltfarm.service.control.context import Context
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.server import ControlServer
from hltfarm.service.supervisor.policy import RestartPolicy, RestartState

log = logging.getLogger(__name__)
#: Makes the application; what it is given is to be called when its monitor ends.
MakeApp: TypeAlias = Callable[[Callable[[BaseException | None], None]], FastAPI]
#: Never given up: the farm decides events meanwhile.
POLICY = RestartPolicy(quarantine_after=1 << 30)


class ControlHost:
    """Keeps a control plane at a listening socket, which stays the caller's. `clock`: monotonic seconds."""

    def __init__(self, make: MakeApp, listening: socket.socket, clock: Callable[[], float]) -> None:
        self._make = make
        self._listening = listening
        self._clock = clock
        self._state = RestartState(POLICY)
        self._server: ControlServer | None = None
        self._app: FastAPI | None = None
        self._ended = asyncio.Event()

    @property
    def farm(self) -> FarmControl | None:
        """The control of the farm, None while there is none."""
        context: Context | None = getattr(self._app.state, "context", None) if self._app is not None else None
        return None if context is None else context.farm

    @property
    def restarts(self) -> int:
        """How many times it was begun anew."""
        return self._state.restarts

    async def serve(self) -> None:
        """Serve until `end`. Raises BackendError if the first one does not even start, and what making it raises."""
        while not self._ended.is_set():
            served = await self._serve_once()
            if self._ended.is_set():
                return
            if not served and not self._state.restarts:
                raise BackendError("the control plane did not start; the log says why")
            self._state.exited(self._clock())
            assert self._state.due is not None
            delay = self._state.due - self._clock()
            log.error("the control plane ended and is begun anew in %.3g s; data taking goes on", delay)
            try:
                async with asyncio.timeout(delay):
                    await self._ended.wait()
            except TimeoutError:
                continue

    async def _serve_once(self) -> bool:
        """One server with its application. Whether it had started."""

        def monitor_ended(fault: BaseException | None) -> None:
            if fault is not None:
                log.error("the monitor of the farm failed: %s: %s", type(fault).__name__, fault, exc_info=fault)
            server.should_exit = True

        self._state.started(self._clock())
        try:
            self._app = self._make(monitor_ended)
        except HltfarmError as fault:
            if not self._state.restarts:
                raise
            log.error("the control plane cannot be made: %s", fault)  # a file with tokens that somebody edits just now, for instance
            return False
        server = self._server = ControlServer(self._app)
        try:
            with self._listening.dup() as listening:
                await server.serve(sockets=[listening])
        except Exception as fault:
            log.exception("the HTTP server failed: %s", fault)
        finally:
            self._server = self._app = None
        return server.started

    def end(self) -> None:
        """Let the server end; `serve` returns when open requests are answered."""
        self._ended.set()
        if self._server is not None:
            self._server.should_exit = True
