"""Lanes that threads take in turn: a batch takes any that is free, a change of a lane takes that one.

A lane holds programs by number: what it runs for one menu with its models. All lanes of a pool have the same.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from hltfarm.proto.soa import Collection

if TYPE_CHECKING:
    from hltfarm.workers.dnn.selector import Selector


class Lane(Protocol):
    """What a pool needs of a lane. `programs` changes only while the lane is idle."""

    programs: dict[int, Any]

    def prepare(self, tables: dict[str, Collection], params: dict[str, Any], selector: Selector) -> Any: ...


L = TypeVar("L", bound=Lane)


class LanePool(Generic[L]):
    """Free lanes in order of their return. All methods may be called from any thread."""

    def __init__(self, lanes: Sequence[L]) -> None:
        self.lanes = tuple(lanes)  #: all of them, free or not
        self._free = deque(self.lanes)
        self._claimed: L | None = None  # goes to nobody else
        self._changed = threading.Condition()
        self._claim = threading.Lock()  # one change at a time

    def get(self, wait: bool = True) -> L | None:
        """A free lane; None if there is none and `wait` is false. Who has a lane already must not wait: the others may wait for it."""
        with self._changed:
            while True:
                for lane in self._free:
                    if lane is not self._claimed:
                        self._free.remove(lane)
                        return lane
                if not wait:
                    return None
                self._changed.wait()

    def put(self, lane: L) -> None:
        """Give a lane back."""
        with self._changed:
            self._free.append(lane)
            self._changed.notify_all()

    @contextmanager
    def idle(self, lane: L) -> Iterator[None]:
        """Have this lane for a while, as soon as its batch has ended; the others go on."""
        with self._claim:
            with self._changed:
                self._claimed = lane
                self._changed.wait_for(lambda: lane in self._free)
                self._free.remove(lane)
                self._claimed = None
            try:
                yield
            finally:
                self.put(lane)

    def prepare(self, number: int, tables: dict[str, Collection], params: dict[str, Any], selector: Selector) -> None:
        """A program for every lane, one after the other, while the others work. Raises BackendError, and then there is no such program."""
        try:
            for lane in self.lanes:
                with self.idle(lane):
                    lane.programs[number] = lane.prepare(tables, params, selector)
        except BaseException:
            self.forget(number)
            raise

    def forget(self, number: int) -> None:
        """Give the memory of a program free; no run may ask for it any more."""
        for lane in self.lanes:
            with self.idle(lane):
                lane.programs.pop(number, None)
