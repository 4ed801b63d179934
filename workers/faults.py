"""Faults on purpose: a worker that hangs, runs out of memory, is slow or chokes on an event because somebody asked for it.

Used by `hltfarm chaos`. A worker has none of this unless it is started with HLTFARM_FAULTS=FILE in its environment, and says so in its log.
The file holds the orders in force, as JSON, and is read before every batch; whoever writes it replaces it as a whole (`give`). What is done
leaves a strike, a file `FILE.strikes/<number>-<k>.json` that is created exclusively: so an order for n batches is carried out n times, over
all workers and over their restarts.

    oom     the allocation of an exabyte, which the system refuses       slow    the batch takes `factor` times as long
    hang    the batch does not return                                     fail    an exception
    die     SIGKILL to the worker itself
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.workers.engine import CANARY, Build, Built, Reconstruction

log = logging.getLogger(__name__)
VARIABLE = "HLTFARM_FAULTS"
EXABYTE = 1 << 60


class Act(StrEnum):
    """What a worker does to a batch."""

    HANG = "hang"
    OOM = "oom"
    SLOW = "slow"
    FAIL = "fail"
    DIE = "die"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to go wrong. `number` tells orders apart and never comes again.

    worker: only there; empty: in any. events: in every batch with one of these events; empty: in the next `batches` batches, whatever is in
    them, or with SLOW in every batch while the order stands. factor: of SLOW.
    """

    number: int
    act: Act
    worker: str = ""
    events: tuple[int, ...] = ()
    batches: int = 1
    factor: float = 20.0

    def concerns(self, worker: str, events: frozenset[int]) -> bool:
        """Whether it is about a batch of these event numbers in this worker."""
        return self.worker in ("", worker) and (not self.events or not events.isdisjoint(self.events))


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was carried out: where, on which batch, and when (seconds of the machine's monotonic clock)."""

    number: int
    worker: str
    pid: int
    at: float
    events: tuple[int, ...]


class _Orders(msgspec.Struct, frozen=True):
    orders: tuple[Order, ...]


def give(file: Path, orders: Sequence[Order]) -> None:
    """Replace the orders in force."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_bytes(msgspec.json.encode(_Orders(tuple(orders))))
    fresh.replace(file)


def strikes(file: Path) -> list[Strike]:
    """What was carried out so far, in the order of time."""
    found = [path.read_bytes() for path in _folder(file).glob("*.json")]
    return sorted((msgspec.json.decode(text, type=Strike) for text in found), key=lambda strike: strike.at)


def _folder(file: Path) -> Path:
    return file.with_name(file.name + ".strikes")


class FaultFile:
    """The orders of one worker."""

    def __init__(self, file: Path, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError if the file cannot be used."""
        self._file, self._worker, self._clock = file, worker, clock
        self._orders()
        _folder(file).mkdir(exist_ok=True)

    def _orders(self) -> tuple[Order, ...]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Orders).orders
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"{VARIABLE}={self._file}: no orders can be read: {error}") from error

    def next_order(self, events: Sequence[RawEvent]) -> Order | None:
        """The order for this batch, with its strike recorded; None if it goes through untouched, as a canary does."""
        if events[0].id == CANARY:
            return None
        numbers = tuple(event.id.event for event in events)
        for order in self._orders():
            if order.concerns(self._worker, frozenset(numbers)) and self._record(order, numbers):
                return order
        return None

    def _record(self, order: Order, events: tuple[int, ...]) -> bool:
        """Leave a strike; False if the order is used up."""
        strike = Strike(number=order.number, worker=self._worker, pid=os.getpid(), at=self._clock(), events=events)
        limited = not order.events and order.act is not Act.SLOW
        place = 0
        while not limited or place < order.batches:
            path = _folder(self._file) / f"{order.number}-{place}.json"
            partial = path.with_name(f".{order.number}-{os.getpid()}-{threading.get_ident()}")
            partial.write_bytes(msgspec.json.encode(strike))
            try:
                os.link(partial, path)  # whole, and only if nobody has this place
            except FileExistsError:
                place += 1
                if order.act is Act.SLOW:
                    return True  # once is enough to know of
                continue
            finally:
                partial.unlink()
            return True
        return False


class _Faulty:
    """A reconstruction whose batches go wrong on order; everything else is the wrapped one's."""

    def __init__(self, wrapped: Reconstruction, file: FaultFile) -> None:
        self._wrapped, self._file = wrapped, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def run(self, events: list[RawEvent], **options: Any) -> Any:
        order = self._file.next_order(events)
        if order is None:
            return self._wrapped.run(events, **options)
        log.warning("fault on order %d: %s, a batch of %d events", order.number, order.act, len(events))
        begin = time.monotonic()
        _strike(order.act)
        done = self._wrapped.run(events, **options)
        if order.act is Act.SLOW:
            time.sleep((order.factor - 1.0) * (time.monotonic() - begin))
        return done


def _strike(act: Act) -> None:
    if act is Act.HANG:
        threading.Event().wait()
    elif act is Act.OOM:
        np.ones(EXABYTE, dtype=np.uint8)
    elif act is Act.FAIL:
        raise RuntimeError("this batch fails on order")
    elif act is Act.DIE:
        os.kill(os.getpid(), signal.SIGKILL)


def faulty(build: Build, file: FaultFile) -> Build:
    """`build`, but its reconstructions follow the orders in `file`."""
    log.warning("this worker makes faults on purpose, see %s", VARIABLE)

    def wrapped(config: RunConfig, present: Reconstruction | None) -> Built:
        built = build(config, present._wrapped if isinstance(present, _Faulty) else present)
        return replace(built, reconstruction=cast(Reconstruction, _Faulty(built.reconstruction, file)))

    return wrapped
