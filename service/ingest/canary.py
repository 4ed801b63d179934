"""Canary: the same event, given to every worker every few seconds, outside of the books. Pure; time is an argument (seconds).

It proves that a worker reconstructs, idle or not, and that all workers give the same bits: two that differ in one digest cannot both be
right. What most workers gave stands; with one against one the CPU, else what was there first. A worker that gave anything else is not
trusted any more until its process is a new one. Worker names come and go; `forget` is told of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from hltfarm.loadgen import sample as samples
from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.straight import straight_tracks
from hltfarm.proto.detector import load_detector
from hltfarm.proto.errors import ConditionsError

SHIPPED = Path(samples.__file__).with_name("data") / "demo.hlt"
#: A payload without FEDs: it runs the whole plan on nothing.
EMPTY_TABLE = bytes(4)


@cache
def payload_for(detector: str) -> bytes:
    """The event for a detector: the smallest of the shipped sample for `phase1`, straight tracks for others, and one without data for
    a detector that only the workers can read."""
    if detector != "phase1":
        try:
            return straight_tracks(load_detector(detector)).tobytes()
        except ConditionsError:
            return EMPTY_TABLE
    return min((np.asarray(event.payload).tobytes() for event in Sample(SHIPPED)), key=len)


@dataclass(slots=True)
class Health:
    """What is known of one worker. `good`: when its last good answer came, None before the first; `cpu`: its backend."""

    cpu: bool = False
    good: float | None = None
    failures: int = 0
    asked: float | None = None
    serial: int = 0  # of the question that is open, 0 if none is


@dataclass(slots=True)
class _Votes:
    """Answers of one programme: digest -> workers that ever gave it. `stands`: the digest that is taken for right."""

    stands: int
    given: dict[int, set[str]] = field(default_factory=dict)


class Canaries:
    """The canaries of one ingest. `interval_s`: between two questions to a worker, 0 for none; `timeout_s`: until one counts as failed."""

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        self.interval_s = interval_s
        self._timeout_s = timeout_s
        self._workers: dict[str, Health] = {}
        self._votes: dict[int, _Votes] = {}  # by generation
        self._distrusted: dict[str, str] = {}
        self._barred: set[str] = set()  # distrusted in an earlier run: not asked any more
        self._serial = 0

    # -- questions ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new run: what was answered so far is no measure for it. Who is distrusted stays so."""
        self._votes.clear()
        self._barred |= self._distrusted.keys()
        for health in self._workers.values():
            health.serial, health.asked = 0, None

    def due(self, names: Iterable[str], now: float) -> list[tuple[str, int]]:
        """Workers to be asked now, each with the serial of the question. One that let a question expire has failed, and is asked again."""
        if not self.interval_s:
            return []
        questions = []
        for name in names:
            health = self._workers.setdefault(name, Health())
            waited = float("inf") if health.asked is None else now - health.asked
            if name in self._barred or waited < (self._timeout_s if health.serial else self.interval_s):
                continue
            health.failures += health.serial != 0
            self._serial += 1
            health.asked, health.serial = now, self._serial
            questions.append((name, self._serial))
        return questions

    def interrupted(self, name: str) -> None:
        """The connection to the worker is gone, and with it the answer to a question that is open. When it is back it is asked anew."""
        health = self._workers.get(name)
        if health is not None:
            health.serial, health.asked = 0, None

    def forget(self, name: str) -> None:
        """The process behind the name is gone or a new one; its failures stay counted."""
        health = self._workers.get(name)
        if health is not None:
            self._workers[name] = Health(failures=health.failures)
        self._distrusted.pop(name, None)
        self._barred.discard(name)
        for votes in self._votes.values():
            for names in votes.given.values():
                names.discard(name)

    def drop(self, name: str) -> None:
        """The name is not used any more."""
        self.forget(name)
        self._workers.pop(name, None)

    # -- answers -----------------------------------------------------------------------------------------------------------

    def answered(self, name: str, serial: int, generation: int, digest: int | None, *, cpu: bool, now: float) -> None:
        """An answer, `digest` None for a failure. Those to questions that are not open are ignored."""
        health = self._workers.get(name)
        if health is None or not serial or health.serial != serial:
            return
        health.serial, health.cpu = 0, cpu
        if digest is None:
            health.failures += 1
            return
        self._vote(name, generation, digest)
        if name not in self._distrusted:
            health.good = now

    def _vote(self, name: str, generation: int, digest: int) -> None:
        votes = self._votes.setdefault(generation, _Votes(digest))
        while len(self._votes) > 4:  # programmes that workers hold at a time
            del self._votes[min(self._votes)]
        votes.given.setdefault(digest, set()).add(name)
        if digest != votes.stands and self._weight(votes, digest) > self._weight(votes, votes.stands):
            votes.stands = digest
            for other in votes.given[digest]:
                self._distrusted.pop(other, None)
        for wrong, names in votes.given.items():
            for bad in names if wrong != votes.stands else ():
                if bad not in self._distrusted:
                    self._distrusted[bad] = f"canary digest {wrong:016x}, that of the others is {votes.stands:016x}: its device is broken"
                    self._workers[bad].failures += 1
                    self._workers[bad].good = None

    def _weight(self, votes: _Votes, digest: int) -> tuple[int, int]:
        names = votes.given.get(digest, set())
        return len(names), sum(self._workers[name].cpu for name in names if name in self._workers)

    # -- state -------------------------------------------------------------------------------------------------------------

    @property
    def distrusted(self) -> dict[str, str]:
        """Workers that must not get events, with the reason in words."""
        return self._distrusted

    def health(self, name: str) -> Health:
        """What is known of a worker."""
        return self._workers.get(name, Health())
