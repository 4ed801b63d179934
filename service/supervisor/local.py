"""A whole farm on one machine: ingests and workers as supervised processes, the control plane in this one.

End (SIGTERM, SIGINT): the run is stopped and its ledger closed, then the workers leave, then the ingests, then the HTTP server.
A second signal skips what is left of the waiting.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from hltfarm.proto.errors import BackendError, ConfigError, HltfarmError, StateError
from hltfarm.service.control.app import create_app
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.link import FarmLink
from hltfarm.service.control.server import listen, url_of
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.registry import Registry
from hltfarm.service.registry.database import sqlite_url
from hltfarm.service.runcontrol import OPEN
from hltfarm.service.supervisor.control_host import ControlHost
from hltfarm.service.supervisor.leftovers import RuntimeFolder, remove_leftovers
from hltfarm.service.supervisor.policy import Phase
from hltfarm.service.supervisor.processes import HOPELESS, Exit, Supervisor, describe_exit
from hltfarm.service.supervisor.specs import LocalFarmSettings, ingest_names, process_specs
from hltfarm.service.supervisor.watchdog import Watchdog
from hltfarm.service.supervisor.workers import LocalProcesses

log = logging.getLogger(__name__)
WATCH_S = 1.0  # time between two looks of the watchdog


@contextmanager
def owned(data: Path) -> Iterator[None]:
    """Hold a data folder for this farm alone. Raises ConfigError if it cannot be used or another farm has it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"the data folder {data} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"the data folder {data} belongs to a farm that is running; give another with --data") from None
        yield
    finally:
        os.close(descriptor)


def _print_line(name: str, line: str) -> None:
    sys.stderr.write(f"[{name}] {line}\n")
    sys.stderr.flush()


class Ending:
    """SIGTERM and SIGINT, counted: the first asks for an orderly end, the second for one at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def signal(self) -> None:
        """A signal came."""
        (self.hurried if self.asked.is_set() else self.asked).set()


async def run_local_farm(settings: LocalFarmSettings, started: Callable[[str], None]) -> None:
    """Run the farm until a signal ends it. `started` is given the URL of the API once it listens; call from the main thread.

    Raises ConfigError for settings that cannot work here, BackendError when the farm could not keep running.
    """
    with owned(settings.data):
        listening = listen(settings.http)
        remove_leftovers()
        folder = RuntimeFolder.create()
        try:
            control = ControlSettings(
                ingests=tuple(folder.endpoint(f"{name}-control") for name in ingest_names(settings.ingests)),
                database=sqlite_url(settings.data.resolve() / "runs.db"),
                models=settings.data.resolve() / "models",
                detector=settings.config.detector,
                menu=settings.config.menu,
                model=settings.config.model,
                working_point=settings.config.working_point,
                engine=settings.config.engine,
                event_model=settings.config.event_model,
                first_run=settings.first_run,
                autostart=settings.autostart,
                access=settings.access,
            )
            registry = Registry(control.database, time.time, control.farm)
            link = FarmLink(control.ingests, control.request_timeout_s)  # of the supervisor; every control plane has its own
            try:
                await _run(settings, control, folder, link, registry, listening, started)
            finally:
                await link.close()
                registry.close()
        finally:
            listening.close()
            folder.remove()


async def _run(
    settings: LocalFarmSettings,
    control: ControlSettings,
    folder: RuntimeFolder,
    link: FarmLink,
    registry: Registry,
    listening: socket.socket,
    started: Callable[[str], None],
) -> None:
    broken: asyncio.Future[HltfarmError] = asyncio.get_running_loop().create_future()

    async def on_exit(end: Exit) -> None:
        if end.spec.role == "worker":
            try:
                await link.worker_command("worker_lost", end.spec.name, pid=end.pid)
            except HltfarmError as error:
                log.warning("the ingests were not told that %s ended: %s", end.spec.name, error)
        elif end.phase is Phase.QUARANTINED and not broken.done():
            broken.set_result(_why(end))

    supervisor = Supervisor(
        process_specs(settings, folder), on_exit=on_exit, emit=_print_line, clock=time.monotonic, policy=settings.policy
    )
    processes = LocalProcesses(supervisor, settings, folder)

    def make(monitor_ended: Callable[[BaseException | None], None]) -> FastAPI:
        own = FarmLink(control.ingests, control.request_timeout_s)
        return create_app(control, own, registry, supervisor=processes, monitor_ended=monitor_ended)

    host = ControlHost(make, listening, time.monotonic)
    watchdog = Watchdog(dict(zip(ingest_names(settings.ingests), control.ingests, strict=True)), settings.watchdog)
    await _serve(settings, host, supervisor, _watch(watchdog, supervisor, link), broken, lambda: started(url_of(listening)))


async def _watch(watchdog: Watchdog, supervisor: Supervisor, link: FarmLink) -> None:
    """Kill processes that live and no longer work, until cancelled."""
    while True:
        view = await link.look()
        for wedged in watchdog.observe(view, supervisor.processes(), time.monotonic()):
            supervisor.kill_wedged(wedged.name, wedged.pid, wedged.why)
        await asyncio.sleep(WATCH_S)  # the sampling interval, not a wait for anything


def _why(end: Exit) -> HltfarmError:
    """The error with which a farm ends one of whose ingests cannot be kept running."""
    said = end.last_line.removeprefix("hltfarm: error: ") or end.status
    if end.status == describe_exit(HOPELESS):
        return ConfigError(f"the {end.spec.name} cannot run: {said}")
    return BackendError(f"the {end.spec.name} ended again and again ({end.status}): {said}")


async def _serve(
    settings: LocalFarmSettings,
    host: ControlHost,
    supervisor: Supervisor,
    watchdog: Coroutine[None, None, None],
    broken: asyncio.Future[HltfarmError],
    started: Callable[[], None],
) -> None:
    ending = Ending()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ending.signal)
    serving = asyncio.create_task(host.serve(), name="control plane")
    supervisor.start()
    started()
    tasks = [
        asyncio.create_task(ending.asked.wait(), name="signal"),
        asyncio.create_task(supervisor.failed(), name="supervisor"),
        watching := asyncio.create_task(watchdog, name="watchdog"),
    ]
    try:
        ends: list[asyncio.Future[Any]] = [serving, broken, *tasks]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        if ending.asked.is_set() and host.farm is not None:
            await _hurry(_end_run(settings, host.farm), ending)
    finally:
        stopping = asyncio.create_task(supervisor.stop(settings.grace_s), name="stop processes")
        hurried = asyncio.create_task(ending.hurried.wait(), name="second signal")
        await asyncio.wait([stopping, hurried], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            supervisor.kill()
        await stopping
        host.end()
        results: list[Any] = [*await asyncio.gather(serving, return_exceptions=True)]
        for task in (*tasks, hurried):
            task.cancel()
        results += await asyncio.gather(*tasks, return_exceptions=True)
        for number in numbers:
            loop.remove_signal_handler(number)
    _raise(broken.result() if broken.done() else None, results, ending)


def _raise(broken: HltfarmError | None, results: Sequence[object], ending: Ending) -> None:
    """Say why the farm ended, unless it was asked to."""
    if broken is not None:
        raise broken
    faults = [result for result in results if isinstance(result, Exception)]
    if faults or not ending.asked.is_set():
        raise BackendError(f"the farm ended by itself: {faults[0] if faults else 'a task of the supervisor ended'}")


async def _hurry(work: Coroutine[None, None, None], ending: Ending) -> None:
    """Do the work, or less of it after a second signal."""
    task = asyncio.create_task(work)
    hurried = asyncio.create_task(ending.hurried.wait())
    await asyncio.wait([task, hurried], return_when=asyncio.FIRST_COMPLETED)
    for pending in (task, hurried):
        pending.cancel()
    await asyncio.gather(task, hurried, return_exceptions=True)


async def _end_run(settings: LocalFarmSettings, farm: FarmControl) -> None:
    """Stop an open run and wait for its closed ledger."""
    if (await farm.look()).state not in OPEN:
        return
    try:
        await farm.command("stop")
    except StateError:
        log.info("the run ended by itself")
    except HltfarmError as error:
        log.warning("the run could not be stopped in order: %s", error)
        return
    if not await farm.until(lambda view: view.state not in OPEN, settings.drain_s):
        log.warning("the run did not end within %g s", settings.drain_s)
