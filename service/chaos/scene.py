"""What an injector has to do with: the farm, the load that runs, and the record of what struck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from hltfarm.loadgen.load.report import LoadReport
from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.events import RawEvent
from hltfarm.service.chaos.farm import Farm
from hltfarm.service.chaos.load import LiveLoad
from hltfarm.service.chaos.plan import Injection
from hltfarm.workers.faults import Act, Order, give, strikes

PATIENCE_S = 45.0
TURN_S = 0.002
SEVERAL, SOON_S = 3, 0.5
#: Events that are to go wrong are chosen so far ahead on their connection that workers know of it before they are sent.
AHEAD = 8


class Hit(NamedTuple):
    """A fault that struck: when, in seconds since the start of the load, and how many events clients waited for at that moment."""

    at_s: float
    in_flight: int


class ChaosError(HltfarmError):
    """A fault could not be made: the round proves nothing."""


class Orders:
    """The orders of the workers; faults that strike together share them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._orders: list[Order] = []
        self._number = 0

    def add(self, **what: object) -> Order:
        """Give a further order."""
        with self._lock:
            # numbers of earlier rounds in the same farm are used up
            self._number = max([self._number, *(strike.number for strike in strikes(self._file))]) + 1
            order = Order(number=self._number, **what)  # type: ignore[arg-type]
            self._orders.append(order)
            give(self._file, self._orders)
            return order

    def remove(self, order: Order) -> None:
        """Take an order back."""
        with self._lock:
            self._orders.remove(order)
            give(self._file, self._orders)

    def clear(self) -> None:
        """Take all orders back."""
        with self._lock:
            self._orders.clear()
            give(self._file, [])


@dataclass(slots=True)
class Scene:
    """One fault of a round, as its injector sees it."""

    farm: Farm
    run: int
    load: LiveLoad
    payloads: list[RawEvent]
    orders: Orders
    hits: list[Hit] = field(default_factory=list)
    further_loads: list[LoadReport] = field(default_factory=list)  # of other clients than those of the load
    further_accepted: list[int] = field(default_factory=list)  # events of theirs that were accepted
    lost_counts: int | None = None  # events whose counts may be gone with an ingest
    problems: list[str] = field(default_factory=list)
    _poisons: list[Order] = field(default_factory=list)

    def in_flight(self) -> None:
        """Wait until clients wait for events, for several if that comes about soon: a fault in an idle farm proves nothing."""
        soon = time.monotonic() + SOON_S
        self.until(lambda: self.load.waiting >= (SEVERAL if time.monotonic() < soon else 1), "no event was in flight")

    def hit(self) -> None:
        """The fault strikes now."""
        self.hits.append(Hit(self.load.now, self.load.waiting))

    def until(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait for a condition. Raises ChaosError with what did not come true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            self.farm.check()
            if time.monotonic() > deadline:
                raise ChaosError(f"{otherwise} within {PATIENCE_S:g} s")
            time.sleep(TURN_S)  # the interval of looking

    def last(self, seconds: float) -> None:
        """Let a fault last, whatever else happens."""
        time.sleep(seconds)

    def again(self, worker: str, pid: int) -> None:
        """Wait until a worker has another process than this one; it is released, as an operator would, if it was lost too often."""

        def started() -> bool:
            self.farm.release_quarantined()
            return self.farm.workers().get(worker, pid) != pid

        self.until(started, f"{worker} was not started again")
        self.farm.look()

    # -- orders of the workers ---------------------------------------------------------------------------------------------

    def order(self, **what: object) -> Order:
        """Give the workers a further order."""
        return self.orders.add(**what)

    def poison(self, act: Act, connections: Sequence[int]) -> Order:
        """Have events of these connections go wrong in every batch, that are sent only when all workers know of it."""
        while True:
            events = tuple(self.load.coming(connection, AHEAD) for connection in connections)
            order = self.order(act=act, events=events)
            self._poisons.append(order)  # also what was too late for one of them: it stands for the others
            if not any(self.load.was_sent(event) for event in events):
                return order

    @property
    def victims(self) -> set[int]:
        """Events that went wrong: they have to end in the error stream."""
        wanted = {order.number: set(order.events) for order in self._poisons}
        return {event for strike in strikes(self.farm.settings.faults) for event in wanted.get(strike.number, set()) & set(strike.events)}

    def withdraw(self, order: Order) -> None:
        """Take an order back."""
        self.orders.remove(order)

    def struck(self, order: Order, times: int = 1) -> None:
        """Wait until an order was carried out."""

        def done() -> bool:
            return sum(strike.number == order.number for strike in strikes(self.farm.settings.faults)) >= times

        self.until(done, f"no worker did '{order.act}' {times} times")

    # -- who --------------------------------------------------------------------------------------------------------------

    def worker(self, injection: Injection) -> tuple[str, int]:
        """Name and process id of the worker that is meant."""
        self.until(lambda: bool(self.farm.workers()), "no worker ran")
        workers = sorted(self.farm.workers().items())
        return workers[injection.target % len(workers)]


class Injector(Protocol):
    """Makes one fault, and has it last and end if it does; returns when it is over."""

    def __call__(self, scene: Scene, injection: Injection) -> None: ...
