"""Writes to the registry that nobody waits for: in order, off the event loop, tried again until the database takes them.

Data taking must not stop because a database does. What could not be written yet stays in memory; `problem` says so. A database that
neither answers nor fails is a problem, too: nobody waits for it longer than `answer_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from hltfarm.service.registry.database import DatabaseError
from hltfarm.service.registry.registry import Registry

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry:
    what: str
    call: Callable[[Registry], None]


class Recorder:
    """A queue of writes before a registry, and its only user: `read` sees everything that was written before.

    Use it from one event loop, and `close` it there. Durations in seconds: `retry_s` between two attempts, `close_s` for what is left at
    the end, `answer_s` for one call; shorter than the database's own limits, it hides their errors. `most`: entries that are kept while
    the database is gone; later ones are lost, and logged in full.
    """

    def __init__(self, registry: Registry, retry_s: float = 1.0, close_s: float = 5.0, most: int = 20_000, answer_s: float = 8.0) -> None:
        self.registry = registry
        self.problem: str | None = None
        self.lost = 0
        self._retry_s, self._close_s, self._most, self._answer_s = retry_s, close_s, most, answer_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._waiting: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()  # set after every attempt

    @property
    def pending(self) -> int:
        """Entries that are not written yet."""
        return len(self._waiting)

    def write(self, what: str, call: Callable[[Registry], None], key: Hashable = None) -> None:
        """Write soon. `what` names the entry in messages; an entry that waits under the same `key` is replaced."""
        key = object() if key is None else key
        if key not in self._waiting and len(self._waiting) >= self._most:
            self.lost += 1
            log.error("the run registry lost an entry, %d wait already: %s", len(self._waiting), what)
            return
        self._waiting[key] = _Entry(what, call)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="write the registry")

    async def read(self, call: Callable[[Registry], T]) -> T:
        """Ask the registry. Waits for the writes before, unless the database fails: then this may raise `DatabaseError`."""
        await self.written()
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._run(call)
        except TimeoutError:
            raise DatabaseError(f"the run registry does not answer within {self._answer_s:g} s") from None

    async def written(self) -> None:
        """Wait until all that was given to `write` so far is in the registry, unless the database fails."""
        last = next(reversed(self._waiting.values()), None)
        while last is not None and self.problem is None and any(entry is last for entry in self._waiting.values()):
            await self._attempt()

    async def close(self) -> None:
        """Write what waits, and end the thread."""
        try:
            async with asyncio.timeout(self._close_s):
                while self._waiting:
                    await self._attempt()
        except TimeoutError:
            for entry in self._waiting.values():
                log.error("the run registry lost an entry at the end: %s", entry.what)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        idle = self._run(lambda _registry: None)  # behind the call that the thread is in
        ended, _ = await asyncio.wait([idle], timeout=self._close_s)
        self._thread.shutdown(wait=bool(ended), cancel_futures=True)

    async def _attempt(self) -> None:
        """Wait for the next attempt to write."""
        self._tried.clear()
        await self._tried.wait()

    async def _work(self) -> None:
        while self._waiting:
            key, entry = next(iter(self._waiting.items()))
            try:
                await self._patiently(entry.call)
            except DatabaseError as error:
                self._fails(str(error))
                await asyncio.sleep(self._retry_s)  # the interval of the attempts
                continue
            except Exception as error:  # this entry can never be written: what comes after it must be
                self.lost += 1
                log.error("the run registry does not take %s: %s", entry.what, error)
            if self.problem is not None:
                log.warning("the run registry is written again")
                self.problem = None
            if self._waiting.get(key) is entry:  # else a newer one took its place
                del self._waiting[key]
            self._tried.set()

    async def _patiently(self, call: Callable[[Registry], None]) -> None:
        """Write, however long that takes: a call cannot be taken back, and a second one would be too much. The others do not wait."""
        work = self._run(call)
        if not (await asyncio.wait([work], timeout=self._answer_s))[0]:
            self._fails(f"the run registry does not answer for {self._answer_s:g} s")
        await work

    def _fails(self, why: str) -> None:
        if self.problem is None:
            log.error("%s; tried again every %g s, the farm goes on", why, self._retry_s)
        self.problem = f"{why} ({len(self._waiting)} entries wait to be written)"
        self._tried.set()

    def _run(self, call: Callable[[Registry], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, call, self.registry)
