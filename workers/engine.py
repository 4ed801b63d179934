"""The computing half of a worker: one thread that builds the reconstruction and runs batches, so that the other can talk meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto import worker_link as link
from hltfarm.proto.columns import Tables, encode_columns
from hltfarm.proto.errors import HltfarmError, InputError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.slots import SlotView
from hltfarm.proto.wire import EventFlags

log = logging.getLogger(__name__)
#: One DESCRIPTOR record as a tuple: ticket, event, slot, size, run, lumi, bx, flags
Descriptor: TypeAlias = tuple[int, int, int, int, int, int, int, int]


class Batch(Protocol):
    """What the engine reads of a result of a reconstruction."""

    results: NDArray[np.void]
    stage_seconds: dict[str, float]

    def reply(self, i: int) -> Tables | None: ...


class Reconstruction(Protocol):
    """What the engine needs of a reconstruction (`workers.reconstructor.Reconstructor`)."""

    backend: str

    @property
    def device(self) -> str: ...

    def run(self, events: list[RawEvent], *, columns: list[bool] | None) -> Batch: ...

    def register(self, buffer: memoryview) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A reconstruction and what the farm has to know of its menu and its models."""

    reconstruction: Reconstruction
    menu_hash: str
    paths: tuple[link.PathInfo, ...]
    models: tuple[ModelInfo, ...] = ()


Build = Callable[[RunConfig], Built]


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch that is done: a message for the ingest its records and frames of columns. `broken`: the device cannot be trusted any more."""

    message: link.Results | link.Failed
    records: NDArray[np.void]
    parts: tuple[bytes, ...] = ()
    broken: bool = False


class Engine:
    """Runs jobs in their order in one thread. `outcomes` holds what is done; `wake` is called (in the engine's thread) for each."""

    def __init__(self, build: Build, wake: Callable[[], None]) -> None:
        self.outcomes: SimpleQueue[link.Configured | Finished] = SimpleQueue()
        self.pending = 0  #: jobs given and not yet taken from `outcomes`; counted by the caller's thread
        self._build = build
        self._wake = wake
        self._jobs: SimpleQueue[Callable[[], link.Configured | Finished | None] | None] = SimpleQueue()
        self._ring: SlotView | None = None
        self._built: Built | None = None
        self._started: float | None = None
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    # -- caller's thread ---------------------------------------------------------------------------------------------------

    def attach(self, ring: SlotView) -> None:
        """Payloads are in this ring from now on; the engine closes it. Followed by `configure`."""
        self._jobs.put(lambda: self._attach(ring))

    def configure(self, generation: int, config: RunConfig) -> None:
        """Build the reconstruction; the outcome is a Configured."""
        self.pending += 1
        self._jobs.put(lambda: self._configure(generation, config))

    def run(self, batch: list[Descriptor]) -> None:
        """Reconstruct a batch; the outcome is a Finished."""
        self.pending += 1
        self._jobs.put(lambda: self._run(batch))

    def next_outcome(self) -> link.Configured | Finished | None:
        """An outcome that is there, else None."""
        if self.outcomes.empty():
            return None
        self.pending -= 1
        return self.outcomes.get()

    def busy_s(self, now: float) -> float:
        """How long the present batch has been running, 0 if none (building does not count)."""
        started = self._started
        return 0.0 if started is None else now - started

    def close(self, timeout_s: float) -> bool:
        """End after the jobs given; False if that takes longer than the time-out (the thread is a daemon, the process may end)."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- engine's thread ---------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        while (job := self._jobs.get()) is not None:
            outcome = job()
            if outcome is not None:
                self.outcomes.put(outcome)
                self._wake()
        self._drop()
        if self._ring is not None:
            self._ring.close()

    def _attach(self, ring: SlotView) -> None:
        self._drop()  # it may have the old ring registered
        if self._ring is not None:
            self._ring.close()
        self._ring = ring

    def _drop(self) -> None:
        if self._built is not None:
            self._built.reconstruction.close()
            self._built = None

    def _configure(self, generation: int, config: RunConfig) -> link.Configured:
        try:
            self._drop()
            assert self._ring is not None, "attach comes first"
            built = self._build(config)
            built.reconstruction.register(self._ring.buffer.data)
        except Exception as error:  # whatever it is, the farm has to hear of it
            log.exception("run %d cannot be configured", config.run)
            return link.Configured(generation=generation, error=_text(error), fatal=isinstance(error, InputError))
        self._built = built
        reconstruction = built.reconstruction
        return link.Configured(
            generation=generation,
            backend=reconstruction.backend,
            device=reconstruction.device,
            menu_hash=built.menu_hash,
            paths=built.paths,
            models=built.models,
        )

    def _run(self, batch: list[Descriptor]) -> Finished:
        begin = self._started = time.monotonic()
        try:
            assert self._ring is not None, "attach comes first"
            assert self._built is not None, "configure comes first"
            view = self._ring.payload
            events = [RawEvent(EventId(run, lumi, event, bx), view(slot, size)) for _, event, slot, size, run, lumi, bx, _ in batch]
            asked = [bool(item[7] & EventFlags.WANT_COLUMNS) for item in batch]
            done = self._built.reconstruction.run(events, columns=asked if any(asked) else None)
            if len(done.results) != len(batch):
                raise RuntimeError(f"{len(done.results)} results for {len(batch)} events")
            records = _records(batch, link.ANSWER)
            records["result"] = done.results
            parts = _columns(done, asked, records)
        except Exception as error:  # reported with the batch; its events are tried again one by one
            log.exception("a batch of %d events failed", len(batch))
            broken = self._built is not None and self._built.reconstruction.backend == "cuda" and not isinstance(error, HltfarmError)
            return Finished(link.Failed(error=_text(error)), _records(batch, link.ASSIGNED), broken=broken)
        finally:
            self._started = None
        return Finished(link.Results(seconds=time.monotonic() - begin, stage_seconds=dict(done.stage_seconds)), records, parts)


def _columns(done: Batch, asked: list[bool], records: NDArray[np.void]) -> tuple[bytes, ...]:
    """Frames with the columns of accepted events that were asked for; `part` of their records is set."""
    parts: list[bytes] = []
    for i, want in enumerate(asked):
        tables = done.reply(i) if want and records["result"]["accept"][i] else None
        if tables is not None:
            parts.append(encode_columns(tables))
            records["part"][i] = len(parts)
    return tuple(parts)


def _records(batch: list[Descriptor], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    records = np.zeros(len(batch), dtype=dtype)
    records["ticket"] = [item[0] for item in batch]
    records["slot"] = [item[2] for item in batch]
    return records


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
