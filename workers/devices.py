"""Which GPU a process computes on. CuPy, torch and compiled models all follow one choice: the devices that the process may see."""

from __future__ import annotations

import os

from hltfarm.proto.errors import BackendError, ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_device(index: int) -> None:
    """Let this process see only device `index`, counted among those that it may see now. Call it before CUDA is used.

    Raises ConfigError if CUDA_VISIBLE_DEVICES names fewer. That a device is there at all turns out when the backend starts.
    """
    if index < 0:
        raise ConfigError(f"device {index}: devices are counted from 0")
    visible = os.environ.get(VISIBLE)
    if visible is None:
        os.environ[VISIBLE] = str(index)
        return
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if index >= len(names):
        raise ConfigError(f"device {index}: {VISIBLE}={visible} lets this process see {len(names)}; choose one of the first {len(names)}")
    os.environ[VISIBLE] = names[index]


def check_cuda() -> None:
    """Raises BackendError, with the way out, where the cuda backend cannot work: before an ingest waits for it."""
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"the cuda backend needs CuPy ({error}); install hltfarm[cuda], or use --backend cpu") from None
    try:
        found = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(
            f"no GPU for the cuda backend: {error}; it needs the NVIDIA driver, and in a container a device that is given to it"
            " (NVIDIA container toolkit). Or use --backend cpu"
        ) from None
    if not found:
        raise BackendError(f"no GPU for the cuda backend: CUDA sees none ({VISIBLE}={os.environ.get(VISIBLE, '')}). Or use --backend cpu")
