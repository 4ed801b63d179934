"""Which ingests take part in a run: who has lost one that goes on by being started again, and whether all have ended it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hltfarm.proto.errors import StateError
from hltfarm.proto.messages import LedgerCounts, RunState, Snapshot
from hltfarm.service.control.link import FarmView
from hltfarm.service.control.merge import add_counts
from hltfarm.service.runcontrol import ADMITTING, OPEN

#: States in which ingests that lost the run may join it again.
JOINABLE = frozenset({RunState.RUNNING, RunState.RUNNING_DEGRADED, RunState.PAUSED})
_WITHOUT_RUN = frozenset({RunState.HALTED, RunState.CONFIGURED})


@dataclass(slots=True)
class Strays:
    """Follows the processes that take part in a run.

    An ingest without a run is a stray while others have one that goes on. Where none has, it is one if it came after the process that took
    part, for then nobody ended the run: its clients wait with their events.
    """

    run: int | None = None
    _part: dict[str, float] = field(default_factory=dict)  # endpoint -> start time of the process that took part
    _before: dict[str, float] = field(default_factory=dict)  # endpoint -> start time of the process before the run was started
    _closed: dict[str, float] = field(default_factory=dict)  # endpoint -> start time of the last process that left with closed books
    _known: set[str] = field(default_factory=set)  # endpoints since the run began, or since it was seen first
    _new: set[str] = field(default_factory=set)  # those that came later
    _earlier: frozenset[str] = frozenset()  # endpoints that an earlier control process counted in the run
    _noted: bool = False

    def begin(self, run: int, view: FarmView) -> None:
        """A run was started; `view`: the farm before that."""
        self.run, self._part, self._before = run, {}, {endpoint: snapshot.started for endpoint, snapshot in _answers(view)}
        self._known, self._new = {ingest.endpoint for ingest in view.ingests}, set()
        self._earlier, self._noted = frozenset(), False

    def adopt(self, run: int | None, endpoints: Iterable[str]) -> None:
        """The open run is one of an earlier control process, which counted events of these ingests."""
        self.observe(FarmView(RunState.ERROR, None, ()), run)
        self._earlier = frozenset(endpoints)

    def observe(self, view: FarmView, run: int | None) -> None:
        """Take note of a look at the farm, whose open run is `run`."""
        if run != self.run:
            self.run, self._part, self._before = run, {}, {}
            self._known, self._new = set(), set()
            self._earlier, self._noted = frozenset(), False
        present = {ingest.endpoint for ingest in view.ingests}
        self._new |= present - self._known if self._known else set()
        self._known |= present
        self._closed |= {left.endpoint: left.snapshot.started for left in view.left if left.snapshot is not None}
        for endpoint, snapshot in _answers(view):
            if run is not None and snapshot.run == run and snapshot.state in OPEN:
                self._part[endpoint] = snapshot.started

    def of(self, view: FarmView) -> list[str]:
        """Endpoints of the ingests to bring into the run."""
        answers = _answers(view)
        if any(snapshot.state in JOINABLE for _, snapshot in answers):
            return [endpoint for endpoint, snapshot in answers if snapshot.state in _WITHOUT_RUN]
        return [endpoint for endpoint, _ in answers] if self.all_lost(view) else []

    def lost_counts(self, view: FarmView) -> bool:
        """Whether one of them may have counted events of the run, which is gone, or one that did belongs to the farm no more.

        One that only missed the start has not, nor has one that came to the farm later, and the books of one that left are known.
        """
        started = {endpoint: snapshot.started for endpoint, snapshot in _answers(view)}
        return self.gone(view) or any(self._lost(endpoint, started.get(endpoint)) for endpoint in self.of(view))

    def gone(self, view: FarmView) -> bool:
        """Whether one that took part belongs to the farm no more, and its books are not known."""
        present = {ingest.endpoint for ingest in view.ingests}
        return any(endpoint not in present and self._closed.get(endpoint) != started for endpoint, started in self._part.items())

    def missing(self, view: FarmView) -> bool:
        """Whether one whom an earlier control process counted is not here: its books are not known."""
        return not self._earlier <= {ingest.endpoint for ingest in (*view.ingests, *view.left)}

    def to_note(self, lost: bool) -> bool:
        """Whether a later control process has to be told that it cannot know all counts of the run: they are `lost`, or of one that left,
        whose books this process alone has. Once.
        """
        left = any(self._closed.get(endpoint) == started for endpoint, started in self._part.items())
        first = (lost or left) and not self._noted
        self._noted |= first
        return first

    def _lost(self, endpoint: str, started: float | None) -> bool:
        if endpoint in self._part:
            return self._closed.get(endpoint) != self._part[endpoint]
        return endpoint not in self._new and self._before.get(endpoint) != started

    def all_lost(self, view: FarmView) -> bool:
        """Whether every ingest that answers was started again since it took part in the run, and is not back in it nor in another."""
        answers = _answers(view)
        return bool(answers) and all(
            snapshot.state in _WITHOUT_RUN
            and snapshot.run in (None, self.run)
            and self._part.get(endpoint, snapshot.started) != snapshot.started
            for endpoint, snapshot in answers
        )


def commands_to_join(view: FarmView, last: str | None) -> tuple[str, ...]:
    """What brings a stray to where the others are; `last`: the last command of the run, if there are no others."""
    states = [snapshot.state for _, snapshot in _answers(view) if snapshot.state in OPEN]
    if states:
        return ("configure", "start") if any(state in ADMITTING for state in states) else ("configure", "start", "pause")
    return ("configure", "start", last) if last in ("pause", "drain") else ("configure", "start")


def check_one_run(view: FarmView) -> None:
    """Raises StateError for ingests that are not configured for one and the same run: a configure did not reach all of them."""
    runs = sorted({snapshot.run or 0 for _, snapshot in _answers(view)})
    if len(runs) > 1:
        told = ", ".join(str(run) for run in runs)
        raise StateError(f"the ingests are configured for different runs: {told}; configure the farm again", ("configure", "reset"))


def whole_ledger(view: FarmView, run: int, counted: Iterable[str] = ()) -> LedgerCounts | None:
    """Ledger of a run that every ingest took part in and has ended; None where one is away, in another run, or not done.

    `counted`: endpoints that an earlier control process knows to have taken part.
    """
    if not {ingest.endpoint for ingest in (*view.ingests, *view.left)}.issuperset(counted):
        return None
    snapshots = [ingest.snapshot for ingest in view.ingests]
    if view.snapshot is None or any(s is None or s.run != run or s.state in OPEN for s in snapshots):
        return None
    return view.snapshot.ledger


def closed_ledger(view: FarmView, run: int) -> LedgerCounts | None:
    """Ledger of a run all of whose ingests left the farm in order; None where one is there, or silent."""
    left = {ingest.endpoint for ingest in view.left}
    books = [book.ledger for book in view.books if book.run == run]
    if not books or any(ingest.snapshot is not None or ingest.endpoint not in left for ingest in view.ingests):
        return None
    return add_counts(books)


def _answers(view: FarmView) -> list[tuple[str, Snapshot]]:
    return [(ingest.endpoint, ingest.snapshot) for ingest in view.ingests if ingest.snapshot is not None]
