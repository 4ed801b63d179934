"""The load of a round: the load generator's connections in the background, and what they have to tell while they run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from hltfarm.loadgen.load.accounting import Accounting, Decider
from hltfarm.loadgen.load.driver import Done, LoadConfig, Numbering, report_of, run_connections
from hltfarm.loadgen.load.report import LoadReport
from hltfarm.proto.events import RawEvent
from hltfarm.service.chaos.recovery import Sample

SAMPLE_S = 0.02


class LiveLoad:
    """A load that runs from the constructor on, until its schedule ends or `stop`."""

    def __init__(
        self, config: LoadConfig, payloads: Sequence[RawEvent], watch: Callable[[Sequence[Accounting]], object] = lambda _: None
    ) -> None:
        """watch: is given the accountings before the first event. Raises HltfarmError if the load cannot start."""
        self._config, self._payloads, self._given = config, payloads, watch
        self._accountings: Sequence[Accounting] = ()
        self._stop, self._over, self._running = threading.Event(), threading.Event(), threading.Event()
        self._done: list[Done] = []
        self._fault: BaseException | None = None
        self._began = 0.0
        self.samples: list[Sample] = []
        self._threads = [threading.Thread(target=self._run, name="load"), threading.Thread(target=self._sample, name="samples")]
        for thread in self._threads:
            thread.start()
        self._running.wait()
        try:
            self._sound()
        except BaseException:
            self.stop()
            raise

    # -- while it runs -----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._began

    @property
    def waiting(self) -> int:
        """Events that were sent and not answered yet."""
        return sum(accounting.waiting for accounting in self._accountings)

    @property
    def answered(self) -> int:
        """Events that were answered."""
        return sum(accounting.answered for accounting in self._accountings)

    def wait_until(self, at_s: float) -> bool:
        """Wait until so many seconds after the start; False if the load is over before."""
        return not self._over.wait(max(0.0, at_s - self.now))

    def coming(self, connection: int, ahead: int) -> int:
        """Number of the event that this connection (modulo their number) sends as the `ahead`th after what is due, 0 for the next."""
        place = connection % len(self._accountings)
        accounting = self._accountings[place]
        return self._numbering(place).number(max(accounting.offered, accounting.sent) + ahead)

    def was_sent(self, event: int) -> bool:
        """Whether the event of this number was sent before now."""
        indices = [(item, self._numbering(place).index(event)) for place, item in enumerate(self._accountings)]
        return any(0 <= index < item.sent for item, index in indices)

    def _numbering(self, place: int) -> Numbering:
        return Numbering(0, self._config.first_event + place, len(self._accountings))

    # -- at its end --------------------------------------------------------------------------------------------------------

    def finish(self) -> LoadReport:
        """Wait for its end; the report. Raises what ended it before its time."""
        for thread in self._threads:
            thread.join()
        self._sound()
        return report_of(self._config, self._done, 0.0)

    @property
    def forced(self) -> list[int]:
        """Numbers of the events that could not be processed."""
        return [self._numbering(place).number(index) for place, item in enumerate(self._accountings) for index in item.forced]

    @property
    def deciders(self) -> Counter[tuple[int, Decider]]:
        """Events by lumisection and what decided them."""
        return sum((item.deciders for item in self._accountings), Counter[tuple[int, Decider]]())

    @property
    def accepted(self) -> list[int]:
        """Numbers of the events that were accepted."""
        found = [(self._numbering(place), item.indices("accepted")) for place, item in enumerate(self._accountings)]
        return [numbering.number(index) for numbering, indices in found for index in indices]

    def stop(self) -> None:
        """End it, wherever it is."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _sound(self) -> None:
        """Raise what ended the load before its time."""
        if self._fault is not None:
            raise self._fault

    # -- threads -----------------------------------------------------------------------------------------------------------

    def _watch(self, accountings: Sequence[Accounting]) -> None:
        self._given(accountings)
        self._accountings, self._began = accountings, time.monotonic()
        self._running.set()

    def _run(self) -> None:
        try:
            numbers = range(self._config.connections)
            self._done = run_connections(self._config, self._payloads, numbers, watch=self._watch, stop=self._stop)
        except Exception as error:  # whatever it is, who waits for the load has to hear of it
            self._fault = error
        finally:
            self._over.set()
            self._running.set()

    def _sample(self) -> None:
        self._running.wait()
        while not self._over.wait(SAMPLE_S):
            now, due = self.now, sum(accounting.offered for accounting in self._accountings)
            self.samples.append(Sample(now, due, self.answered))
