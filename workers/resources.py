"""What a worker process uses: its memory and, where nvidia-ml-py is installed, its GPU. Read in a thread of its own, now and then."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from hltfarm.proto.messages import GpuUse, Resources

log = logging.getLogger(__name__)
STATM = Path("/proc/self/statm")
EVERY_S = 5.0


def resident_bytes() -> int:
    """Resident memory of this process, with the shared pages that it has touched."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Meter:
    """`latest` is what the process uses, some seconds old. gpu: whether it computes on one."""

    def __init__(self, *, gpu: bool, every_s: float = EVERY_S) -> None:
        self.latest = Resources(resident_bytes=resident_bytes())
        self._gpu = gpu
        self._every_s = every_s
        self._nvml: Any = None  # of nvidia-ml-py, once it is there
        self._handle: Any = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._main, name="resources", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join()

    def _main(self) -> None:
        while not self._end.wait(self._every_s):
            self.latest = Resources(resident_bytes=resident_bytes(), gpu=self._gpu_use() if self._gpu else None)

    def _gpu_use(self) -> GpuUse | None:
        """None until the process computes on a GPU, and for good where the driver cannot be asked."""
        runtime = sys.modules.get("cupy_backends.cuda.api.runtime")
        if runtime is None:  # nothing was built yet
            return None
        try:
            if self._nvml is None:
                nvml = importlib.import_module("pynvml")
                nvml.nvmlInit()
                self._handle = nvml.nvmlDeviceGetHandleByPciBusId(runtime.deviceGetPCIBusId(0).encode())  # the only one it sees
                self._nvml = nvml
            nvml, handle = self._nvml, self._handle
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            return GpuUse(
                index=int(nvml.nvmlDeviceGetIndex(handle)),
                uuid=str(nvml.nvmlDeviceGetUUID(handle)),
                memory_used_bytes=int(memory.used),
                memory_total_bytes=int(memory.total),
                utilization=nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            )
        except Exception as error:  # of the driver or its library: telemetry must not end a worker
            log.warning("the GPU's memory and utilization are not told: %s: %s", type(error).__name__, error)
            self._gpu = False
            return None
