"""What the request handlers share: one object per app, found through the request, never through a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from hltfarm.service.control.display import Display
from hltfarm.service.control.exchange import Exchange
from hltfarm.service.control.farm import FarmControl
from hltfarm.service.control.history import History
from hltfarm.service.control.library import Library
from hltfarm.service.control.link import Link
from hltfarm.service.control.metrics import ControlNumbers, Supervised
from hltfarm.service.control.models import AddWorker, ProcessModel
from hltfarm.service.security.tokens import Role
from hltfarm.service.supervisor.policy import Phase


class Processes(Protocol):
    """What the control asks of a supervisor on its machine."""

    def processes(self) -> Sequence[ProcessModel]:
        """Every supervised process."""
        ...

    def release(self, name: str) -> bool:
        """Start a quarantined, drained or waiting process now; False if it is neither. Raises KeyError for a name it does not know."""
        ...

    def leave(self, name: str, then: Phase, *, reason: str = "", now: bool = False) -> None:
        """Let a process finish and end (`now`: kill it); `then` follows. Raises KeyError, and StateError if it is leaving already."""
        ...

    def add_worker(self, asked: AddWorker) -> str:
        """Start one more worker and return its name. Raises ConfigError, BackendError, or StateError for a name that is taken."""
        ...


def control_numbers(farm: FarmControl, started: float, refused: Mapping[int, int]) -> ControlNumbers:
    """The control plane's own part of the metrics. `started`: seconds since 1970; `refused`: requests by HTTP status."""
    return ControlNumbers(
        started=started,
        ready=not farm.not_ready(),
        transitions_failed=farm.transitions.failures,
        ingest_restarts=farm.restarts.counts,
        http_refused=refused,
        problems=len(farm.problems),
        registry_up=farm.recorder.problem is None,
        registry_waiting=farm.recorder.pending,
        registry_lost=farm.recorder.lost,
    )


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a request may need. `watching` says whether the monitor of the farm is alive."""

    farm: FarmControl
    library: Library
    exchange: Exchange
    history: History
    link: Link
    display: Display
    version: str
    supervisor: Processes | None
    watching: Callable[[], bool]

    def supervised(self) -> Supervised | None:
        """The supervisor's part of the metrics."""
        if self.supervisor is None:
            return None
        workers = [process for process in self.supervisor.processes() if process.role == "worker"]
        return Supervised(
            restarts={worker.name: worker.restarts for worker in workers},
            quarantined=sum(worker.phase == "quarantined" for worker in workers),
        )


def context_of(request: Request) -> Context:
    """The context that `create_app` put into the app."""
    return cast(Context, request.app.state.context)


ContextDep = Annotated[Context, Depends(context_of)]


def role_of(request: Request) -> Role:
    """What the caller may do; the door of the API has put it there. An open path, where it may be none, has no use for it."""
    return cast(Role, request.state.role)


RoleDep = Annotated[Role, Depends(role_of)]
