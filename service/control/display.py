"""Events that an ingest keeps, reconstructed again to be shown: on the CPU of this machine, in a process of its own that may die of them.

One event at a time; what came out is kept for a while. The process is that of `hltfarm replay`; it stays for the next event that the same
configuration decided, and goes when nobody asked for one for a minute.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from hltfarm.proto.columns import Tables, decode_columns
from hltfarm.proto.errors import BackendError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import FAILED, KeptEvent, RunConfig
from hltfarm.proto.results import RESULT
from hltfarm.service.control.looked_at import LookedAt
from hltfarm.service.ingest.sample_writer import EVENTS, write_sample
from hltfarm.service.replay import link
from hltfarm.service.replay.session import Child
from hltfarm.service.replay.verdict import Ending, Failed

T = TypeVar("T", link.Prepared, link.Unpacked)
NICE = 10  # workers of the same machine come first
CACHED = 16  # events whose columns are kept, about a megabyte each


class CannotShowError(BackendError):
    """An event that cannot be reconstructed on this machine."""


class ShowingTookTooLongError(BackendError):
    """An event whose reconstruction was given up after its time limit."""

    retryable = True


class BusyError(BackendError):
    """More events are asked for than one after the other can be shown in time."""

    retryable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplaySettings:
    """Times in seconds. Building takes some seconds, with torch more; a reconstruction some ten milliseconds."""

    build_s: float = 120.0
    event_s: float = 30.0
    idle_s: float = 60.0  # after so long the process goes; too low lets the next event wait for another
    waiting: int = 8  # requests that may wait for others


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What came out. `row`: its RESULT record; `tables`: as replay/columns.py makes them. For an event of the error stream that cannot be
    reconstructed: `error`, and `tables` may have `occupancy`. `differences`: between what decided it and what is here.
    """

    tables: Tables
    row: np.void | None = None
    seconds: float = 0.0
    error: str | None = None
    differences: tuple[str, ...] = ()


def event_of(kept: KeptEvent, payload: bytes) -> RawEvent:
    """The raw event."""
    info = kept.info
    return RawEvent(EventId(info.run, info.lumi, info.event, info.bx), np.frombuffer(payload, dtype=np.uint8))


def differences(kept: KeptEvent, here: link.Prepared) -> tuple[str, ...]:
    """What decided the event and is something else here; nothing is known of a programme that no worker had built."""
    if not kept.menu_hash:
        return ()
    found = []
    for name, was, now in (
        ("menu", kept.menu_hash, here.menu_hash),
        ("conditions", kept.conditions, here.conditions),
        ("models", [model.label for model in kept.models], [model.label for model in here.models]),
    ):
        if was != now:
            found.append(f"{name} {now} here, {was} decided")
    return tuple(found)


class Display:
    """Shows events. Use it from one event loop, and `close` it there."""

    def __init__(self, settings: DisplaySettings | None = None, start: Callable[[], Child] | None = None) -> None:
        """`start`: makes the process. Nothing is started before the first event is asked for."""
        self._settings = settings or DisplaySettings()
        self._start = start or partial(Child, NICE)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="show-events")
        self._tasks: dict[str, asyncio.Task[Shown]] = {}
        self._cache: OrderedDict[str, Shown] = OrderedDict()
        self.looked_at = LookedAt()
        self._child: Child | None = None  # of the thread, but for its end
        self._prepared: tuple[RunConfig, link.Prepared] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False
        self._starting = threading.Lock()  # nothing is started after the end

    async def show(self, kept: KeptEvent, payload: bytes) -> Shown:
        """The event, reconstructed. Raises CannotShowError, ShowingTookTooLongError or BusyError."""
        number = kept.info.id
        if (known := self._cache.get(number)) is not None:
            self._cache.move_to_end(number)
            return known
        task = self._tasks.get(number)
        if task is None:
            if len(self._tasks) > self._settings.waiting:
                raise BusyError(f"{len(self._tasks)} events are being reconstructed one after the other; ask again in a while")
            task = self._tasks[number] = asyncio.create_task(self._show(kept, payload), name=f"show {number}")
            task.add_done_callback(lambda done: self._done(number, done))
        return await asyncio.shield(task)

    async def _show(self, kept: KeptEvent, payload: bytes) -> Shown:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reconstruct, kept, payload)

    def _done(self, number: str, task: asyncio.Task[Shown]) -> None:
        del self._tasks[number]
        if not task.cancelled() and task.exception() is None:
            self._cache[number] = task.result()
            while len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._tasks and not self._closed:
            self._idle = asyncio.get_running_loop().call_later(self._settings.idle_s, self._end_child)

    def _end_child(self) -> None:
        """Nobody asked for a while."""
        self._idle = None
        if not self._tasks and not self._closed:
            self._thread.submit(self._drop)

    async def close(self) -> None:
        """End what is under way, and the process."""
        with self._starting:
            self._closed = True
            if (child := self._child) is not None:  # the thread may drop it at this moment
                child.kill()
        if self._idle is not None:
            self._idle.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._drop)
        self._thread.shutdown()

    # ---------------------------------------------------------------- in the thread

    def _reconstruct(self, kept: KeptEvent, payload: bytes) -> Shown:
        try:
            with tempfile.TemporaryDirectory(prefix="hltfarm-show-") as folder:
                write_sample(Path(folder), [event_of(kept, payload)], kept.config)
                file = str(Path(folder) / EVENTS)
                found = self._programme(kept, file)
                if isinstance(found, link.Prepared) and self._child is not None:
                    done = self._child.reconstruct(0, self._settings.event_s, columns=True)
                    if isinstance(done, link.Done):
                        return Shown(
                            tables=decode_columns(done.columns),
                            row=np.frombuffer(done.result, dtype=RESULT)[0],
                            seconds=done.seconds,
                            differences=differences(kept, found),
                        )
                    self._drop()  # what the failure left behind is not to be trusted
                    found = done
                assert isinstance(found, Failed)
                if kept.info.kind == FAILED and not self._closed:
                    return Shown(tables=self._occupancy(kept, file), error=f"{found.ending}: {found.text}")
        except OSError as error:
            raise CannotShowError(f"the event cannot be handed over: {error}") from error
        kind = ShowingTookTooLongError if found.ending is Ending.TIMED_OUT else CannotShowError
        raise kind(f"event {kept.info.id} cannot be shown: {found.ending}: {found.text}")

    def _programme(self, kept: KeptEvent, file: str) -> link.Prepared | Failed:
        """What decides, ready for the events of a file: the one that is there, or another, built in a new process."""
        if self._prepared is not None and self._prepared[0] == kept.config:
            answer = self._asked(link.Load(events_file=file), self._settings.event_s, link.Prepared)
            if isinstance(answer, link.Prepared):
                return answer
        self._drop()
        prepare = link.Prepare(events_file=file, config=kept.config, backend="cpu")
        answer = self._asked(prepare, self._settings.build_s, link.Prepared)
        if isinstance(answer, link.Prepared):
            self._prepared = (kept.config, answer)
            return answer
        self._drop()
        return answer

    def _occupancy(self, kept: KeptEvent, file: str) -> Tables:
        """What the raw words of an event say that cannot be reconstructed; nothing if not even they can be read."""
        answer = self._asked(link.Unpack(events_file=file, detector=kept.config.detector), self._settings.event_s, link.Unpacked)
        if isinstance(answer, link.Unpacked):
            return decode_columns(answer.columns)
        self._drop()
        return {}

    def _asked(self, message: link.ToChild, timeout_s: float, kind: type[T]) -> T | Failed:
        """An answer of the process, which is started if there is none."""
        with self._starting:
            if self._closed:
                return Failed(ending=Ending.CRASHED, text="the control plane ends")
            if self._child is None:
                self._child = self._start()
        answer = self._child.ask(message, timeout_s)
        if isinstance(answer, kind | Failed):
            return answer
        text = answer.error if isinstance(answer, link.Raised) else "the process answers something else"
        return Failed(ending=Ending.RAISED, text=text, detail=answer.traceback if isinstance(answer, link.Raised) else "")

    def _drop(self) -> None:
        child, self._child, self._prepared = self._child, None, None
        if child is not None:
            child.close()
