"""Role `control`: the control plane alone, for ingests and workers that something else runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from hltfarm.service.control.app import create_app
from hltfarm.service.control.link import FarmLink
from hltfarm.service.control.server import ControlServer, listen, url_of
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.security.keys import ClientCurve


async def run_control(settings: ControlSettings, http: str, started: Callable[[str], None], curve: ClientCurve | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the run goes on without it. `started` is given the URL.

    curve: keys for the tcp endpoints of ingests. Raises ConfigError for unusable settings.
    """
    listening = listen(http)
    try:
        server = ControlServer(create_app(settings, FarmLink(settings.ingests, settings.request_timeout_s, curve)))
        loop = asyncio.get_running_loop()

        def end() -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        started(url_of(listening))
        await server.serve(sockets=[listening])
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    finally:
        listening.close()
