"""Whether the cuda backend can work here is said before anything waits for it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from hltfarm.proto.errors import BackendError
from hltfarm.workers.devices import check_cuda


class CUDARuntimeError(RuntimeError):
    pass


def cupy_with(devices: int | None) -> ModuleType:
    """CuPy on a machine with so many devices, None: without a driver."""

    def count() -> int:
        if devices is None:
            raise CUDARuntimeError("cudaErrorInsufficientDriver")
        return devices

    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError))  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("module", "told"), [(cupy_with(None), "InsufficientDriver"), (cupy_with(0), "CUDA sees none"), (None, "needs CuPy")]
)
def test_no_gpu_is_told_with_the_way_out(module: ModuleType | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(BackendError, match=told) as caught:
        check_cuda()
    assert "--backend cpu" in str(caught.value)


def test_a_gpu_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_with(1))
    check_cuda()
