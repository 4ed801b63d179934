"""Raw events in, result rows out: the chain on a chosen backend.

    with Reconstructor(detector, menu, backend="auto") as reconstructor:
        batch = reconstructor.run(events)
        batch.results["accept"], batch.results["digest"]

A Reconstructor owns its memory (arenas) from construction to `close()`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import BackendError, ConfigError, StateError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.results import RESULT
from hltfarm.proto.soa import Collection
from hltfarm.workers import conditions, configuration
from hltfarm.workers.arena import Capacity, asked_parts, host_allocate, split
from hltfarm.workers.backends.cpu import CpuLane
from hltfarm.workers.batch import result_rows
from hltfarm.workers.columns import EventColumns, FitColumns, event_columns, fits_asked, reply_tables
from hltfarm.workers.configuration import Configuration, SelectionConfig
from hltfarm.workers.detector_cuts import for_detector
from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.dnn.selector import EVENT_INPUTS, Selector
from hltfarm.workers.lane_pool import LanePool
from hltfarm.workers.menu import Menu
from hltfarm.workers.menu.stage import fill_tables as menu_tables
from hltfarm.workers.models.torch_extra import require_torch


class BatchResult:
    """Result rows of the events of one `run`, in their order, and where the time went.

    `results` has dtype RESULT; `stage_seconds` sums over threads. With keep=True, `digis(i)`, `hits(i)`, `tracks(i)` and
    `vertices(i)` give the columns of event i; with columns=, the last two do for events that were asked for and are accepted.
    """

    def __init__(self, results: NDArray[np.void], stage_seconds: dict[str, float], columns: Sequence[FitColumns | None] | None) -> None:
        self.results = results
        self.stage_seconds = stage_seconds
        self._columns = columns

    def hits(self, i: int) -> dict[str, NDArray[Any]]:
        """Columns of the Hits structure for event i, in order of module and cluster. Raises ConfigError without keep=True."""
        return self._kept_all(i).hits

    def tracks(self, i: int) -> dict[str, NDArray[Any]]:
        """Columns of the Tracks structure for event i (every candidate that was fitted), with `charge`.

        `hits` (n, most) are indices within the event's hits, -1 behind the last.
        """
        return self._kept(i).tracks

    def vertices(self, i: int) -> dict[str, NDArray[Any]]:
        """z, error (cm), chi2, ndof, sum_pt2 (GeV^2) of the vertices of event i, hardest first."""
        return self._kept(i).vertices

    def digis(self, i: int) -> dict[str, NDArray[Any]]:
        """module, row, col, charge (electrons) and hit (-1: cut) of the distinct pixels of event i, in order of module, column, row."""
        return self._kept_all(i).digis

    def features(self, i: int) -> dict[str, NDArray[Any]]:
        """What the selector saw of event i: `track` (n,), rows in `tracks(i)`; `values` (n, len(FEATURES)) float32.

        Raises ConfigError without keep=True, or without a selector.
        """
        features = self._kept_all(i).features
        if not features:
            raise ConfigError("features are computed for a selector; this reconstruction has none")
        return features

    def reply(self, i: int) -> dict[str, dict[str, NDArray[Any]]] | None:
        """Tables `tracks` (loose ones) and `vertices` of event i for a client; None if its columns were not kept."""
        kept = self._columns[i] if self._columns is not None else None
        return None if kept is None else reply_tables(kept)

    def _kept(self, i: int) -> FitColumns:
        kept = self._columns[i] if self._columns is not None else None
        if kept is None:
            raise ConfigError(f"the columns of event {i} of this batch were not kept; call run(events, keep=True)")
        return kept

    def _kept_all(self, i: int) -> EventColumns:
        kept = self._kept(i)
        if not isinstance(kept, EventColumns):
            raise ConfigError("only tracks and vertices of this batch were kept; call run(events, keep=True)")
        return kept


class Backend(Protocol):
    """What a backend does for a Reconstructor."""

    device: str
    parallel: int

    def run(self, events: Sequence[RawEvent], keep: bool, columns: Sequence[bool] | None, number: int) -> BatchResult: ...

    def prepare(self, number: int, tables: dict[str, Collection], params: dict[str, NDArray[np.void]], selector: Selector) -> None: ...

    def forget(self, number: int) -> None: ...

    def register(self, buffer: memoryview) -> None: ...

    def close(self) -> None: ...


class CpuBackend:
    """Events spread over threads; each task runs `events_per_task` events in the lane (arena) of its thread."""

    parallel = 1  # one run keeps all threads busy

    def __init__(
        self,
        detector: Detector,
        capacity: Capacity,
        threads: int,
        events_per_task: int,
    ) -> None:
        self.detector = detector
        self.task = Capacity(events_per_task, capacity.words, capacity.config)
        lanes = [CpuLane(detector, self.task) for _ in range(threads)]
        self._lanes = LanePool(lanes)
        self._selects: dict[int, bool] = {}  # programs with a selector of tracks
        self.device = f"cpu:{threads} {lanes[0].library.name}"
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reconstruct") if threads > 1 else None

    def run(self, events: Sequence[RawEvent], keep: bool, columns: Sequence[bool] | None, number: int) -> BatchResult:
        tasks = list(asked_parts(split(events, self.task), columns))
        if self._pool is None:
            done = [self._run_task(task, keep, asked, number) for task, asked in tasks]
        else:
            done = list(self._pool.map(lambda task: self._run_task(task[0], keep, task[1], number), tasks))
        seconds: dict[str, float] = {}
        for _, stages, _ in done:
            for stage, t in stages.items():
                seconds[stage] = seconds.get(stage, 0.0) + t
        rows = np.concatenate([rows for rows, _, _ in done]) if done else np.empty(0, RESULT)
        return BatchResult(rows, seconds, [c for _, _, kept in done for c in kept] if keep or columns is not None else None)

    def _run_task(
        self, events: Sequence[RawEvent], keep: bool, asked: Sequence[bool] | None, number: int
    ) -> tuple[NDArray[np.void], dict[str, float], Sequence[FitColumns | None]]:
        lane = self._lanes.get()
        assert lane is not None, "it waits"
        try:
            program = lane.run(list(events), number)
            rows = result_rows(lane.arena["Results"], len(events))
            arena = lane.arena.collections
            kept: Sequence[FitColumns | None]
            if keep:
                kept = [event_columns(arena, self.detector, i, self._selects[number]) for i in range(len(events))]
            else:
                kept = fits_asked(arena, rows, asked)
            return rows, program.stage_seconds(), kept
        finally:
            self._lanes.put(lane)

    def prepare(self, number: int, tables: dict[str, Collection], params: dict[str, NDArray[np.void]], selector: Selector) -> None:
        """See `LanePool.prepare`."""
        if selector.uses_torch:
            _one_torch_thread()
        self._lanes.prepare(number, tables, params, selector)
        self._selects[number] = selector.track is not None

    def forget(self, number: int) -> None:
        """No run may ask for this program any more."""
        self._lanes.forget(number)
        self._selects.pop(number, None)

    def register(self, buffer: memoryview) -> None:
        """Nothing to do: the CPU reads any memory."""

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._lanes = LanePool(())


class Reconstructor:
    """The chain over a detector and a menu on a backend: "cpu", "cuda" or "auto" (cuda where a device is present).

    `max_events` and `max_batch_bytes` bound one batch on the device (longer lists are split); an event larger than `max_batch_bytes`
    raises LimitError. `selector`: other models than those that the configuration names. `threads` (CPU): 0 = all cores this process
    may use. `events_per_task` (CPU): events a thread runs together. `lanes` (CUDA): batches on the device at a time, each with memory
    for the largest batch; 0: as many as fit, at most ten.
    Raises BackendError if the backend is not usable here, ConditionsError if the detector is inconsistent.
    """

    def __init__(
        self,
        detector: Detector,
        menu: Menu,
        *,
        backend: str = "auto",
        max_events: int = 64,
        max_batch_bytes: int = 32 << 20,
        threads: int = 0,
        events_per_task: int = 1,
        config: Configuration = configuration.DEFAULT,
        selector: Selector | None = None,
        profile: bool = False,
        lanes: int = 0,
    ) -> None:
        if backend not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"backend {backend!r} is unknown; use auto, cpu or cuda")
        for name, value in (("max_events", max_events), ("max_batch_bytes", max_batch_bytes)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        detector.validate()
        config = for_detector(config, detector)
        self.detector, self.menu, self.config = detector, menu, config
        capacity = Capacity(max_events, -(-max_batch_bytes // 128) * 32, config)
        self.selector = selector if selector is not None else load_selector(config.selection)
        self._numbers = count(1)
        self._closed = False
        self._backend: Backend
        if backend == "cuda" or (backend == "auto" and cuda_available()):
            try:
                from hltfarm.workers.backends.cuda import CudaBackend
            except ImportError as e:
                raise BackendError(f"the cuda backend needs CuPy ({e}); install hltfarm[cuda], or use --backend cpu") from None

            self.backend, self._backend = "cuda", CudaBackend(detector, capacity, profile, lanes)
        else:
            n = threads or len(os.sched_getaffinity(0))
            self.backend, self._backend = "cpu", CpuBackend(detector, capacity, n, events_per_task)
        try:
            self.programme = self.prepare()  #: number of the one that runs which name none take
        except BaseException:
            self._backend.close()
            raise

    @property
    def device(self) -> str:
        """What the kernels run on, for people and metrics: "cpu:<threads> <instructions>" or the name of the GPU."""
        return self._backend.device

    @property
    def parallel(self) -> int:
        """Threads that may call `run` at a time to the benefit of the throughput; any number may call it."""
        return self._backend.parallel

    def run(
        self, events: Sequence[RawEvent], keep: bool = False, columns: Sequence[bool] | None = None, programme: int | None = None
    ) -> BatchResult:
        """Reconstruct and decide. `keep` copies all columns of every event back to the host (see BatchResult).

        columns: for each event, whether its tracks and vertices are wanted if it is accepted; only those are copied. Raises ConfigError
        if there is not one for each event, StateError after `close`. programme: what decides, a number from `prepare`;
        the present one if None.
        """
        if self._closed:
            raise StateError("the reconstruction is closed")
        if columns is not None and len(columns) != len(events):
            raise ConfigError(f"columns has {len(columns)} entries for {len(events)} events; give one for each event")
        return self._backend.run(events, keep, columns, self.programme if programme is None else programme)

    def prepare(self, *, menu: Menu | None = None, selector: Selector | None = None, config: Configuration | None = None) -> int:
        """Another programme beside the present one: a menu, models, and a configuration that differs in its selection only; its number.

        Batches go on meanwhile. Raises ConfigError for what the chain cannot compute, BackendError for a torch model that cannot be built,
        and if there is no torch.
        """
        menu, selector = menu or self.menu, selector or self.selector
        config = self.config if config is None else for_detector(config, self.detector)
        if replace(config, selection=self.config.selection) != self.config:
            raise ConfigError("programmes of one reconstruction differ in menu, models and selection only")
        if selector.uses_torch:
            require_torch(f"the engine {selector.engine}")
        number = next(self._numbers)
        tables = host_tables(self.detector, menu, config, selector)
        self._backend.prepare(number, tables, parameters(self.detector, config, selector), selector)
        return number

    def forget(self, programme: int) -> None:
        """A programme is not needed any more; no run may name it from now on."""
        self._backend.forget(programme)

    def use(self, *, menu: Menu | None = None, selector: Selector | None = None) -> None:
        """Another menu, or other models, from the next `run` on; memory and kernels stay. Nothing changes if it raises (see `prepare`)."""
        menu, selector = menu or self.menu, selector or self.selector
        former, self.programme = self.programme, self.prepare(menu=menu, selector=selector)
        self.menu, self.selector = menu, selector
        self.forget(former)

    def register(self, buffer: memoryview) -> None:
        """Pin memory that payloads will lie in (the slot ring), so that the device copies straight from it."""
        self._backend.register(buffer)

    def close(self) -> None:
        """Give the memory back; nothing may run any more."""
        self._closed = True
        self._backend.close()

    def __enter__(self) -> Reconstructor:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _one_torch_thread() -> None:
    """torch works in the thread of its lane alone: events are spread over threads already."""
    import torch

    torch.set_num_threads(1)


def load_selector(config: SelectionConfig) -> Selector:
    """The models that a configuration names.

    Raises ConfigError if there is no such model, the chain cannot compute it, or both have one name, by which the API tells them apart.
    """
    if config.model is None and config.event_model is None:
        return Selector()
    from hltfarm.workers.models import load
    from hltfarm.workers.models.registry import find

    track = None if config.model is None else load(find(config.model), FEATURES)
    event = None if config.event_model is None else load(find(config.event_model), EVENT_INPUTS)
    if track is not None and event is not None and track.name == event.name:
        raise ConfigError(f"selector of tracks and classifier of events are both named {track.name}; rename one of them in its model.json")
    return Selector(track, config.working_point, config.engine, event)


def host_tables(detector: Detector, menu: Menu, config: Configuration, selector: Selector) -> dict[str, Collection]:
    """Every table that kernels read besides the batch, in host memory, by struct name."""
    return (
        conditions.fill_tables(detector, host_allocate)
        | configuration.fill_tables(config, detector, host_allocate)
        | selector.tables(host_allocate)
        | menu_tables(menu, host_allocate)
    )


def parameters(detector: Detector, config: Configuration, selector: Selector) -> dict[str, NDArray[np.void]]:
    """Every struct that kernels receive by value, by name."""
    return {"Detector": conditions.detector_params(detector)} | configuration.params(config, detector, selector)


def cuda_available() -> bool:
    """True if CuPy is installed and sees a device."""
    try:
        import cupy
    except ImportError:
        return False
    try:
        return bool(cupy.cuda.runtime.getDeviceCount() > 0)
    except cupy.cuda.runtime.CUDARuntimeError:
        return False
