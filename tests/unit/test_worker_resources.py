"""What workers tell of their memory and their GPU, with a driver library that is made up."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from hltfarm.proto.messages import GpuUse
from hltfarm.workers import resources
from hltfarm.workers.resources import Meter, resident_bytes

BUS = "0000:17:00.0"
USE = GpuUse(index=3, uuid="GPU-4", memory_used_bytes=5 << 30, memory_total_bytes=7 << 30, utilization=0.25)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A GPU at a bus address, which the process computes on."""

    def handle(bus: bytes) -> str:
        assert bus == BUS.encode()
        return "handle"

    nvml = ModuleType("pynvml")
    answers: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByPciBusId": handle,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=5 << 30, total=7 << 30),
        "nvmlDeviceGetIndex": lambda _: 3,
        "nvmlDeviceGetUUID": lambda _: "GPU-4",
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=25),
    }
    vars(nvml).update(answers)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    runtime = ModuleType("runtime")
    vars(runtime)["deviceGetPCIBusId"] = lambda device: BUS if device == 0 else pytest.fail("the process sees one device")
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.api.runtime", runtime)
    return nvml


def looks(meter: Meter, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until the meter has looked so often."""
    seen, original = threading.Semaphore(0), resources.Resources

    def told(**fields: object) -> object:
        seen.release()
        return original(**fields)

    monkeypatch.setattr(resources, "Resources", told)
    for _ in range(number + 1):  # the first may have begun before
        assert seen.acquire(timeout=20)
    meter.close()


def test_memory_of_the_process() -> None:
    before = resident_bytes()
    block = np.ones(64 << 20, np.uint8)
    assert 60 << 20 < resident_bytes() - before < 200 << 20
    assert len(block)


def test_a_gpu(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(gpu=True, every_s=0.001)
    assert meter.latest.resident_bytes > 1 << 20, "at once"
    looks(meter, 2, monkeypatch)
    assert meter.latest.gpu == USE


def test_a_worker_on_the_cpu_asks_no_driver(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(gpu=False, every_s=0.001)
    looks(meter, 2, monkeypatch)
    assert meter.latest.gpu is None


def test_a_driver_that_fails_is_told_once(driver: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def lost(_: object) -> object:
        raise RuntimeError("GPU is lost")

    monkeypatch.setattr(driver, "nvmlDeviceGetMemoryInfo", lost)
    with caplog.at_level(logging.WARNING):
        meter = Meter(gpu=True, every_s=0.001)
        looks(meter, 4, monkeypatch)
    assert meter.latest.gpu is None
    assert [record.getMessage() for record in caplog.records] == [
        "the GPU's memory and utilization are not told: RuntimeError: GPU is lost"
    ]


def test_without_the_library(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = Meter(gpu=True, every_s=0.001)
    looks(meter, 2, monkeypatch)
    assert meter.latest.gpu is None
    assert meter.latest.resident_bytes > os.sysconf("SC_PAGE_SIZE")
