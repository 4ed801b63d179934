"""When a worker starts a batch: by count, by bytes, or when the oldest event has waited enough. Pure; time is an argument (seconds)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Batches on a GPU at a time, at most: many kernels are too small, or wait too much, to fill it alone.
MOST_LANES = 10


class Batcher(Generic[T]):
    """Collects items of type T with their sizes.

    max_events, max_bytes: a batch never exceeds them (an item larger than max_bytes makes a batch of its own).
    max_wait_s: longest wait of an item for company. Too low makes small batches, too high adds to the latency when the rate is low.
    """

    def __init__(self, max_events: int, max_bytes: int, max_wait_s: float) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_wait_s = max_wait_s
        self._waiting: deque[tuple[T, int, float]] = deque()
        self._alone: deque[list[T]] = deque()
        self._bytes = 0
        self.oldest = 0.0  #: arrival of the first item of the batch that was taken last

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(group) for group in self._alone)

    def add_alone(self, items: list[T]) -> None:
        """Items that want a batch of their own, at once."""
        self._alone.append(items)

    def add(self, item: T, size: int, now: float) -> None:
        """An item of `size` bytes."""
        self._waiting.append((item, size, now))
        self._bytes += size

    @property
    def full(self) -> bool:
        """True if waiting longer would not make the next batch larger."""
        return bool(self._alone) or len(self._waiting) >= self._max_events or self._bytes >= self._max_bytes

    def due_in(self, now: float) -> float | None:
        """Seconds until a batch has to start, 0 if one is ready, None if nothing waits."""
        if self.full:
            return 0.0
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0][2] + self._max_wait_s - now)

    def take(self, now: float, *, only_full: bool = False) -> list[T]:
        """The next batch in order of arrival, empty if none is due. `only_full`: nothing but a full one (the engine is busy anyway)."""
        if not (self.full if only_full else self.due_in(now) == 0.0):
            return []
        if self._alone:
            self.oldest = now  # they do not wait
            return self._alone.popleft()
        batch: list[T] = []
        total = 0
        self.oldest = self._waiting[0][2]
        while self._waiting and len(batch) < self._max_events:
            item, size, _ = self._waiting[0]
            if batch and total + size > self._max_bytes:
                break
            self._waiting.popleft()
            batch.append(item)
            total += size
        self._bytes -= total
        return batch

    def discard(self, unwanted: Callable[[T], bool]) -> None:
        """Forget the items for which `unwanted` holds."""
        self._waiting = deque(entry for entry in self._waiting if not unwanted(entry[0]))
        groups = ([item for item in group if not unwanted(item)] for group in self._alone)
        self._alone = deque(group for group in groups if group)
        self._bytes = sum(size for _, size, _ in self._waiting)
