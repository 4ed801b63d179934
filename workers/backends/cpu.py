"""CPU backend: the kernels as loops, one task of events per thread, no GIL held while they run."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import BackendError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.soa import Collection, aligned_empty
from hltfarm.workers.arena import Arena, Capacity, Infer, Launch, describe_batch, host_allocate, plan
from hltfarm.workers.backends.cpu_library import Library, load_library
from hltfarm.workers.dnn.scorer import Scorer
from hltfarm.workers.dnn.selector import Selector


class _Step(ctypes.Structure):
    """Mirror of hlt_cpu::Step."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("items", ctypes.c_void_p),
        ("args", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    )


class Program:
    """What a lane runs: the launches of its kernels as the library takes them, and the torch model between two of them.

    It owns the tables and the team memory, which the library gets as bare addresses.
    """

    def __init__(
        self,
        arena: Arena,
        tables: dict[str, Collection],
        params: dict[str, np.ndarray[Any, Any]],
        selector: Selector,
        library: Library,
    ) -> None:
        self._tables = tables
        self._library = library.code
        steps = plan(arena, tables, params, selector.kinds)
        launches = [step for step in steps if isinstance(step, Launch)]
        scratch = aligned_empty(max(128, *(launch.scratch for launch in launches)))
        scratch[:] = 0  # kernels expect it clean and leave it clean
        self._scratch = scratch
        self._launches = launches
        self._args = [(ctypes.c_void_p * len(x.structs))(*(s.ctypes.data for s in x.structs)) for x in launches]
        self._steps = (_Step * len(launches))(*(self._step(x, args) for x, args in zip(launches, self._args, strict=True)))
        self._seconds = np.zeros(len(launches))
        self._count = arena["Batch"].n_selected
        #: Launches before the torch model, and its wall time.
        self._torch_at = next((i for i, step in enumerate(steps) if isinstance(step, Infer)), len(launches))
        self._torch_seconds = 0.0
        self._scorer = Scorer(arena["Selected"], selector) if selector.uses_torch else None

    def _step(self, launch: Launch, args: Any) -> _Step:
        function = self._library.hlt_find(launch.kernel.name.encode())
        if not function:
            raise BackendError(f"the compiled CPU kernels lack {launch.kernel.name}; they are older than the sources, reinstall hltfarm")
        return _Step(function, launch.items, ctypes.addressof(args), self._scratch.ctypes.data)

    def run(self) -> None:
        """All steps in order. The GIL is released while kernels run."""
        self._run(0, self._torch_at)
        if self._scorer is not None:
            begin = time.perf_counter()
            self._scorer.score(0, int(self._count[0]))
            self._torch_seconds += time.perf_counter() - begin
        self._run(self._torch_at, len(self._launches))

    def _run(self, first: int, last: int) -> None:
        steps = ctypes.addressof(self._steps) + first * ctypes.sizeof(_Step)
        self._library.hlt_run(steps, last - first, self._seconds.ctypes.data + first * self._seconds.itemsize)

    def kernel_seconds(self) -> dict[str, float]:
        """Wall time by kernel since the last call of this or of `stage_seconds`, in seconds."""
        out = {x.kernel.name: float(t) for x, t in zip(self._launches, self._seconds, strict=True)}
        if self._scorer is not None:
            out["torch"] = self._torch_seconds
        self._seconds[:], self._torch_seconds = 0, 0.0
        return out

    def stage_seconds(self) -> dict[str, float]:
        """Wall time by stage since the last call, in seconds."""
        out: dict[str, float] = {}
        for launch, t in zip(self._launches, self._seconds, strict=True):
            out[launch.stage.name] = out.get(launch.stage.name, 0.0) + float(t)
        if self._scorer is not None:
            out["dnn"] += self._torch_seconds
        self._seconds[:], self._torch_seconds = 0, 0.0
        return out


class CpuLane:
    """One arena with its program: reconstructs one task of events at a time, on the calling thread.

    Not thread-safe: a lane belongs to one thread while it runs. Results stay valid until the lane runs again.
    """

    def __init__(self, detector: Detector, capacity: Capacity) -> None:
        self.detector = detector
        self.arena = Arena(detector, capacity, host_allocate)
        self.library = load_library()
        self.programs: dict[int, Program] = {}  #: by number; changed only while the lane is idle

    def prepare(self, tables: dict[str, Collection], params: dict[str, np.ndarray[Any, Any]], selector: Selector) -> Program:
        """The program for tables and models on this lane's memory. Raises BackendError for a torch model that cannot be built."""
        return Program(self.arena, tables, params, selector, self.library)

    def run(self, events: list[RawEvent], number: int) -> Program:
        """Reconstruct events that fit the capacity; the program that did it has the times."""
        describe_batch(self.arena["Batch"], events, self.detector)
        raw = self.arena["Raw"].word.view(np.uint8)
        for begin, event in zip(self.arena["Batch"].payload_begin, events, strict=False):
            raw[4 * int(begin) : 4 * int(begin) + event.payload.nbytes] = event.payload
        program = self.programs[number]
        program.run()
        return program
