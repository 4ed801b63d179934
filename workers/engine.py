"""The computing half of a worker: threads that build the reconstruction and run batches, so that another can talk meanwhile."""

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
from hltfarm.proto.errors import HltfarmError, InputError, StateError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.slots import SlotView
from hltfarm.proto.wire import EventFlags

log = logging.getLogger(__name__)
WANT_COLUMNS = int(EventFlags.WANT_COLUMNS)  # the enum's & costs a microsecond an event
#: One DESCRIPTOR record as a tuple, and the number of the ingest that gave it: ticket, event, slot, size, run, lumi, bx, flags, ingest
Descriptor: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]


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

    @property
    def parallel(self) -> int: ...

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
class Answer:
    """What one ingest is to hear of a batch: a message, its records and its frames of columns."""

    ingest: int
    message: link.Results | link.Failed
    records: NDArray[np.void]
    parts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch that is done: one answer for each ingest that has events in it. `broken`: the device cannot be trusted any more."""

    answers: tuple[Answer, ...]
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """A configuration was built, or could not be: the answer for the ingest that asked for it."""

    ingest: int
    message: link.Configured


Outcome: TypeAlias = Ready | Finished


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Outcome]
    alone: bool  # nothing else runs meanwhile


class Engine:
    """Starts jobs in their order; batches run side by side in `threads` threads, building alone. `outcomes` holds what is done; `wake` is
    called for each, in one of the engine's threads at a time.

    There is one reconstruction for all ingests, whose numbers the caller chooses. A batch may mix their events.
    """

    def __init__(self, build: Build, wake: Callable[[], None], threads: int = 1) -> None:
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.pending = 0  #: jobs given and not yet taken from `outcomes`; counted by the caller's thread
        self.parallel = 1  #: batches that the present reconstruction runs at a time, at most as many as there are threads
        self._build = build
        self._wake = wake
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._rings: dict[int, SlotView] = {}
        self._configs: dict[int, RunConfig] = {}  # what each ingest asked for
        self._built: Built | None = None
        self._config: RunConfig | None = None  # of which `_built` is
        self._started: dict[int, float] = {}  # when the batch of each thread was
        self._take = threading.Lock()  # who holds it takes the next job
        self._told = threading.Lock()  # who holds it wakes the caller
        self._quiet = threading.Condition()
        self._running = 0  # guarded by `_quiet`
        self._threads = [threading.Thread(target=self._main, name=f"engine-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    # -- caller's thread ---------------------------------------------------------------------------------------------------

    def configure(self, ingest: int, ring: SlotView, generation: int, config: RunConfig) -> None:
        """Build the reconstruction for an ingest whose payloads are in `ring`, which the engine closes; the outcome is a Ready.

        What was built for another ingest is used again if the configuration is the same.
        """
        self.pending += 1
        self._jobs.put(_Job(lambda: self._configure(ingest, ring, generation, config), alone=True))

    def run(self, batch: list[Descriptor]) -> None:
        """Reconstruct a batch; the outcome is a Finished."""
        self.pending += 1
        self._jobs.put(_Job(lambda: self._run(batch), alone=False))

    def next_outcome(self) -> Outcome | None:
        """An outcome that is there, else None."""
        if self.outcomes.empty():
            return None
        self.pending -= 1
        return self.outcomes.get()

    def busy_s(self, now: float) -> float:
        """How long the oldest batch has been running, 0 if none (building does not count)."""
        return max((now - started for started in list(self._started.values())), default=0.0)

    def close(self, timeout_s: float) -> bool:
        """End after the jobs given; False if that takes longer than the time-out (the threads are daemons, the process may end)."""
        until = time.monotonic() + timeout_s
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        self._drop()
        for ring in self._rings.values():
            ring.close()
        return True

    # -- engine's threads --------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        while True:
            with self._take:
                job = self._jobs.get()
                if job is None:
                    return
                with self._quiet:
                    if job.alone:
                        self._quiet.wait_for(lambda: self._running == 0)
                    else:
                        self._running += 1
                if job.alone:  # nobody takes another job before it is done
                    self._tell(job.work())
                    continue
            outcome = job.work()
            with self._quiet:
                self._running -= 1
                self._quiet.notify_all()
            self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        with self._told:
            self.outcomes.put(outcome)
            self._wake()

    def _drop(self) -> None:
        if self._built is not None:
            self._built.reconstruction.close()
            self._built = self._config = None

    def _configure(self, ingest: int, ring: SlotView, generation: int, config: RunConfig) -> Ready:
        try:
            built = self._prepared(ingest, ring, config)
        except Exception as error:  # whatever it is, the farm has to hear of it
            log.exception("run %d cannot be configured", config.run)
            return Ready(ingest, link.Configured(generation=generation, error=_text(error), fatal=isinstance(error, InputError)))
        self._configs[ingest] = config
        reconstruction = built.reconstruction
        return Ready(
            ingest,
            link.Configured(
                generation=generation,
                backend=reconstruction.backend,
                device=reconstruction.device,
                menu_hash=built.menu_hash,
                paths=built.paths,
                models=built.models,
            ),
        )

    def _prepared(self, ingest: int, ring: SlotView, config: RunConfig) -> Built:
        """The reconstruction for `config`, with the rings of all ingests registered."""
        fresh = self._attach(ingest, ring)
        built = self._built
        if built is not None and self._config == config:
            if fresh:
                built.reconstruction.register(ring.buffer.data)
            return built
        self._drop()
        built = self._build(config)
        try:
            for known in self._rings.values():
                built.reconstruction.register(known.buffer.data)
        except BaseException:
            built.reconstruction.close()
            raise
        self._built, self._config = built, config
        self.parallel = min(built.reconstruction.parallel, len(self._threads))
        return built

    def _attach(self, ingest: int, ring: SlotView) -> bool:
        """Take over the ring of an ingest; False if it is the one that is here already."""
        old = self._rings.get(ingest)
        if old is ring:
            return False
        if old is not None:
            self._drop()  # it has the old ring registered, which goes now
            old.close()
        self._rings[ingest] = ring
        return True

    def _run(self, batch: list[Descriptor]) -> Finished:
        begin = self._started[threading.get_ident()] = time.monotonic()
        ingests = list(dict.fromkeys(item[8] for item in batch))
        try:
            assert self._built is not None, "configure comes first"
            if odd := [number for number in ingests if self._configs.get(number) != self._config]:
                raise StateError(f"this worker was configured for another run than that of ingest {odd[0]}")
            rings = self._rings
            events = [
                RawEvent(EventId(run, lumi, event, bx), rings[ingest].payload(slot, size))
                for _, event, slot, size, run, lumi, bx, _, ingest in batch
            ]
            asked = [bool(item[7] & WANT_COLUMNS) for item in batch]
            done = self._built.reconstruction.run(events, columns=asked if any(asked) else None)
            if len(done.results) != len(batch):
                raise RuntimeError(f"{len(done.results)} results for {len(batch)} events")
            records = _records(batch, link.ANSWER)
            records["result"] = done.results
            parts = _columns(done, asked, records)
        except Exception as error:  # reported with the batch; its events are tried again one by one
            log.exception("a batch of %d events failed", len(batch))
            broken = self._built is not None and self._built.reconstruction.backend == "cuda" and not isinstance(error, HltfarmError)
            failed = link.Failed(error=_text(error))
            return Finished(tuple(Answer(n, failed, _records(_of(n, batch), link.ASSIGNED)) for n in ingests), broken)
        finally:
            del self._started[threading.get_ident()]
        seconds, stages = time.monotonic() - begin, dict(done.stage_seconds)
        if len(ingests) == 1:
            message = link.Results(seconds=seconds, stage_seconds=stages, batch_events=len(batch))
            return Finished((Answer(ingests[0], message, records, parts),))
        source = np.array([item[8] for item in batch])
        answers = []
        for number in ingests:
            first = number == ingests[0]  # that one counts the batch
            message = link.Results(
                seconds=seconds if first else 0.0, stage_seconds=stages if first else {}, batch_events=len(batch) if first else 0
            )
            answers.append(Answer(number, message, *_share(records[source == number], parts)))
        return Finished(tuple(answers))


def _of(ingest: int, batch: list[Descriptor]) -> list[Descriptor]:
    return [item for item in batch if item[8] == ingest]


def _share(records: NDArray[np.void], parts: tuple[bytes, ...]) -> tuple[NDArray[np.void], tuple[bytes, ...]]:
    """The answers of one ingest with the frames of columns that they name, numbered anew."""
    named = np.flatnonzero(records["part"])
    own = tuple(parts[number - 1] for number in records["part"][named].tolist())
    records["part"][named] = np.arange(1, len(own) + 1)
    return records, own


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
