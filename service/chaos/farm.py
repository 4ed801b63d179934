"""The farm that faults are put into: real processes, with short time-outs, orders for faults and, where wanted, a network that fails."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.sample_folder import sample_files
from hltfarm.proto.errors import BackendError
from hltfarm.service.api import POLL_S, FarmApi, FarmError
from hltfarm.service.bench.cpu import farm_processes
from hltfarm.service.chaos.disk import SmallDisk
from hltfarm.service.chaos.leftovers import Footprints
from hltfarm.service.chaos.plan import Timing
from hltfarm.service.chaos.proxy import Proxy
from hltfarm.service.endpoints import client_endpoints
from hltfarm.service.farm_process import LOOPBACK, farm_process, free_ports, watcher
from hltfarm.service.supervisor.processes import LAUNCHER
from hltfarm.service.supervisor.specs import HLTFARM
from hltfarm.workers.faults import VARIABLE, give

READY_S = 120.0
STOP_S = 20.0
TURN_S = 0.02
#: Folders below the data folder that can be on small disks of their own.
DISKS = {"errors": 64, "output": 256}  # MB
RESERVE = "1M"  # of a small disk


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmSettings:
    """A farm for chaos. folder: for its data and logs."""

    folder: Path
    workers: int = 2
    ingests: int = 1
    backend: str = "cpu"
    detector: str = "phase1"
    menu: Path | None = None
    timing: Timing = field(default_factory=Timing)
    proxied: bool = False  # clients reach the ingests through proxies
    small_disk: bool = False  # the error stream and the output go to disks that can be filled

    @property
    def faults(self) -> Path:
        """The file with the workers' orders."""
        return self.folder / "faults.json"

    @property
    def data(self) -> Path:
        """Data folder of the farm."""
        return self.folder / "data"

    @property
    def threads(self) -> int:
        """CPU threads of a worker."""
        return max(1, len(os.sched_getaffinity(0)) // self.workers)

    def environment(self) -> dict[str, str]:
        """What the farm's processes are told through their environment."""
        return {
            VARIABLE: str(self.faults),
            "HLTFARM_INGEST_WORKER_TIMEOUT_S": str(self.timing.worker_timeout_s),
            "HLTFARM_INGEST_BATCH_TIMEOUT_S": str(self.timing.batch_timeout_s),
            "HLTFARM_WORKER_HANG_S": str(self.timing.hang_s),
        }


class Farm(ABC):
    """A running farm.

    ingests: where clients connect; doors: the ports behind, without proxies between. disks: those of DISKS, if they are small ones.
    """

    def __init__(
        self, settings: FarmSettings, http: int, doors: Sequence[int], proxies: Sequence[Proxy], disks: Mapping[str, SmallDisk]
    ) -> None:
        self.settings = settings
        self.url = f"http://{LOOPBACK}:{http}"
        self.api = FarmApi(self.url)
        self.doors = tuple(doors)
        self.proxies = tuple(proxies)
        self.ingests = tuple(proxy.url for proxy in proxies) or tuple(f"tcp://{LOOPBACK}:{port}" for port in doors)
        self.worker_proxies: tuple[Proxy, ...] = ()
        self.disks = disks
        self.footprints = Footprints()

    @abstractmethod
    def workers(self) -> dict[str, int]:
        """Process ids of the workers that run, by name."""

    @abstractmethod
    def ingest_pids(self) -> list[int]:
        """Process ids of the ingests."""

    @abstractmethod
    def roots(self) -> list[int]:
        """Process ids from which all of the farm descend."""

    @abstractmethod
    def check(self) -> None:
        """Raise HltfarmError if a process is gone without which nothing goes on."""

    @abstractmethod
    def turn(self) -> None:
        """What the main thread has to do now and then while others make faults."""

    def kill(self, pid: int) -> None:
        """SIGKILL to a worker or an ingest; it is started again."""
        os.kill(pid, signal.SIGKILL)

    def restart_control(self, pause_s: float) -> None:
        """SIGKILL to the control plane, and start it again after a pause."""
        raise BackendError("the control plane of this farm is its supervisor too; it cannot be killed alone")

    def look(self) -> None:
        """Note which processes and segments there are, to ask for them at the end."""
        self.footprints.look(self.roots())

    def ready(self) -> None:
        """Wait until a run takes events and all workers are there; quarantined ones are released. Raises FarmError after READY_S."""
        deadline = time.monotonic() + READY_S
        if self.api.status()["state"] == "Configured":
            self.api.command("start", READY_S)
        self.api.wait_ready(READY_S, self.check)
        while (status := self.api.status())["workers_ready"] < self.settings.workers or len(self.workers()) < self.settings.workers:
            self.check()
            self.release_quarantined()
            if time.monotonic() > deadline:
                raise FarmError(f"{status['workers_ready']} of {self.settings.workers} workers are ready: {'; '.join(status['problems'])}")
            time.sleep(POLL_S)  # the interval of asking
        self.look()

    def release_quarantined(self) -> None:
        """Start the workers again that were taken out after too many exits, as an operator would."""
        for worker in self.api.workers():
            if worker["process"] is not None and worker["process"]["phase"] == "quarantined":
                self.api.release(worker["name"])

    def bundled(self, run: int) -> list[int]:
        """Numbers of the events in the bundles of a run's error stream."""
        found = (self.settings.data / "errors").rglob(f"run{run:06d}/[!.]*/bundle.json")  # with a dot: being written
        return [event["event"] for path in found for event in json.loads(path.read_text())["events"]]

    def kept(self, run: int) -> dict[str, list[int]]:
        """Numbers of the events in the output files of a run, by stream. Raises SampleError for a file that is damaged."""
        found: dict[str, list[int]] = {}
        for folder in self._outputs(run):
            for path in sample_files(folder):
                found.setdefault(path.parent.name, []).extend(event.id.event for event in Sample(path))
        return found

    def unfinished(self, run: int) -> list[str]:
        """Output files of a run that are not closed, or have no sidecar."""
        files = [path for folder in self._outputs(run) for path in folder.rglob("*.hlt*")]
        return [path.name for path in files if path.suffix != ".hlt" or not path.with_suffix(".json").exists()]

    def forget_outputs(self, run: int) -> None:
        """Remove the output files of a run, so that many rounds fit on the disk."""
        for folder in self._outputs(run):
            shutil.rmtree(folder)

    def _outputs(self, run: int) -> list[Path]:
        return sorted((self.settings.data / "output").rglob(f"run{run:06d}/"))


class ServeFarm(Farm):
    """`hltfarm serve`."""

    def __init__(
        self, settings: FarmSettings, process: subprocess.Popen[bytes], check: Callable[[], None], http: int, doors: Sequence[int],
        proxies: Sequence[Proxy], disks: Mapping[str, SmallDisk],
    ) -> None:  # fmt: skip
        super().__init__(settings, http, doors, proxies, disks)
        self._process, self._check = process, check

    def workers(self) -> dict[str, int]:
        found = ((worker["name"], worker["process"]) for worker in self.api.workers())
        return {name: process["pid"] for name, process in found if process is not None and process["pid"] is not None}

    def ingest_pids(self) -> list[int]:
        return sorted(pid for pid, role in farm_processes(self._process.pid).items() if role == "ingest")

    def roots(self) -> list[int]:
        return [self._process.pid]

    def check(self) -> None:
        self._check()

    def turn(self) -> None:
        """Nothing: the supervisor starts processes."""


class RolesFarm(Farm):
    """The roles as processes of their own, as containers run them: the control plane can be killed alone.

    `check` starts workers, and what was killed, again, as whoever runs containers does; what ended otherwise is an error.
    """

    def __init__(
        self,
        settings: FarmSettings,
        http: int,
        doors: Sequence[int],
        proxies: Sequence[Proxy],
        disks: Mapping[str, SmallDisk],
        ends: ExitStack,
    ) -> None:
        super().__init__(settings, http, doors, proxies, disks)
        self._ends = ends
        self._http = http
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments: dict[str, tuple[str, ...]] = {}
        self._killed: set[int] = set()
        self._launches: queue.Queue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]] = queue.Queue()
        self._lock = threading.Lock()  # faults that strike together are made by threads
        ports = free_ports(2 * len(doors))
        workers_ports, control_ports = ports[: len(doors)], ports[len(doors) :]
        self._control_urls = [f"tcp://{LOOPBACK}:{port}" for port in control_ports]
        self.worker_proxies = tuple(ends.enter_context(Proxy(port)) for port in workers_ports)
        for index, (port, workers, control) in enumerate(zip(doors, workers_ports, self._control_urls, strict=True)):
            name = f"ingest-{index}"
            # a ring of the same name for the next process: it removes that of one that was killed
            ring = f"/dev/shm/hltfarm-chaos-{os.getpid()}-{http}-{index}"
            self._start(
                name, "ingest", "--clients", f"tcp://{LOOPBACK}:{port}", "--workers", f"tcp://{LOOPBACK}:{workers}", "--control", control,
                "--ring", ring, "--errors", str(settings.data / "errors" / name), "--output", str(settings.data / "output" / name),
            )  # fmt: skip
        ingests = [word for proxy in self.worker_proxies for word in ("--ingest", proxy.url)]
        for index in range(settings.workers):
            self._start(
                f"worker-{index}", "worker", *ingests, "--name", f"worker-{index}", "--backend", settings.backend,
                "--threads", str(settings.threads),
            )  # fmt: skip
        self._start_control()

    def _start_control(self) -> None:
        database = f"sqlite:///{(self.settings.data / 'runs.db').resolve()}"
        menu = ("--menu", str(self.settings.menu)) if self.settings.menu is not None else ()
        self._start(
            "control", "control", *(word for url in self._control_urls for word in ("--ingest", url)), "--http", f"{LOOPBACK}:{self._http}",
            "--database", database, "--detector", self.settings.detector, *menu, "--autostart",
        )  # fmt: skip

    def _start(self, name: str, *arguments: str) -> None:
        self._arguments[name] = arguments
        log = self._ends.enter_context((self.settings.folder / f"{name}.log").open("ab"))
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *HLTFARM, *arguments]
        environment = {**os.environ, **self.settings.environment()}

        def launch() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment)

        if threading.current_thread() is threading.main_thread():
            self._processes[name] = launch()
            return
        asked: Future[subprocess.Popen[bytes]] = Future()
        self._launches.put((launch, asked))  # a process ends with the thread that starts it: see the launcher
        self._processes[name] = asked.result()

    def turn(self) -> None:
        try:
            launch, asked = self._launches.get(timeout=TURN_S)
        except queue.Empty:
            return
        try:
            asked.set_result(launch())
        except OSError as error:
            asked.set_exception(error)

    def workers(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items() if name.startswith("worker") and process.poll() is None}

    def ingest_pids(self) -> list[int]:
        return [process.pid for name, process in self._processes.items() if name.startswith("ingest")]

    def roots(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def kill(self, pid: int) -> None:
        with self._lock:
            self._killed.add(pid)
            super().kill(pid)

    def release_quarantined(self) -> None:
        """Nobody is ever quarantined without a supervisor."""

    def check(self) -> None:
        with self._lock:
            self._check()

    def _check(self) -> None:
        for name, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            if process.pid in self._killed or name.startswith("worker"):  # a worker ends by itself when a batch hangs
                self._start(name, *self._arguments[name])
            else:
                log = self.settings.folder / f"{name}.log"
                said = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise FarmError(f"the {name} ended with exit code {process.returncode}: {''.join(said) or 'it said nothing'} (see {log})")

    def restart_control(self, pause_s: float) -> None:
        old = self._processes["control"]
        with self._lock:
            del self._processes["control"]
        old.kill()
        old.wait()
        time.sleep(pause_s)  # the farm without its control plane is what is tried here
        with self._lock:
            self._start_control()

    def end(self) -> list[str]:
        """End the processes in order: workers, ingests, control. Returns what did not end as it should, in words."""
        found = []
        for role in ("worker", "ingest", "control"):
            group = {name: process for name, process in self._processes.items() if name.startswith(role)}
            for process in group.values():
                process.send_signal(signal.SIGTERM)
            for name, process in group.items():
                try:
                    code = process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    code = process.wait()
                if code:
                    found.append(f"the {name} ended with exit code {code} (see {self.settings.folder / name}.log)")
        return found


@contextmanager
def chaos_farm(settings: FarmSettings, roles: bool, left: list[str]) -> Iterator[Farm]:
    """A farm that takes events, until the end of the block; it is ended in order. What is left of it then goes to `left`, in words.

    roles: single roles instead of `hltfarm serve`. Call it from the main thread. Raises HltfarmError if the farm does not start.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    settings.data.mkdir(exist_ok=True)
    give(settings.faults, [])
    with ExitStack() as ends:
        http, *doors = free_ports(1 + settings.ingests)
        disks = (
            {name: ends.enter_context(SmallDisk(settings.data / name, size)) for name, size in DISKS.items()} if settings.small_disk else {}
        )
        proxies = [ends.enter_context(Proxy(port)) for port in doors] if settings.proxied else []
        farm: Farm
        if roles:
            farm = RolesFarm(settings, http, doors, proxies, disks, ends)
            try:
                _wait_for_api(farm)
                yield farm
            finally:
                farm.look()
                left += farm.end()
                farm.api.close()
        else:
            log = settings.folder / "serve.log"
            with farm_process(_serve_arguments(settings, http, doors[0]), log, settings.environment()) as process:
                farm = ServeFarm(settings, process, watcher(process, log), http, doors, proxies, disks)
                try:
                    _wait_for_api(farm)
                    yield farm
                finally:
                    farm.look()
                    farm.api.close()
            if process.returncode:
                left.append(f"the farm ended with exit code {process.returncode} (see {log})")
        left += farm.footprints.left()


def _wait_for_api(farm: Farm) -> None:
    farm.api.wait_ready(READY_S, farm.check)


def _serve_arguments(settings: FarmSettings, http: int, door: int) -> list[str]:
    first = f"tcp://{LOOPBACK}:{door}"
    assert len(client_endpoints(first, settings.ingests)) == settings.ingests
    arguments = [*("--http", f"{LOOPBACK}:{http}"), *("--ingest", first), *("--ingests", str(settings.ingests))]
    arguments += [*("--workers", str(settings.workers)), *("--backend", settings.backend), *("--threads", str(settings.threads))]
    arguments += [*("--data", str(settings.data)), *("--detector", settings.detector)]
    arguments += ["--output-reserve", RESERVE] if settings.small_disk else []
    return [*arguments, *(("--menu", str(settings.menu)) if settings.menu is not None else ())]
