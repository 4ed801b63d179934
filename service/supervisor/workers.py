"""The supervisor as the control plane uses it: processes of this machine, and workers that are added while the farm runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import count

from hltfarm.proto.errors import BackendError, ConfigError, LimitError
from hltfarm.service.control.models import AddWorker, ProcessModel
from hltfarm.service.supervisor.leftovers import RuntimeFolder
from hltfarm.service.supervisor.policy import Phase
from hltfarm.service.supervisor.processes import Supervisor
from hltfarm.service.supervisor.specs import LocalFarmSettings, worker_spec

MOST_WORKERS = 256


def check_backend(backend: str) -> None:
    """Raises BackendError for cuda without CuPy (which is not loaded)."""
    if backend == "cuda" and importlib.util.find_spec("cupy") is None:
        raise BackendError("the cuda backend needs CuPy, which is not installed; install hltfarm[cuda], or use cpu or auto")


class LocalProcesses:
    """`Processes` of the control plane, by a supervisor and the settings of its farm."""

    def __init__(self, supervisor: Supervisor, settings: LocalFarmSettings, folder: RuntimeFolder) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._folder = folder

    def processes(self) -> Sequence[ProcessModel]:
        """See `Processes.processes`."""
        return self._supervisor.processes()

    def release(self, name: str) -> bool:
        """See `Processes.release`."""
        return self._supervisor.release(name)

    def leave(self, name: str, then: Phase, *, reason: str = "", now: bool = False) -> None:
        """See `Processes.leave`."""
        self._supervisor.leave(name, then, reason=reason, now=now)

    def add_worker(self, asked: AddWorker) -> str:
        """See `Processes.add_worker`; LimitError beyond MOST_WORKERS."""
        backend = asked.backend or ("cuda" if asked.device is not None else self._settings.backend)
        if asked.device is not None and backend == "cpu":
            raise ConfigError(f"device {asked.device}: a device is a GPU; with the backend cpu there is nothing to choose")
        check_backend(backend)
        names = {process.name for process in self.processes()}
        if len(names) >= MOST_WORKERS:
            raise LimitError(f"{len(names)} processes run here already; delete some, or use another machine")
        name = asked.name or next(name for number in count() if (name := f"worker-{number}") not in names)
        self._supervisor.add(worker_spec(self._settings, self._folder, name, backend=backend, device=asked.device, threads=asked.threads))
        return name
