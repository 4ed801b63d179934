"""The benchmark of direct inference on a device: all paths agree, through the host and as a graph; the columns have the host's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch is built without CUDA")
    return torch.device("cuda", torch.cuda.current_device())


def test_columns_have_the_bits_of_the_host(device: Any) -> None:
    import torch

    from hltfarm.workers.inference import paths
    from hltfarm.workers.inference.cases import CASES

    for case in CASES:
        here, there = paths.Columns(case, 1000, paths.host_memory), paths.Columns(case, 1000, paths.device_memory)
        here.fill()
        there.fill()
        torch.cuda.synchronize()
        for a, b in zip(here.inputs, there.inputs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.cpu().numpy(), err_msg=case.name)


def test_every_model_by_every_path(device: Any) -> None:
    from hltfarm.workers.inference.harness import Results, Settings, points, run_views
    from hltfarm.workers.inference.paths import CUDA_PATHS

    results, settings = Results(), Settings(device, sizes=(100, 5000), runs=3, budget_s=0.01)
    run_views(settings, results, lambda what: None)
    assert results.skipped == []
    assert [(p.model, p.path) for p in results.views] == [(case.name, path) for case, _ in points(settings) for path in CUDA_PATHS]
    for point in results.views:
        assert point.difference <= 1e-5
        assert point.timing.gpu_ms is not None
        assert (point.host_bytes > 0) == point.path.startswith("host")


def test_eager_engine_with_and_without_a_graph(device: Any) -> None:
    from hltfarm.workers.inference.engines import EngineSettings, run_engines
    from hltfarm.workers.inference.harness import Results

    results = Results()
    settings = EngineSettings(device, engines=("eager",), parameters=(10_000,), batches=(64, 1000), runs=3, budget_s=0.01)
    run_engines(settings, results, lambda what: None)
    assert [(p.batch, p.graph) for p in results.engines] == [(64, False), (64, True), (1000, False), (1000, True)]


@pytest.mark.slow
def test_all_engines_with_and_without_a_graph(device: Any) -> None:
    from hltfarm.workers.inference.engines import EngineSettings, run_engines
    from hltfarm.workers.inference.harness import Results

    results = Results()
    run_engines(EngineSettings(device, parameters=(10_000,), batches=(64,), runs=3, budget_s=0.01), results, lambda what: None)
    assert [(p.engine, p.graph) for p in results.engines] == [(e, g) for e in ("eager", "compile", "aot") for g in (False, True)]
    assert results.skipped == []
