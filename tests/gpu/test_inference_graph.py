"""torch inside the chain's CUDA graph: the columns' own memory, no copy but the raw data in and the decision out, work by device count."""

from __future__ import annotations

import json
import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor
from tests.reference import selectors

pytestmark = pytest.mark.gpu

ENGINES = ("fused", "eager", "compile", "aot")


@pytest.fixture(scope="module")
def sample() -> Any:
    return open_source(Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt")


@pytest.fixture(scope="module", autouse=True)
def profiler() -> None:
    """The profiler sees kernels of graphs that were captured after its first use only."""
    import torch

    with (
        warnings.catch_warnings(action="ignore"),  # it says which traces it will not keep
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]),
    ):
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()


def chain(sample: Any, engine: str, **options: Any) -> Reconstructor:
    selector = Selector(selectors.mlp(1), engine=engine)
    return Reconstructor(sample.detector(), Menu.parse(DEFAULT_MENU), backend="cuda", selector=selector, **options)


def activities(run: Any, folder: Path) -> list[dict[str, Any]]:
    """What the device did while `run` ran: kernels, copies and sets in order, from the profiler's trace."""
    import torch

    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings(action="ignore"), torch.profiler.profile(activities=kinds) as profile:
        run()
        torch.cuda.synchronize()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    device = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    return sorted(device, key=lambda e: e["ts"])


@pytest.mark.parametrize("engine", ENGINES)
def test_no_copy_between_raw_data_and_decision(sample: Any, engine: str, tmp_path: Path) -> None:
    """The trace of a batch: payloads and their description to the device, kernels, result table back. Nothing is copied in between."""
    events = [sample[i] for i in range(len(sample))]
    with chain(sample, engine) as reconstructor:
        for _ in range(70):  # past the batches that are profiled without the graph
            expected = reconstructor.run(events).results
        device = activities(lambda: reconstructor.run(events), tmp_path)
        np.testing.assert_array_equal(reconstructor.run(events).results, expected)
    copies = [(i, e["name"], e["args"]["bytes"]) for i, e in enumerate(device) if e["cat"] == "gpu_memcpy"]
    kernels = [i for i, e in enumerate(device) if e["cat"] == "kernel"]
    if "HLTFARM_TRACES" in os.environ:
        lines = [f"{e['cat']:<11} {e['name'][:90]} {e['args'].get('bytes', '')}" for e in device]
        Path(os.environ["HLTFARM_TRACES"], f"trace_{engine}.txt").write_text("\n".join(lines) + "\n")
    assert len(kernels) >= 40  # those of the whole chain
    before = [c for c in copies if c[0] < kernels[0]]
    after = [c for c in copies if c[0] > kernels[-1]]
    assert sorted(n for _, _, n in before)[-len(events) :] == sorted(e.payload.nbytes for e in events)
    assert len(before) == len(events) + 1  # the payloads and the description of the batch
    assert all("HtoD" in name for _, name, _ in before)
    assert [name.startswith("Memcpy DtoH") for _, name, _ in after] == [True]
    assert len(copies) == len(before) + len(after)
    if engine != "fused":
        names = " ".join(e["name"] for e in device)
        assert any(word in names for word in ("gemm", "Gemm", "cutlass", "triton", "sm90", "sm80")), "the model did not run"


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_tensors_are_the_columns(sample: Any, engine: str) -> None:
    """Addresses of the tensors that torch reads and writes are those of the arena's columns, for every lane."""
    with chain(sample, engine) as reconstructor:
        lanes = reconstructor._backend._lanes.lanes  # type: ignore[attr-defined]
        seen = set()
        for lane in lanes:
            selected, addresses = lane.arena["Selected"], lane.programs[reconstructor.programme].scorer._scorer.views.addresses()
            assert addresses["input 0"].pointer == selected.address(FEATURES[0])
            assert addresses["score"].pointer == selected.address("score")
            assert addresses["input 0"].strides[0] == 1
            seen.add(addresses["score"].pointer)
        assert len(seen) == len(lanes)


@pytest.mark.parametrize("engine", ENGINES)
def test_graph_gives_what_the_cpu_gives(sample: Any, engine: str) -> None:
    """Bit for bit for the kernels; scores to 1e-5 for torch, and the same digest, in which they have no part."""
    events = [sample[i % len(sample)] for i in range(32)]
    selector = Selector(selectors.mlp(1), engine="fused" if engine == "fused" else "eager")
    with Reconstructor(sample.detector(), Menu.parse(DEFAULT_MENU), backend="cpu", selector=selector) as r:
        cpu = r.run(events, keep=True)
    for batch in (1, 5, 32):
        with chain(sample, engine, max_events=batch) as r:
            gpu = r.run(events, keep=True)
        np.testing.assert_array_equal(gpu.results, cpu.results)
        for i in range(len(events)):
            np.testing.assert_allclose(gpu.tracks(i)["score"], cpu.tracks(i)["score"], rtol=0, atol=0 if engine == "fused" else 1e-5)


def test_rows_are_computed_in_ranges_that_the_device_chooses(sample: Any, tmp_path: Path) -> None:
    """One event needs the first range only: the number of kernels of the model does not grow with the capacity."""
    counts = {}
    for capacity in (2, 64):
        with chain(sample, "eager", max_events=capacity) as reconstructor:
            for _ in range(70):
                reconstructor.run([sample[0]])
            device = activities(lambda r=reconstructor: r.run([sample[0]]), tmp_path)
        counts[capacity] = len(device)
    assert counts[2] == counts[64]


def test_exchange_of_a_torch_model(sample: Any) -> None:
    events = [sample[i] for i in range(len(sample))]
    with chain(sample, "eager") as r:
        first = r.run(events).results
        r.use(selector=Selector(selectors.mlp(2), engine="compile"))
        second = r.run(events).results
        r.use(selector=Selector(selectors.mlp(1), engine="eager"))
        np.testing.assert_array_equal(r.run(events).results, first)
    assert (first["tracks_high_purity"] != second["tracks_high_purity"]).any()


def test_row_ranges() -> None:
    from hltfarm.workers.backends.cuda_torch import MAX_RANGES, row_ranges

    for capacity in (1, 2048, 2049, 100_000, 1 << 24, 1 << 31):
        ranges = row_ranges(capacity)
        assert ranges[0][0] == 0
        assert ranges[-1][1] == capacity
        assert all(a[1] == b[0] for a, b in pairwise(ranges))
        assert len(ranges) <= MAX_RANGES
