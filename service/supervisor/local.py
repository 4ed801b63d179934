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
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from hltfarm.proto.errors import BackendError, ConfigError, HltfarmError, StateError
from hltfarm.proto.messages import RunConfig
from hltfarm.service.control.access import AccessSettings
from hltfarm.service.control.app import create_app
from hltfarm.service.control.context import Context
from hltfarm.service.control.link import FarmLink
from hltfarm.service.control.server import ControlServer, listen, url_of
from hltfarm.service.control.settings import ControlSettings
from hltfarm.service.endpoints import client_endpoints
from hltfarm.service.output.settings import OutputSettings
from hltfarm.service.runcontrol import OPEN
from hltfarm.service.supervisor.leftovers import RuntimeFolder, remove_leftovers
from hltfarm.service.supervisor.policy import Phase, RestartPolicy
from hltfarm.service.supervisor.processes import HOPELESS, Exit, ProcessSpec, Supervisor, describe_exit

log = logging.getLogger(__name__)
HLTFARM = (sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFarmSettings:
    """A farm on one machine. Durations in seconds.

    ingests: shards side by side; clients_url is where the first listens, `client_endpoints` tells where the others do.
    devices: a worker for each of these GPUs, then `workers` is their number; empty: the workers choose. slots: of each ingest.
    batch, deadline_ms, threads: of each worker, as `hltfarm worker` takes them. config: of runs that are told nothing else.
    """

    workers: int
    backend: str
    threads: int
    http: str
    clients_url: str
    config: RunConfig
    data: Path
    ingests: int = 1
    devices: tuple[int, ...] = ()
    batch: int = 0
    deadline_ms: float = 2.0
    first_run: int | None = None
    autostart: bool = True
    slots: int = 256
    output: OutputSettings = field(default_factory=OutputSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    curve: tuple[Path, Path] | None = None  # secret key file and allow-list of the ingests
    insecure: bool = False  # the ingests may listen where others reach them without keys
    drain_s: float = 10.0  # longest wait for the run to end; the ingest forces what is left to the error stream before
    grace_s: float = 10.0  # longest wait for a process to end after SIGTERM
    policy: RestartPolicy = field(default_factory=RestartPolicy)


def ingest_names(ingests: int) -> list[str]:
    """Names of the ingests: of their processes, their sockets and their folders of the error stream."""
    return ["ingest"] if ingests == 1 else [f"ingest-{index}" for index in range(ingests)]


def process_specs(settings: LocalFarmSettings, folder: RuntimeFolder) -> list[ProcessSpec]:
    """The processes of the farm, the ingests first."""
    names = ingest_names(settings.ingests)
    errors, output = settings.data / "errors", settings.output
    consumers = client_endpoints(output.url, settings.ingests) if output.url is not None else [None] * settings.ingests
    ingests = [
        ProcessSpec(
            name=name,
            role="ingest",
            command=(
                *HLTFARM,
                "ingest",
                *("--clients", clients),
                *("--workers", folder.endpoint(f"{name}-workers")),
                *("--control", folder.endpoint(f"{name}-control")),
                *("--ring", str(folder.ring(index))),
                *("--slots", str(settings.slots)),
                *(("--curve-key", str(settings.curve[0]), "--allow", str(settings.curve[1])) if settings.curve is not None else ()),
                *(("--insecure",) if settings.insecure else ()),
                *("--errors", str(errors if settings.ingests == 1 else errors / name)),
                *output.arguments(_own_folder(output.folder, name, settings.ingests), consumers[index]),
            ),
        )
        for index, (name, clients) in enumerate(zip(names, client_endpoints(settings.clients_url, settings.ingests), strict=True))
    ]
    workers = [
        ProcessSpec(
            name=f"worker-{index}",
            role="worker",
            command=(
                *HLTFARM,
                "worker",
                *(option for name in names for option in ("--ingest", folder.endpoint(f"{name}-workers"))),
                *("--name", f"worker-{index}"),
                *("--backend", settings.backend),
                *(("--device", str(settings.devices[index])) if settings.devices else ()),
                *("--threads", str(settings.threads)),
                *("--batch", str(settings.batch)),
                *("--deadline-ms", str(settings.deadline_ms)),
            ),
        )
        for index in range(settings.workers)
    ]
    return [*ingests, *workers]


def _own_folder(folder: Path | None, name: str, ingests: int) -> Path | None:
    """Folder of one ingest: each of several has its own."""
    return folder if folder is None or ingests == 1 else folder / name


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
                database=f"sqlite:///{settings.data.resolve()}/runs.db",
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
            link = FarmLink(control.ingests, control.request_timeout_s)

            broken: asyncio.Future[HltfarmError] = asyncio.get_running_loop().create_future()

            async def on_exit(end: Exit) -> None:
                if end.spec.role == "worker":
                    try:
                        await link.command("worker_lost", worker=end.spec.name)
                    except HltfarmError as error:
                        log.warning("the ingests were not told that %s ended: %s", end.spec.name, error)
                elif end.phase is Phase.QUARANTINED and not broken.done():
                    broken.set_result(_why(end))

            specs = process_specs(settings, folder)
            supervisor = Supervisor(specs, on_exit=on_exit, emit=_print_line, clock=time.monotonic, policy=settings.policy)
            app = create_app(control, link, supervisor=supervisor)
            await _serve(settings, app, supervisor, broken, lambda: started(url_of(listening)), listening)
        finally:
            listening.close()
            folder.remove()


def _why(end: Exit) -> HltfarmError:
    """The error with which a farm ends one of whose ingests cannot be kept running."""
    said = end.last_line.removeprefix("hltfarm: error: ") or end.status
    if end.status == describe_exit(HOPELESS):
        return ConfigError(f"the {end.spec.name} cannot run: {said}")
    return BackendError(f"the {end.spec.name} ended again and again ({end.status}): {said}")


async def _serve(
    settings: LocalFarmSettings,
    app: FastAPI,
    supervisor: Supervisor,
    broken: asyncio.Future[HltfarmError],
    started: Callable[[], None],
    listening: socket.socket,
) -> None:
    server = ControlServer(app)
    ending = Ending()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ending.signal)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http server")
    supervisor.start()
    started()
    tasks = {
        "signal": asyncio.create_task(ending.asked.wait(), name="signal"),
        "supervisor": asyncio.create_task(supervisor.failed(), name="supervisor"),
    }
    try:
        ends: list[asyncio.Future[Any]] = [serving, broken, *tasks.values()]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if ending.asked.is_set():
            await _hurry(_end_run(settings, app), ending)
    finally:
        stopping = asyncio.create_task(supervisor.stop(settings.grace_s), name="stop processes")
        hurried = asyncio.create_task(ending.hurried.wait(), name="second signal")
        await asyncio.wait([stopping, hurried], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            supervisor.kill()
        await stopping
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        for task in (*tasks.values(), hurried):
            task.cancel()
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for number in numbers:
            loop.remove_signal_handler(number)
    if broken.done():
        raise broken.result()
    faults = [result for result in results if isinstance(result, Exception)]
    if faults or not ending.asked.is_set():
        raise BackendError(f"the farm ended by itself: {faults[0] if faults else 'the HTTP server stopped'}")


async def _hurry(work: Coroutine[None, None, None], ending: Ending) -> None:
    """Do the work, or less of it after a second signal."""
    task = asyncio.create_task(work)
    hurried = asyncio.create_task(ending.hurried.wait())
    await asyncio.wait([task, hurried], return_when=asyncio.FIRST_COMPLETED)
    for pending in (task, hurried):
        pending.cancel()
    await asyncio.gather(task, hurried, return_exceptions=True)


async def _end_run(settings: LocalFarmSettings, app: FastAPI) -> None:
    """Stop an open run and wait for its closed ledger."""
    context: Context = app.state.context
    farm = context.farm
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
