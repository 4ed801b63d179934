"""Role `control`: the control plane alone, for ingests and workers that something else runs."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from hltfarm.proto.errors import BackendError
from hltfarm.service.control.app import create_app
from hltfarm.service.control.open_farm import OpenFarmLink
from hltfarm.service.control.server import ControlServer, listen, url_of
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.registry import Registry
from hltfarm.service.security.keys import ClientCurve


async def run_control(settings: ControlSettings, http: str, started: Callable[[str], None], curve: ClientCurve | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the run goes on without it. `started` is given the URL.

    curve: keys for the tcp endpoints of ingests. Raises ConfigError for unusable settings, DatabaseError for a registry that cannot be
    opened, BackendError if the monitor of the farm fails: whoever runs this process then starts it again.
    """
    registry = Registry(settings.database, time.time, settings.farm)
    try:
        with listen(http) as listening:
            faults: list[BaseException | None] = []

            def monitor_ended(fault: BaseException | None) -> None:
                faults.append(fault)
                server.should_exit = True

            names, forget_s = settings.ingest_names, settings.forget_ingest_s
            link = OpenFarmLink(settings.ingests, settings.request_timeout_s, curve, names=names, forget_s=forget_s)
            server = ControlServer(create_app(settings, link, registry, monitor_ended=monitor_ended))
            loop = asyncio.get_running_loop()

            def end() -> None:
                server.should_exit = True

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, end)
            started(url_of(listening))
            await server.serve(sockets=[listening])
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            if faults:
                why = f"{type(faults[0]).__name__}: {faults[0]}" if faults[0] is not None else "it ended by itself"
                raise BackendError(f"the monitor of the farm failed: {why}") from faults[0]
    finally:
        registry.close()
