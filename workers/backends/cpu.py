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


def load_library() -> ctypes.CDLL:
    """The compiled kernels. Raises BackendError if they were not built."""
    try:
        from hltfarm.workers.backends import cpu_kernels
    except ImportError as e:
        raise BackendError(f"the CPU kernels are not built ({e}); install hltfarm with a C++17 compiler present (pip install .)") from None
    library = ctypes.CDLL(cpu_kernels.__file__)
    library.hlt_find.restype = ctypes.c_void_p
    library.hlt_find.argtypes = (ctypes.c_char_p,)
    library.hlt_run.restype = None
    library.hlt_run.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
    return library


class CpuLane:
    """One arena with its plan: reconstructs one task of events at a time, on the calling thread. torch models run between its kernels.

    Not thread-safe: a lane belongs to one thread while it runs. Results stay valid until the lane runs again.
    """

    def __init__(
        self,
        detector: Detector,
        capacity: Capacity,
        tables: dict[str, Collection],
        params: dict[str, np.ndarray[Any, Any]],
        selector: Selector,
    ) -> None:
        self.detector = detector
        self.arena = Arena(detector, capacity, host_allocate)
        self._library = load_library()
        self.use(tables, params, selector)

    def use(self, tables: dict[str, Collection], params: dict[str, np.ndarray[Any, Any]], selector: Selector) -> None:
        """Other tables and models from the next run on. Raises BackendError for a torch model that cannot be built; nothing changes then."""
        scorer = Scorer(self.arena["Selected"], selector) if selector.uses_torch else None
        self._tables = tables  # the plan holds bare addresses of their memory
        steps = plan(self.arena, tables, params, selector.kinds)
        self.launches = [step for step in steps if isinstance(step, Launch)]
        self._scratch = aligned_empty(max(128, *(launch.scratch for launch in self.launches)))
        self._scratch[:] = 0  # kernels expect it clean and leave it clean
        self._args = [self._pointers(launch) for launch in self.launches]
        self._steps = (_Step * len(self.launches))(
            *(self._step(launch, args) for launch, args in zip(self.launches, self._args, strict=True))
        )
        self.seconds = np.zeros(len(self.launches))
        #: Launches before the torch model, the stage it belongs to, and its seconds.
        self._torch_at = next((i for i, step in enumerate(steps) if isinstance(step, Infer)), None)
        self._torch_seconds = 0.0
        self._scorer = scorer

    def _pointers(self, launch: Launch) -> Any:
        return (ctypes.c_void_p * len(launch.structs))(*(s.ctypes.data for s in launch.structs))

    def _step(self, launch: Launch, args: Any) -> _Step:
        function = self._library.hlt_find(launch.kernel.name.encode())
        if not function:
            raise BackendError(f"the compiled CPU kernels lack {launch.kernel.name}; they are older than the sources, reinstall hltfarm")
        return _Step(function, launch.items, ctypes.addressof(args), self._scratch.ctypes.data)

    def run(self, events: list[RawEvent]) -> None:
        """Reconstruct events that fit the capacity. The GIL is released while the kernels run."""
        describe_batch(self.arena["Batch"], events, self.detector)
        raw = self.arena["Raw"].word.view(np.uint8)
        for begin, event in zip(self.arena["Batch"].payload_begin, events, strict=False):
            raw[4 * int(begin) : 4 * int(begin) + event.payload.nbytes] = event.payload
        if self._scorer is None:
            self._run_steps(0, len(self._steps))
            return
        assert self._torch_at is not None
        self._run_steps(0, self._torch_at)
        begin = time.perf_counter()
        self._scorer.score(0, int(self.arena["Batch"].n_selected[0]))
        self._torch_seconds += time.perf_counter() - begin
        self._run_steps(self._torch_at, len(self._steps))

    def _run_steps(self, first: int, last: int) -> None:
        steps = ctypes.addressof(self._steps) + first * ctypes.sizeof(_Step)
        self._library.hlt_run(steps, last - first, self.seconds.ctypes.data + first * self.seconds.itemsize)

    def stage_seconds(self) -> dict[str, float]:
        """Wall time by stage since the last call, in seconds."""
        out: dict[str, float] = {}
        for launch, t in zip(self.launches, self.seconds, strict=True):
            out[launch.stage.name] = out.get(launch.stage.name, 0.0) + float(t)
        self.seconds[:] = 0
        if self._scorer is not None:
            out["dnn"] += self._torch_seconds
            self._torch_seconds = 0.0
        return out
