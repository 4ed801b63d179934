"""What only a device can show: page-locked slots, profiled and captured batches, the same bits as the CPU."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.events import RawEvent
from hltfarm.workers.configuration import configuration
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor

pytestmark = pytest.mark.gpu


def reconstruct(events: list[RawEvent], detector: Any, backend: str, config: str, **options: Any) -> Any:
    with Reconstructor(detector, Menu.parse(DEFAULT_MENU), backend=backend, config=configuration(config), **options) as reconstructor:
        return reconstructor.run(events, keep=True)


@pytest.fixture(scope="module")
def sample() -> Any:
    return open_source(Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt")


@pytest.mark.parametrize("config", ["default", "patatrack-phase1"])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("profile", [False, True])
def test_every_column_has_the_bits_of_the_cpu(sample: Any, config: str, batch: int, profile: bool) -> None:
    events = [sample[i] for i in range(len(sample))]
    cpu = reconstruct(events, sample.detector(), "cpu", config)
    gpu = reconstruct(events, sample.detector(), "cuda", config, max_events=batch, profile=profile)
    np.testing.assert_array_equal(gpu.results, cpu.results)
    for i in range(len(events)):
        for kind in ("digis", "hits", "tracks", "vertices"):
            ours, theirs = getattr(gpu, kind)(i), getattr(cpu, kind)(i)
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert ours[name].tobytes() == theirs[name].tobytes(), (i, kind, name)


def test_payloads_in_registered_shared_memory(sample: Any) -> None:
    event = sample[0]
    memory = SharedMemory(create=True, size=1 << 22)
    try:
        place = np.ndarray(event.payload.nbytes, np.uint8, memory.buf)
        place[:] = event.payload
        with Reconstructor(sample.detector(), Menu.parse(DEFAULT_MENU), backend="cuda") as reconstructor:
            reconstructor.register(memory.buf)
            there = reconstructor.run([RawEvent(event.id, place)]).results
        del place
    finally:
        memory.close()
        memory.unlink()
    np.testing.assert_array_equal(there, reconstruct([event], sample.detector(), "cpu", "default").results)
