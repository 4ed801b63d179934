"""CUDA backend: the kernels through NVRTC, a batch as one CUDA graph, payloads copied straight from where they arrived."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cupy
import cupyx
import numpy as np
from cuda.bindings import runtime as cuda_runtime
from cupy.cuda import runtime

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import BackendError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.results import RESULT
from hltfarm.proto.soa import Collection, Schema
from hltfarm.workers.arena import Arena, Capacity, Infer, Launch, asked_parts, describe_batch, plan, split
from hltfarm.workers.backends import codegen
from hltfarm.workers.batch import BATCH, RESULTS, result_rows
from hltfarm.workers.batching import MOST_LANES
from hltfarm.workers.columns import FitColumns, event_columns, fits_asked
from hltfarm.workers.lane_pool import LanePool
from hltfarm.workers.pipeline import CHAIN

if TYPE_CHECKING:
    from hltfarm.workers.backends.cuda_torch import GraphScorer
    from hltfarm.workers.dnn.selector import Selector
    from hltfarm.workers.reconstructor import BatchResult

#: --fmad=false keeps products and sums apart, as the host compiler does with -ffp-contract=off: the same bits on both.
OPTIONS = ("-std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false", "--diag-suppress=177")
THREADS_PER_SM, MAX_BLOCKS_PER_SM = 2048, 32  # what a multiprocessor holds at most (compute capability 8.0 and 9.0)
PROFILE_EVERY_S = 10.0  # a batch without its graph, for the times of the stages; it takes several times as long as the others
SPIN_EVENTS = 8  # for so few events the host waits awake: a wake-up would be a good part of their latency
MEMORY_SHARE = 0.6  # of the free memory that lanes take unless their number is given


def device_allocate(schema: Schema, capacity: int) -> Collection:
    """A collection in device memory, zeroed."""
    layout = schema.layout(capacity)
    return Collection(layout, cupy.zeros(layout.nbytes, cupy.uint8))


def pinned_allocate(schema: Schema, capacity: int) -> Collection:
    """A collection in page-locked host memory, which the device copies without staging."""
    layout = schema.layout(capacity)
    return Collection(layout, cupyx.empty_pinned((layout.nbytes,), np.uint8))


def compile_stages() -> dict[str, Any]:
    """Kernels by name, one module a stage. Raises BackendError with the compiler's message if one does not compile."""
    kernels = {}
    for stage in CHAIN:
        module = cupy.RawModule(code=codegen.cuda_source(stage), options=OPTIONS)
        try:
            for kernel in stage.kernels:
                kernels[kernel.name] = module.get_function(kernel.name)
        except cupy.cuda.compiler.CompileException as e:
            raise BackendError(f"stage {stage.name} does not compile for this device: {e}") from e
    return kernels


def _to_device(tables: dict[str, Collection]) -> dict[str, Collection]:
    return {name: Collection(c.layout, cupy.asarray(c.buffer[: c.layout.nbytes])) for name, c in tables.items()}


@dataclass(frozen=True)
class Program:
    """What a lane runs: its steps and their graph, which holds bare addresses of the tables' memory."""

    tables: dict[str, Collection]
    steps: Sequence[Launch | Infer]
    scorer: GraphScorer | None
    graph: Any


class CudaLane:
    """One arena on the device with its stream and its captured graph: one batch in flight."""

    def __init__(
        self,
        detector: Detector,
        capacity: Capacity,
        kernels: dict[str, Any],
    ) -> None:
        self.detector = detector
        self.programs: dict[int, Program] = {}  #: by number; changed only while the lane is idle
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.arena = Arena(detector, capacity, device_allocate)
        self._kernels = kernels
        self._batch = pinned_allocate(BATCH, capacity.events)
        self._results = pinned_allocate(RESULTS, capacity.events)
        self._sms = cupy.cuda.Device().attributes["MultiProcessorCount"]
        self._items = {"n_events": capacity.events, "one": 1}
        self._begin, self._end, self._done = cupy.cuda.Event(), cupy.cuda.Event(), cupy.cuda.Event(block=True, disable_timing=True)
        self._in_order = cuda_runtime.cudaMemcpyAttributes()
        self._in_order.srcAccessOrder = cuda_runtime.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream
        self._marks: list[tuple[str, Any]] = []
        self.events: Sequence[RawEvent] = ()
        self.asked: Sequence[bool] | None = None  #: of the events, whose tracks and vertices are wanted

    def prepare(self, tables: dict[str, Collection], params: dict[str, Any], selector: Selector) -> Program:
        """The graph for tables and models on this lane's memory; the lane must be idle. Raises BackendError."""
        try:
            return self._captured(tables, params, selector)
        except (RuntimeError, MemoryError) as e:  # of torch, CuPy and CUDA: no memory, an operator that a graph cannot hold
            raise BackendError(f"selector {selector.name}, engine {selector.engine}: no CUDA graph of it: {type(e).__name__}: {e}") from e

    def _captured(self, tables: dict[str, Collection], params: dict[str, Any], selector: Selector) -> Program:
        scorer = self._graph_scorer(selector) if selector.uses_torch else None
        steps = plan(self.arena, tables, params, selector.kinds)
        with self.stream:
            self.stream.begin_capture()
            try:
                self._enqueue(steps, scorer, mark=False)
            except BaseException:
                with suppress(runtime.CUDARuntimeError):  # says that the capture is broken; why is what comes out of here
                    self.stream.end_capture()
                raise
            graph = self.stream.end_capture()
        return Program(tables, steps, scorer, graph)

    def _graph_scorer(self, selector: Selector) -> GraphScorer:
        from hltfarm.workers.backends.cuda_torch import GraphScorer
        from hltfarm.workers.dnn.scorer import Scorer

        selected, batch = self.arena["Selected"], self.arena["Batch"]
        return GraphScorer(Scorer(selected, selector), selected.capacity, batch.address("n_selected"))

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        runtime.memcpyAsync(target, source, nbytes, kind, self.stream.ptr)

    def _copy_payloads(self, events: Sequence[RawEvent]) -> None:
        """All payloads to their places, in one call: threads of ten lanes that make a call for each wait for the driver's lock instead."""
        base = self.arena["Raw"].buffer.data.ptr
        targets, sources, sizes = list[int](), list[int](), list[int]()
        for begin, event in zip(self._batch.payload_begin.tolist(), events, strict=False):
            payload = event.payload
            if payload.nbytes != 0:
                targets.append(base + 4 * begin)
                sources.append(payload.__array_interface__["data"][0])  # `ctypes.data` takes thrice as long
                sizes.append(payload.nbytes)
        if not sizes:
            return
        (status,) = cuda_runtime.cudaMemcpyBatchAsync(targets, sources, sizes, len(sizes), [self._in_order], [0], 1, self.stream.ptr)
        if status != cuda_runtime.cudaError_t.cudaSuccess:
            raise runtime.CUDARuntimeError(int(status))

    def _enqueue(self, steps: Sequence[Launch | Infer], scorer: GraphScorer | None, mark: bool) -> None:
        """The chain on the lane's stream: description of the batch in, kernels, result table out."""
        batch, results = self.arena["Batch"], self.arena["Results"]
        self._copy(batch.buffer.data.ptr, self._batch.buffer.ctypes.data, batch.layout.nbytes, runtime.memcpyHostToDevice)
        stage = ""
        for step in steps:
            if mark and step.stage.name != stage:
                self._mark(step.stage.name)
                stage = step.stage.name
            if isinstance(step, Launch):
                self._launch(step)
            else:
                assert scorer is not None, "a plan with a torch model needs its scorer"
                if mark:  # profiled, without a graph: the host may ask for the count
                    scorer.run(self.stream, int(self.arena["Batch"].n_selected.get(stream=self.stream)[0]))
                else:
                    scorer.capture(self.stream)
        if mark:
            self._mark("")
        self._copy(self._results.buffer.ctypes.data, results.buffer.data.ptr, results.layout.nbytes, runtime.memcpyDeviceToHost)

    def _launch(self, launch: Launch) -> None:
        kernel = launch.kernel
        threads, shared = codegen.block_threads(kernel), codegen.block_scratch(kernel, launch.scratch)
        resident = self._sms * min(MAX_BLOCKS_PER_SM, THREADS_PER_SM // threads)
        blocks = min(self._items.get(kernel.items.partition(".")[2], resident), resident)
        function = self._kernels[kernel.name]
        if shared > 48 << 10:
            function.max_dynamic_shared_size_bytes = shared
        args = (np.uint64(launch.items), np.uint32(launch.scratch // 4), *launch.structs)
        function((blocks,), (threads,), args, shared_mem=shared)

    def _mark(self, stage: str) -> None:
        event = cupy.cuda.Event()
        event.record(self.stream)
        self._marks.append((stage, event))

    def start(self, events: Sequence[RawEvent], number: int, profile: bool) -> None:
        """Enqueue a batch that fits; returns at once. The payloads must stay in place until `finish`."""
        self.events = events
        describe_batch(self._batch, events, self.detector)
        self._copy_payloads(events)
        self._marks = []
        program = self.programs[number]
        with self.stream:
            self._begin.record(self.stream)
            if profile:
                self._enqueue(program.steps, program.scorer, mark=True)
            else:
                program.graph.launch(self.stream)
            self._end.record(self.stream)
            self._done.record(self.stream)

    def finish(self) -> tuple[np.ndarray[Any, Any], dict[str, float]]:
        """Wait for the batch; its result rows, and device seconds: "chain", and by stage if it was profiled."""
        (self._end if len(self.events) <= SPIN_EVENTS else self._done).synchronize()
        seconds = {"chain": cupy.cuda.get_elapsed_time(self._begin, self._end) * 1e-3}
        for (stage, start), (_, stop) in zip(self._marks, self._marks[1:], strict=False):
            seconds[stage] = cupy.cuda.get_elapsed_time(start, stop) * 1e-3
        return result_rows(self._results, len(self.events)), seconds


class CudaBackend:
    """Several lanes: batches whose copies and kernels overlap on the device. Several threads may call `run` at a time.

    `lanes` 0: as many as the device's memory holds, at most MOST_LANES.
    """

    def __init__(
        self,
        detector: Detector,
        capacity: Capacity,
        profile: bool,
        lanes: int = 0,
    ) -> None:
        try:
            device = cupy.cuda.Device()
            properties = runtime.getDeviceProperties(device.id)
        except runtime.CUDARuntimeError as e:
            raise BackendError(f"no usable CUDA device ({e}); use --backend cpu") from None
        self.device = properties["name"].decode()
        self.detector = detector
        self.capacity = capacity
        self._device_number = device.id
        self._profile = profile
        self._profiled = -PROFILE_EVERY_S
        self._registered: list[int] = []
        self._selects: dict[int, bool] = {}  # programs with a selector of tracks
        kernels = compile_stages()
        n = lanes or min(MOST_LANES, max(1, int(MEMORY_SHARE * runtime.memGetInfo()[0]) // capacity.nbytes(detector)))
        try:
            self._lanes = LanePool([CudaLane(detector, capacity, kernels) for _ in range(n)])
        except cupy.cuda.memory.OutOfMemoryError as e:
            raise BackendError(
                f"{self.device}: not enough memory for batches of {capacity.events} events ({e}); lower max_events or max_batch_bytes"
            ) from None
        self.parallel = n
        cupy.cuda.Device().synchronize()  # zeroed arenas are in place before a lane's own stream starts

    def run(self, events: Sequence[RawEvent], keep: bool, columns: Sequence[bool] | None, number: int) -> BatchResult:
        from hltfarm.workers.reconstructor import BatchResult

        runtime.setDevice(self._device_number)  # CUDA asks every thread for itself
        rows, seconds, kept = [], dict[str, float](), list[FitColumns | None]()
        busy: deque[CudaLane] = deque()
        selects = self._selects[number]

        def collect() -> None:
            lane = busy[0]
            lane_rows, lane_seconds = lane.finish()
            rows.append(lane_rows)
            for stage, t in lane_seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + t
            if keep:
                kept.extend(event_columns(lane.arena.collections, self.detector, i, selects) for i in range(len(lane.events)))
            else:
                kept.extend(fits_asked(lane.arena.collections, lane_rows, lane.asked))
            self._lanes.put(busy.popleft())

        parts = list(asked_parts(split(events, self.capacity), columns))  # an event that fits no batch is found before anything starts
        try:
            for part, asked in parts:
                while (lane := self._lanes.get(wait=not busy)) is None:
                    collect()
                lane.asked = asked
                busy.append(lane)  # before it starts: if that fails half-way, copies of payloads are under way
                lane.start(part, number, self._profile or self._profile_is_due())
            while busy:
                collect()
        finally:
            for lane in busy:  # only after an error: nothing may read the payloads any more
                with suppress(runtime.CUDARuntimeError):  # of a device that failed for good; why is what comes out of here
                    lane.stream.synchronize()
                self._lanes.put(lane)
        return BatchResult(np.concatenate(rows) if rows else np.empty(0, RESULT), seconds, kept if keep or columns is not None else None)

    def _profile_is_due(self) -> bool:
        now = time.monotonic()
        if now - self._profiled < PROFILE_EVERY_S:
            return False
        self._profiled = now  # two threads that come here at once both profile, which does no harm
        return True

    def prepare(self, number: int, tables: dict[str, Collection], params: dict[str, np.ndarray[Any, Any]], selector: Selector) -> None:
        """See `LanePool.prepare`."""
        runtime.setDevice(self._device_number)
        tables = _to_device(tables)
        cupy.cuda.Device().synchronize()  # they are in place before a lane's own stream reads them
        self._lanes.prepare(number, tables, params, selector)
        self._selects[number] = selector.track is not None

    def forget(self, number: int) -> None:
        """No run may ask for this program any more."""
        self._lanes.forget(number)
        self._selects.pop(number, None)

    def register(self, buffer: memoryview) -> None:
        """Page-lock foreign memory. Raises BackendError if the driver refuses."""
        address = np.frombuffer(buffer, np.uint8).ctypes.data
        try:
            runtime.hostRegister(address, buffer.nbytes, 0)
        except runtime.CUDARuntimeError as e:
            raise BackendError(f"cannot page-lock {buffer.nbytes} bytes of the slot ring ({e}); raise the memlock limit") from None
        self._registered.append(address)

    def close(self) -> None:
        for lane in self._lanes.lanes:
            with suppress(runtime.CUDARuntimeError):  # a device that failed for good says so every time
                lane.stream.synchronize()
        for address in self._registered:
            with suppress(runtime.CUDARuntimeError):
                runtime.hostUnregister(address)
        self._registered = []
        self._lanes = LanePool(())  # arenas and graphs go with the lanes
