"""The computing half of a worker: threads that build the reconstruction and run batches, so that another can talk meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hltfarm.proto import worker_link as link
from hltfarm.proto.columns import Tables, encode_columns
from hltfarm.proto.errors import HltfarmError, InputError, StateError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.slots import SlotView
from hltfarm.proto.wire import EventFlags
from hltfarm.workers.batch_trace import BatchTimes
from hltfarm.workers.blame import stage_of
from hltfarm.workers.descriptors import GENERATION, INGEST, RUN, SHADOW, SIZE, Descriptor, of_ingest, records_of, share

log = logging.getLogger(__name__)
WANT_COLUMNS = int(EventFlags.WANT_COLUMNS)  # the enum's & costs a microsecond an event
#: Identity of a canary, in no run.
CANARY = EventId(0, 0, (1 << 64) - 1)


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

    def run(self, events: list[RawEvent], *, columns: list[bool] | None, programme: int) -> Batch: ...

    def forget(self, programme: int) -> None: ...

    def register(self, buffer: memoryview) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A programme of a reconstruction, and what the farm has to know of it. `conditions`: digest of the detector description."""

    reconstruction: Reconstruction
    programme: int
    menu_hash: str
    paths: tuple[link.PathInfo, ...]
    models: tuple[ModelInfo, ...] = ()
    conditions: str = ""


#: Makes a programme for a configuration: on a new reconstruction, or beside the others of the one given, which has the same detector.
Build = Callable[[RunConfig, Reconstruction | None], Built]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one ingest is to hear of a batch: a message, its records and its frames of columns."""

    ingest: int
    message: link.Results | link.Failed
    records: NDArray[np.void]
    parts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch that is done: one answer for each ingest that has events in it. `broken`: the device cannot be trusted any more.

    times: of a batch of events, where the engine notes them.
    """

    answers: tuple[Answer, ...]
    broken: bool = False
    times: BatchTimes | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A programme was built, or could not be, or a canary is done: the answer for the ingest that asked for it."""

    ingest: int
    message: link.Configured | link.CanaryDone


Outcome: TypeAlias = Ready | Finished


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Outcome | None]
    alone: Callable[[], bool] = lambda: False  # whether nothing else may run meanwhile, asked when its turn comes
    computes: bool = False  # a batch or a canary: only so many at a time


class Engine:
    """Starts jobs in their order; up to `threads` batches run side by side, beside programmes that are built for a run that goes on; a new
    reconstruction is built alone. `outcomes` holds what is done; `wake` is called for each, in one of the engine's threads at a time.

    There is one reconstruction for all ingests, whose numbers the caller chooses, with the programmes of its run. A batch may mix ingests
    and programmes. note_times: outcomes of batches tell their times.
    """

    def __init__(self, build: Build, wake: Callable[[], None], threads: int = 1, *, note_times: bool = False) -> None:
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.pending = 0  #: jobs given and not yet taken from `outcomes`; counted by the caller's thread
        self.building = 0  #: programmes of these
        self.parallel = 1  #: batches that the present reconstruction runs at a time, at most `threads`
        self._most = threads
        self._build = build
        self._wake = wake
        self._note_times = note_times
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._rings: dict[int, SlotView] = {}
        self._asked: dict[tuple[int, int], RunConfig] = {}  # by ingest and generation
        self._built: dict[RunConfig, Built] = {}  # programmes of the present reconstruction, all of one run and detector
        self._programmes: dict[tuple[int, int], Built] = {}  # the two put together; replaced, never changed
        self._building = threading.Lock()  # guards changes of the three
        self._sung: tuple[Built, bytes, float, int] | None = None  # the last canary: programme, event, when, digest
        self._started: dict[int, float] = {}  # when the batch of each thread was
        self._take = threading.Lock()  # who holds it takes the next job
        self._told = threading.Lock()  # who holds it wakes the caller
        self._quiet = threading.Condition()
        self._running = self._computing = 0  # jobs, guarded by `_quiet`
        # one thread more: a programme may take a minute to build, and events must not wait for it
        self._threads = [threading.Thread(target=self._main, name=f"engine-{i}", daemon=True) for i in range(threads + 1)]
        for thread in self._threads:
            thread.start()

    # -- caller's thread ---------------------------------------------------------------------------------------------------

    def configure(self, ingest: int, ring: SlotView, asked: link.Configure) -> None:
        """Build a programme for an ingest whose payloads are in `ring`, which the engine closes; the outcome is a Ready.

        What was built for the same configuration is used again.
        """
        self.pending += 1
        self.building += 1
        self._jobs.put(_Job(lambda: self._configure(ingest, ring, asked), lambda: not self._extends(ingest, ring, asked.config)))

    def retire(self, ingest: int, generation: int) -> None:
        """No event of the ingest will name this programme any more. There is no outcome."""
        self._jobs.put(_Job(lambda: self._retire(ingest, generation)))

    def run(self, batch: list[Descriptor], arrived: float = 0.0) -> None:
        """Reconstruct a batch, whose oldest event arrived at this time of the monotonic clock; the outcome is a Finished."""
        self.pending += 1
        if self._note_times:
            given = time.monotonic()
            self._jobs.put(_Job(lambda: self._timed(batch, arrived, given), computes=True))
        else:
            self._jobs.put(_Job(lambda: self._run(batch), computes=True))

    def canary(self, ingest: int, asked: link.Canary) -> None:
        """Reconstruct an event that is in nobody's books; the outcome is a Ready."""
        self.pending += 1
        self._jobs.put(_Job(lambda: self._canary(ingest, asked), computes=True))

    @property
    def computing(self) -> int:
        """Batches and canaries of `pending`."""
        return self.pending - self.building

    def next_outcome(self) -> Outcome | None:
        """An outcome that is there, else None."""
        if self.outcomes.empty():
            return None
        outcome = self.outcomes.get()
        self.pending -= 1
        self.building -= isinstance(outcome, Ready) and isinstance(outcome.message, link.Configured)
        return outcome

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
                alone = job.alone()
                with self._quiet:
                    if alone:
                        self._quiet.wait_for(lambda: self._running == 0)
                    else:
                        if job.computes:
                            self._quiet.wait_for(lambda: self._computing < self._most)
                            self._computing += 1
                        self._running += 1
                if alone:  # nobody takes another job before it is done
                    self._tell(_done(job))
                    continue
            outcome = _done(job)
            with self._quiet:
                self._running -= 1
                self._computing -= job.computes
                self._quiet.notify_all()
            self._tell(outcome)

    def _tell(self, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        with self._told:
            self.outcomes.put(outcome)
            self._wake()

    def _extends(self, ingest: int, ring: SlotView, config: RunConfig) -> bool:
        """Whether a programme can be added to the reconstruction that there is, while batches run on it."""
        of = next(iter(list(self._built)), None)  # a copy: another thread may add a programme
        return of is not None and _same_run(of, config) and self._rings.get(ingest, ring) is ring

    def _drop(self) -> None:
        """Give the reconstruction up, with all its programmes."""
        for built in list(self._built.values())[:1]:
            built.reconstruction.close()
        self._built.clear()

    def _configure(self, ingest: int, ring: SlotView, asked: link.Configure) -> Ready:
        generation, config = asked.generation, asked.config
        try:
            with self._building:
                self._asked = {key: other for key, other in self._asked.items() if key[0] != ingest or key[1] in asked.keep}
                self._attach(ingest, ring)
                built = self._build_on(config)
                self._asked[ingest, generation] = config
                for other in self._asked.values():  # of a reconstruction that had to go
                    if _same_run(other, config):
                        self._build_on(other)
                self._put_together()
        except Exception as error:  # whatever it is, the farm has to hear of it
            log.exception("run %d cannot be configured", config.run)
            return Ready(ingest, link.Configured(generation=generation, error=_text(error), fatal=isinstance(error, InputError)))
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
                conditions=built.conditions,
            ),
        )

    def _attach(self, ingest: int, ring: SlotView) -> None:
        """Take over the ring of an ingest, and let the device know it."""
        old = self._rings.get(ingest)
        if old is ring:
            return
        if old is not None:
            self._drop()  # it has the old ring registered, which goes now
            old.close()
        self._rings[ingest] = ring
        for built in list(self._built.values())[:1]:
            try:
                built.reconstruction.register(ring.buffer.data)
            except BaseException:
                self._drop()  # it does not know this ring: the next attempt builds anew
                raise

    def _build_on(self, config: RunConfig) -> Built:
        """The programme for `config`: the one that is there, one more of the present reconstruction, or the first of a new one."""
        if (built := self._built.get(config)) is not None:
            return built
        of, present = next(iter(self._built.items()), (None, None))
        if of is not None and present is not None and _same_run(of, config):
            built = self._build(config, present.reconstruction)
        else:
            self._drop()
            built = self._build(config, None)
            try:
                for known in self._rings.values():
                    built.reconstruction.register(known.buffer.data)
            except BaseException:
                built.reconstruction.close()
                raise
            self.parallel = min(built.reconstruction.parallel, self._most)
        self._built[config] = built
        return built

    def _retire(self, ingest: int, generation: int) -> None:
        with self._building:
            self._asked.pop((ingest, generation), None)
            self._put_together()

    def _put_together(self) -> None:
        """Programmes by ingest and generation. One that nobody asks for gives its memory back; the last stays, for the next to come."""
        self._programmes = {key: self._built[config] for key, config in self._asked.items() if config in self._built}
        for config in [config for config in self._built if config not in self._asked.values()]:
            if len(self._built) > 1:
                built = self._built.pop(config)
                built.reconstruction.forget(built.programme)

    def _timed(self, batch: list[Descriptor], arrived: float, given: float) -> Finished:
        """`_run`, with its times."""
        begin = time.monotonic()
        finished = self._run(batch)
        present = next(iter(list(self._built.values())), None)
        messages = [answer.message for answer in finished.answers]
        times = BatchTimes(
            arrived=arrived,
            given=given,
            begin=begin,
            end=time.monotonic(),
            events=len(batch),
            payload_bytes=sum(item[SIZE] for item in batch),
            runs=tuple(sorted({item[RUN] for item in batch})),
            generations=tuple(sorted({item[GENERATION] for item in batch})),
            backend="" if present is None else present.reconstruction.backend,
            device="" if present is None else present.reconstruction.device,
            stage_seconds=next((message.stage_seconds for message in messages if isinstance(message, link.Results)), {}),
            error=next((message.error for message in messages if isinstance(message, link.Failed)), None),
        )
        return replace(finished, times=times)

    def _run(self, batch: list[Descriptor]) -> Finished:
        begin = self._started[threading.get_ident()] = time.monotonic()
        ingests = list(dict.fromkeys(item[INGEST] for item in batch))
        try:
            rings = self._rings
            events = [
                RawEvent(EventId(run, lumi, event, bx), rings[ingest].payload(slot, size))
                for _, event, slot, size, run, lumi, bx, _, _, _, ingest in batch
            ]
            records, parts, stages = self._decide(batch, events)
            self._ask_shadows(batch, events, records)
        except Exception as error:  # reported with the batch; its events are tried again
            log.exception("a batch of %d events failed", len(batch))
            failed = link.Failed(error=_text(error), stage=stage_of(error))
            blamed = tuple(Answer(n, failed, records_of(of_ingest(n, batch), link.ASSIGNED)) for n in ingests)
            return Finished(blamed, self._breaks(error))
        finally:
            del self._started[threading.get_ident()]
        seconds = time.monotonic() - begin
        if len(ingests) == 1:
            message = link.Results(seconds=seconds, stage_seconds=stages, batch_events=len(batch))
            return Finished((Answer(ingests[0], message, records, parts),))
        source = np.array([item[INGEST] for item in batch])
        answers = []
        for number in ingests:
            first = number == ingests[0]  # that one counts the batch
            message = link.Results(
                seconds=seconds if first else 0.0, stage_seconds=stages if first else {}, batch_events=len(batch) if first else 0
            )
            answers.append(Answer(number, message, *share(records[source == number], parts)))
        return Finished(tuple(answers))

    def _canary(self, ingest: int, asked: link.Canary) -> Ready | Finished:
        begin = self._started[threading.get_ident()] = time.monotonic()
        said = link.CanaryDone(serial=asked.serial, generation=asked.generation)
        try:
            built = self._programmes.get((ingest, asked.generation))
            if built is None:
                raise StateError(f"this worker has no programme {asked.generation}")
            known = self._sung
            if known is not None and known[0] is built and known[1] == asked.payload and begin - known[2] <= asked.fresh_s:
                return Ready(ingest, msgspec.structs.replace(said, digest=known[3]))
            event = RawEvent(CANARY, np.frombuffer(asked.payload, dtype=np.uint8))
            done = built.reconstruction.run([event], columns=None, programme=built.programme)
            digest = int(done.results["digest"][0])
            self._sung = (built, asked.payload, begin, digest)
            return Ready(ingest, msgspec.structs.replace(said, digest=digest, seconds=time.monotonic() - begin))
        except Exception as error:  # the ingest counts it; events that fail as well have their own way
            log.exception("a canary failed")
            answer = msgspec.structs.replace(said, error=_text(error))
            return Finished((), broken=True) if self._breaks(error) else Ready(ingest, answer)
        finally:
            del self._started[threading.get_ident()]

    def _breaks(self, error: Exception) -> bool:
        """Whether the device cannot be trusted after this: CUDA keeps failing after a fault of a kernel, but not after want of memory."""
        cuda = any(built.reconstruction.backend == "cuda" for built in list(self._built.values()))
        return cuda and not isinstance(error, HltfarmError | MemoryError)

    def _decide(self, batch: list[Descriptor], events: list[RawEvent]) -> tuple[NDArray[np.void], tuple[bytes, ...], dict[str, float]]:
        """ANSWER records of a batch, frames of columns, seconds by stage. Nearly always one programme decides all of it."""
        records = records_of(batch, link.ANSWER)
        asked = [bool(item[7] & WANT_COLUMNS) for item in batch]
        parts: list[bytes] = []
        seconds: dict[str, float] = {}
        for built, places in self._by_programme(batch, GENERATION).values():
            wanted = [asked[place] for place in places]
            chosen = [events[place] for place in places] if len(places) < len(events) else events
            done = built.reconstruction.run(chosen, columns=wanted if any(wanted) else None, programme=built.programme)
            if len(done.results) != len(places):
                raise RuntimeError(f"{len(done.results)} results for {len(places)} events")
            records["result"][places] = done.results
            _take_columns(done, wanted, places, records, parts)
            for stage, t in done.stage_seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + t
        return records, tuple(parts), seconds

    def _ask_shadows(self, batch: list[Descriptor], events: list[RawEvent], records: NDArray[np.void]) -> None:
        """What shadows would decide of the events that ask them. Their faults are theirs: the decisions stand."""
        asked = [item for item in batch if item[SHADOW]]
        if not asked:
            return
        for (ingest, generation), (built, places) in self._by_programme(batch, SHADOW).items():
            records["shadow_generation"][places] = [batch[place][SHADOW] for place in places]
            try:
                rows = built.reconstruction.run([events[place] for place in places], columns=None, programme=built.programme).results
            except Exception:
                log.exception("shadow %d of ingest %d failed on %d events", generation, ingest, len(places))
                records["shadow"][places] = link.ShadowOutcome.FAILED
                continue
            records["shadow"][places] = np.where(rows["accept"] != 0, link.ShadowOutcome.ACCEPT, link.ShadowOutcome.REJECT)
            records["shadow_bits"][places] = rows["path_bits"]

    def _by_programme(self, batch: list[Descriptor], field: int) -> dict[tuple[int, int], tuple[Built, list[int]]]:
        """Places of the events by the programme that they name in `field`; by its first ingest and generation, 0 is none.

        Raises StateError for one that is not here, unless it is a shadow.
        """
        programmes = self._programmes
        found: dict[int, tuple[tuple[int, int], Built, list[int]]] = {}
        for place, item in enumerate(batch):
            key = (item[INGEST], item[field])
            built = programmes.get(key)
            if built is None:
                if field == SHADOW:
                    continue
                raise StateError(f"this worker has no programme {key[1]} of ingest {key[0]}")
            entry = found.get(id(built))
            if entry is None:
                found[id(built)] = (key, built, [place])
            else:
                entry[2].append(place)
        return {key: (built, places) for key, built, places in found.values()}


def _done(job: _Job) -> Outcome | None:
    """Do a job. What no job has an answer for ends the worker: without this thread its events would wait for ever."""
    try:
        return job.work()
    except Exception:
        log.exception("the engine failed")
        return Finished((), broken=True)


def _same_run(one: RunConfig, other: RunConfig) -> bool:
    """Whether two configurations differ in menu and models only."""
    return (one.run, one.detector) == (other.run, other.detector)


def _take_columns(done: Batch, wanted: list[bool], places: list[int], records: NDArray[np.void], parts: list[bytes]) -> None:
    """Add the frames with the columns of accepted events that were asked for, and set `part` of their records."""
    for i, (want, place) in enumerate(zip(wanted, places, strict=True)):
        tables = done.reply(i) if want and records["result"]["accept"][place] else None
        if tables is not None:
            parts.append(encode_columns(tables))
            records["part"][place] = len(parts)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
