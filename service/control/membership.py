"""Which ingests belong to a farm whose ingests come and go, and what remains of those that left. Pure; time is an argument (seconds).

Fixed endpoints belong to it always. One that was discovered (a name service knows it) belongs to it from its first answer on, until it

- left: it was told to end, its run is closed there, and a look saw that. Its counters stay in the sums of the farm;
- is silent for `forget_s`: it does not hold up the next run then. What it had counted is missing, and the run that it had ends as
  interrupted. It is asked on as long as the name service knows it, and belongs to the farm again when it answers.

An answer of the name service therefore adds ingests and never takes one away that answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from hltfarm.proto.messages import LedgerCounts, Snapshot
from hltfarm.service.control.link import FarmView, IngestView, view_of
from hltfarm.service.control.merge import closed_books, leaving, merge
from hltfarm.service.runcontrol import OPEN


def has_left(snapshot: Snapshot) -> bool:
    """Whether an ingest takes part in no run any more and has closed its books."""
    return leaving(snapshot) and snapshot.state not in OPEN


@dataclass(slots=True)
class _Member:
    """`answered`: when it did last, None before it did for the first time."""

    fixed: bool
    named: bool
    answered: float | None = None
    leaving: bool = False


class Membership:
    """The ingests of one farm. `fixed`: endpoints that were given; `forget_s`: silence after which a discovered one is given up."""

    def __init__(self, fixed: Iterable[str], forget_s: float = 30.0) -> None:
        self._known = {endpoint: _Member(fixed=True, named=True) for endpoint in fixed}
        self._forget_s = forget_s
        self._left: dict[str, IngestView] = {}  # the last process that left, by endpoint
        self._older: dict[int | None, Snapshot] = {}  # of earlier ones, by run
        self.trouble: str | None = None  #: why the name service cannot be asked

    @property
    def known(self) -> frozenset[str]:
        """Endpoints to have a connection to."""
        return frozenset(self._known)

    def members(self, now: float) -> tuple[str, ...]:
        """Endpoints that commands and looks go to and wait for."""
        return tuple(endpoint for endpoint, member in self._known.items() if self._belongs(member, now))

    def addressed(self, now: float) -> tuple[str, ...]:
        """Members to give commands to: those that do not leave, unless all do."""
        members = self.members(now)
        return tuple(endpoint for endpoint in members if not self._known[endpoint].leaving) or members

    def candidates(self, now: float) -> tuple[str, ...]:
        """Endpoints that may become members when they answer."""
        return tuple(endpoint for endpoint, member in self._known.items() if not self._belongs(member, now))

    def _belongs(self, member: _Member, now: float) -> bool:
        return member.fixed or (member.answered is not None and now - member.answered <= self._forget_s)

    def named(self, endpoints: Iterable[str], now: float) -> None:
        """The name service knows these, and no others."""
        present = set(endpoints)
        for endpoint in sorted(present - self._known.keys()):
            self._known[endpoint] = _Member(fixed=False, named=True)
        for endpoint, member in list(self._known.items()):
            member.named = member.fixed or endpoint in present
            if not member.named and not self._belongs(member, now):
                del self._known[endpoint]

    def answered(self, endpoint: str, snapshot: Snapshot, now: float) -> None:
        """An ingest answered; the books of one that left are kept."""
        member = self._known.get(endpoint)
        if member is None:
            return
        member.leaving = leaving(snapshot)
        if not has_left(snapshot):
            member.answered = now
            return
        member.answered = None
        before = self._left.get(endpoint)
        if before is not None and before.snapshot is not None and before.snapshot.started != snapshot.started:
            self._put_away(before.snapshot)
        self._left[endpoint] = IngestView(endpoint, snapshot)

    def _put_away(self, snapshot: Snapshot) -> None:
        """Add it to the book of its run; those of runs before are one, whose ledgers nobody needs any more."""
        self._add(closed_books(snapshot))
        newest = max((run for run in self._older if run is not None), default=None)
        for run in [run for run in self._older if run not in (None, newest)]:
            self._add(msgspec.structs.replace(self._older.pop(run), run=None, ledger=LedgerCounts(), programmes=(), lumi=0))

    def _add(self, book: Snapshot) -> None:
        same = self._older.get(book.run)
        self._older[book.run] = book if same is None else closed_books(merge([same, book]))

    def _forget_who_left(self, latest: int) -> None:
        """The farm is in run `latest`: who left an earlier one, and has an address that is known no more, is seen no more."""
        for endpoint, left in list(self._left.items()):
            if endpoint not in self._known and left.snapshot is not None and (left.snapshot.run or 0) < latest:
                self._put_away(left.snapshot)
                del self._left[endpoint]

    def view(self, views: Sequence[IngestView], now: float) -> FarmView:
        """The farm, given what its members said."""
        for view in views:
            if view.snapshot is not None:
                self.answered(view.endpoint, view.snapshot, now)
        shown = [self._shown(view) for view in views if (member := self._known.get(view.endpoint)) and self._belongs(member, now)]
        self._forget_who_left(max((view.snapshot.run or 0 for view in shown if view.snapshot is not None), default=0))
        books = [closed_books(view.snapshot) for view in self._left.values() if view.snapshot is not None]
        return view_of(shown, tuple(self._left.values()), [*books, *self._older.values()], self._remarks(now))

    def _shown(self, view: IngestView) -> IngestView:
        if view.snapshot is None or not has_left(view.snapshot):
            return view
        return IngestView(view.endpoint, None, f"ingest {view.endpoint} has left the farm; its books are closed")

    def _remarks(self, now: float) -> list[str]:
        silent = [endpoint for endpoint in self.candidates(now) if endpoint not in self._left]
        found = [self.trouble] if self.trouble is not None else []
        if silent:
            more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
            found.append(f"{len(silent)} ingests that the name service knows do not answer: {', '.join(silent[:3])}{more}")
        if not self._known:
            found.append("no ingest was found")
        return found
