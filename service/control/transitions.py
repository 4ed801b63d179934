"""Long transitions: what was asked, whether it is done. Pure; `now` is in seconds of a monotonic clock."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from hltfarm.proto.messages import RunState
from hltfarm.service.control.link import FarmView
from hltfarm.service.runcontrol import OPEN

#: Commands that answer before they are done.
LONG = frozenset({"configure", "drain", "stop"})
#: Others that do, as `begin` and `begin_for_worker` are given them.
ALSO_LONG = frozenset({"activate", "rollback", *(f"worker_{op}" for op in ("add", "drain", "restart", "quarantine", "delete"))})
KEPT = 256
#: Whether a transition is done; a text if it never will be.
Verdict: TypeAlias = bool | str


class Progress(StrEnum):
    """How far a transition is."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One command on its way. `began`, `ended`: monotonic seconds. `worker`, `verdict`: of a command that concerns one worker."""

    id: str
    command: str
    run: int | None
    progress: Progress
    began: float
    ended: float | None = None
    error: str | None = None
    worker: str | None = None
    verdict: Callable[[FarmView], Verdict] | None = field(default=None, repr=False, compare=False)
    driven: bool = False  # looks at the farm do not tell when it is done; who began it calls `finish`
    lumisection: int | None = None  # from which an exchange counts


def reached(command: str, run: int | None, view: FarmView) -> bool:
    """Whether the farm is where `command` was to bring it."""
    if view.snapshot is None:
        return False
    if command == "configure":
        # The first worker that has built it settles that it can be built; an ingest without workers is configured for those that come.
        parts = [ingest.snapshot for ingest in view.ingests if ingest.snapshot is not None]
        built = all(part.menu_hash or not any(worker.up for worker in part.workers) for part in parts)
        present = view.state is RunState.CONFIGURED or view.state in OPEN  # somebody may have started the run by now
        return present and view.snapshot.run == run and built
    if any(ingest.snapshot is None for ingest in view.ingests):
        return False  # it may be taking events; it is told when it is back
    if command == "drain":
        # Licensed events may be on their way until the clients confirm that their licence is withdrawn.
        empty = view.snapshot.ledger.in_flight == 0 and not view.snapshot.info.get("reserved_events")
        return view.state not in OPEN or (view.state is RunState.DRAINING and empty)
    return view.state not in OPEN


def _waits(command: str, view: FarmView) -> bool:
    """Whether the farm is in Error for no more than an ingest that is away, which has the end of the run before it."""
    states = [ingest.snapshot.state for ingest in view.ingests if ingest.snapshot is not None]
    return command in ("drain", "stop") and len(states) < len(view.ingests) and RunState.ERROR not in states


class Transitions:
    """The transitions of a control process, the latest KEPT of them."""

    def __init__(self, timeout_s: float) -> None:
        self.failures = dict.fromkeys(sorted(LONG | ALSO_LONG), 0)  #: command -> how often it failed since this process started
        self._timeout_s = timeout_s
        self._all: OrderedDict[str, Transition] = OrderedDict()
        self._news: dict[str, Transition] = {}

    def news(self) -> list[Transition]:
        """What began or ended since the last call, as it is now."""
        news, self._news = list(self._news.values()), {}
        return news

    def begin(self, command: str, run: int | None, now: float, *, driven: bool = False) -> Transition:
        """A new transition."""
        return self._add(
            Transition(id=uuid.uuid4().hex[:12], command=command, run=run, progress=Progress.PENDING, began=now, driven=driven)
        )

    def begin_for_worker(self, command: str, worker: str, verdict: Callable[[FarmView], Verdict], now: float) -> Transition:
        """A new transition of one worker, which the state of the run does not touch; `verdict` judges every look at the farm."""
        return self._add(
            Transition(
                id=uuid.uuid4().hex[:12],
                command=command,
                run=None,
                progress=Progress.PENDING,
                began=now,
                worker=worker,
                verdict=verdict,
            )
        )

    def _add(self, transition: Transition) -> Transition:
        self._all[transition.id] = self._news[transition.id] = transition
        while len(self._all) > KEPT:
            self._all.popitem(last=False)
        return transition

    def observe(self, view: FarmView, now: float) -> None:
        """Complete or fail what is pending, from a look at the farm."""
        for item in self.pending():
            if item.driven:
                continue
            if item.verdict is not None:
                self._judge(item, item.verdict(view), now)
            elif reached(item.command, item.run, view):
                self._end(item, Progress.DONE, now)
            elif view.state is RunState.ERROR and view.snapshot is not None and not _waits(item.command, view):
                self._end(item, Progress.FAILED, now, "; ".join(view.problems) or "the farm went into Error")
            elif now - item.began > self._timeout_s:
                problems = "".join(f"; {problem}" for problem in view.problems)
                self._end(item, Progress.FAILED, now, f"not completed within {self._timeout_s:g} s; the farm is {view.state}{problems}")

    def _judge(self, item: Transition, verdict: Verdict, now: float) -> None:
        if isinstance(verdict, str):
            self._end(item, Progress.FAILED, now, verdict)
        elif verdict:
            self._end(item, Progress.DONE, now)
        elif now - item.began > self._timeout_s:
            self._end(item, Progress.FAILED, now, f"not completed within {self._timeout_s:g} s")

    def finish(self, transition_id: str, now: float, error: str | None, lumisection: int | None = None) -> None:
        """A driven transition ended; without effect on one that was given up."""
        item = self._all.get(transition_id)
        if item is not None and item.progress is Progress.PENDING:
            self._end(replace(item, lumisection=lumisection), Progress.DONE if error is None else Progress.FAILED, now, error)

    def abandon(self, reason: str, now: float) -> None:
        """Fail every pending transition of the run."""
        for item in self.pending():
            if item.worker is None:
                self._end(item, Progress.FAILED, now, reason)

    def pending(self) -> list[Transition]:
        """Transitions that are neither done nor failed."""
        return [item for item in self._all.values() if item.progress is Progress.PENDING]

    def get(self, transition_id: str) -> Transition | None:
        """A transition by its id, None if it is unknown or too old."""
        return self._all.get(transition_id)

    def _end(self, item: Transition, progress: Progress, now: float, error: str | None = None) -> None:
        self._all[item.id] = self._news[item.id] = replace(item, progress=progress, ended=now, error=error)
        if progress is Progress.FAILED:
            self.failures[item.command] += 1
