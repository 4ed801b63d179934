"""`hltfarm worker` on the CPU which believes that it computes on a GPU: the driver's library is made up. Run as a script by the test of the
dashboards, which want the metrics of GPUs on machines without one.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

from hltfarm.service.cli import main
from hltfarm.workers import process
from hltfarm.workers.resources import Meter

TOTAL = 80 << 30


def install_driver() -> None:
    """Two modules as nvidia-ml-py and CuPy have them, and a meter that asks them often."""
    nvml, runtime = ModuleType("pynvml"), ModuleType("runtime")
    vars(nvml).update(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: bus,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=TOTAL // 4, total=TOTAL),
        nvmlDeviceGetIndex=lambda handle: 0,
        nvmlDeviceGetUUID=lambda handle: "GPU-made-up",
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=73),
    )
    vars(runtime).update(deviceGetPCIBusId=lambda device: "0000:17:00.0")
    sys.modules |= {"pynvml": nvml, "cupy_backends.cuda.api.runtime": runtime}
    vars(process)["Meter"] = lambda gpu: Meter(gpu=True, every_s=0.2)


if __name__ == "__main__":
    install_driver()
    main()
