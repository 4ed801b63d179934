"""What operators do with workers: add, drain, restart, quarantine, release, forget.

A worker whose process this machine's supervisor runs is steered through the supervisor, whose SIGTERM makes it finish what it has and
leave. Any other worker is steered through its ingests, which can take work away from it and ask it to leave, but cannot start a process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from hltfarm.proto.errors import StateError
from hltfarm.proto.messages import WorkerStatus
from hltfarm.service.control.context import Processes
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.models import AddWorker, ProcessModel, WorkerModel
from hltfarm.service.control.transitions import Transition, Verdict
from hltfarm.service.supervisor.policy import Phase

_RUNNING = frozenset({Phase.RUNNING, Phase.WAITING})


def _unsupervised(name: str, wish: str) -> NoReturn:
    raise StateError(f"worker {name!r} cannot be {wish} here: this control does not run its process; use what started it")


class WorkerControl:
    """The workers of one farm. `supervisor`: runs processes of this machine, None where something else does.

    Methods raise KeyError for a worker that is not known, StateError for what its state or its supervision does not allow, and what
    `FarmControl.worker_command` raises. The transitions that they return are followed with `FarmControl.transitions`.
    """

    def __init__(self, farm: FarmControl, supervisor: Processes | None) -> None:
        self._farm = farm
        self._supervisor = supervisor

    # -- who is there ------------------------------------------------------------------------------------------------------

    def processes(self) -> dict[str, ProcessModel]:
        """Supervised worker processes by name."""
        found = self._supervisor.processes() if self._supervisor is not None else ()
        return {process.name: process for process in found if process.role == "worker"}

    async def all(self) -> dict[str, WorkerModel]:
        """Every worker that joined an ingest or is supervised here, by name."""
        view = await self._farm.look(max_age_s=0.1)
        joined = {} if view.snapshot is None else {worker.name: worker for worker in view.snapshot.workers}
        processes = self.processes()
        return {name: WorkerModel.of(joined.get(name), processes.get(name)) for name in sorted({*joined, *processes})}

    async def _known(self, name: str) -> WorkerModel:
        return (await self.all())[name]

    def _process(self, name: str) -> ProcessModel | None:
        return self.processes().get(name)

    # -- commands ----------------------------------------------------------------------------------------------------------

    async def add(self, asked: AddWorker) -> Transition:
        """Start one more worker here; done when it has joined. Raises ConfigError for options that cannot work."""
        if self._supervisor is None:
            raise StateError("this control runs no workers and cannot add one; start `hltfarm worker` beside its ingest")
        name = self._supervisor.add_worker(asked)
        return self._begin("worker_add", name, lambda view: self._joined(name, view))

    async def drain(self, name: str) -> Transition:
        """The worker finishes what it has and leaves; its process is not started again before it is released."""
        worker = await self._known(name)
        if worker.process is not None:
            self._expect(worker.process, _RUNNING, "drained")
            return self._leave(name, "worker_drain", Phase.DRAINED)
        if not worker.up:
            raise StateError(f"worker {name!r} is not connected; there is nothing to drain")
        pid = self._joined_pid(name, self._farm.view)  # before it is told: it may be gone when the command returns
        await self._farm.worker_command("worker_drain", name)
        return self._begin("worker_drain", name, lambda view: view.snapshot is not None and self._joined_pid(name, view) != pid)

    async def restart(self, name: str, now: bool) -> Transition:
        """Drain the worker, or kill it (`now`), and start its process again; done when that has joined."""
        worker = await self._known(name)
        if worker.process is None:
            _unsupervised(name, "restarted")
        self._expect(worker.process, _RUNNING | {Phase.DRAINED} | ({Phase.LEAVING} if now else set()), "restarted")
        before = worker.process.pid
        assert self._supervisor is not None
        self._supervisor.leave(name, Phase.WAITING, now=now)
        return self._begin("worker_restart", name, lambda view: self._joined(name, view, but=before))

    async def quarantine(self, name: str, reason: str) -> Transition:
        """Take the worker out of service until it is released: a supervised one ends, another one gets no more work."""
        worker = await self._known(name)
        if worker.process is not None:
            self._expect(worker.process, _RUNNING | {Phase.DRAINED}, "quarantined")
            return self._leave(name, "worker_quarantine", Phase.QUARANTINED, reason)
        if worker.quarantined:
            raise StateError(f"worker {name!r} is in quarantine already: {worker.quarantined}")
        await self._farm.hold(name, reason)

        def idle(view: FarmView) -> Verdict:
            status = self._status(name, view)
            return view.snapshot is not None and (status is None or (bool(status.quarantined) and not status.in_flight))

        return self._begin("worker_quarantine", name, idle)

    async def release(self, name: str) -> None:
        """Let a worker work again that is quarantined, drained or waits for its restart."""
        worker = await self._known(name)
        if worker.process is not None:
            assert self._supervisor is not None
            if not self._supervisor.release(name):
                raise StateError(f"worker {name!r} is neither quarantined, drained nor waiting for a restart; it is {worker.process.phase}")
        elif worker.quarantined:
            await self._farm.free(name)
        else:
            raise StateError(f"worker {name!r} is not quarantined")

    async def forget(self, name: str) -> Transition:
        """Drain the worker and keep its process no longer."""
        worker = await self._known(name)
        if worker.process is None:
            _unsupervised(name, "deleted")
        self._expect(worker.process, set(Phase) - {Phase.LEAVING}, "deleted")
        assert self._supervisor is not None
        self._supervisor.leave(name, Phase.STOPPED)
        return self._begin("worker_delete", name, lambda view: self._process(name) is None)

    # -- inside ------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _expect(process: ProcessModel, phases: set[Phase] | frozenset[Phase], wish: str) -> None:
        if process.phase not in phases:
            why = f" ({process.reason})" if process.reason else ""
            raise StateError(f"worker {process.name!r} cannot be {wish}: it is {process.phase}{why}")

    def _leave(self, name: str, command: str, then: Phase, reason: str = "") -> Transition:
        assert self._supervisor is not None
        self._supervisor.leave(name, then, reason=reason)

        def there(_view: FarmView) -> Verdict:
            process = self._process(name)
            return process is None or process.phase == then

        return self._begin(command, name, there)

    def _begin(self, command: str, name: str, verdict: Callable[[FarmView], Verdict]) -> Transition:
        return self._farm.transitions.begin_for_worker(command, name, verdict, self._farm.now)

    @staticmethod
    def _status(name: str, view: FarmView) -> WorkerStatus | None:
        workers = view.snapshot.workers if view.snapshot is not None else ()
        return next((worker for worker in workers if worker.name == name), None)

    def _joined_pid(self, name: str, view: FarmView) -> int | None:
        """Process of the worker of that name that is connected, None if there is none."""
        status = self._status(name, view)
        return status.pid if status is not None and status.up else None

    def _joined(self, name: str, view: FarmView, but: int | None = None) -> Verdict:
        """Whether the present process of the worker, another one than `but`, has joined an ingest; a text if it never will."""
        process = self._process(name)
        if process is None:
            return f"worker {name!r} was deleted meanwhile"
        if process.phase in (Phase.QUARANTINED, Phase.DRAINED):
            return f"worker {name!r} is {process.phase}" + (f": {process.reason}" if process.reason else "")
        return process.pid is not None and process.pid != but and self._joined_pid(name, view) == process.pid
