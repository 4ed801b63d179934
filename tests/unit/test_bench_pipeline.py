"""`hltfarm bench pipeline`: figures that fit together, events the same in all of them, and a reason for every batch that is left out."""

from __future__ import annotations

import json
import math
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.errors import BackendError, LayoutError
from hltfarm.proto.results import RESULT
from hltfarm.service.cli import run
from hltfarm.workers import bench, bench_devices
from hltfarm.workers.backends.cpu_library import load_library
from hltfarm.workers.bench import Effort, Latency, Point, of_size, run_pipeline
from hltfarm.workers.bench_devices import Phase, Scaling, run_devices, settled, sizes, visible
from hltfarm.workers.bench_growth import exponent, growth
from hltfarm.workers.configuration import DEFAULT
from hltfarm.workers.reconstructor import BatchResult

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
LATENCY = Latency(100, 200, 300, 50)
QUICK = ["--events", "32", "--seconds", "0.1", "--repeat", "1"]


def point(**changes: Any) -> Point:
    stages = {"cells": 30.0, "tracks": 10.0, "chain": 50.0}
    given = {"sample": "a.hlt", "hits": 1000.0, "batch": 64, "events_per_second": 1e4, "stages_us": stages, **changes}
    return Point(backend="cuda", device="H200", threads=0, events=4096, slowest=9e3, fastest=1.1e4, latency_us=LATENCY, **given)


def test_figures_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert run(["bench", "pipeline", str(DEMO), "--threads", "1,2", *QUICK, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [p["threads"] for p in document["points"]] == [1, 2]
    for p in document["points"]:
        assert p["slowest"] <= p["events_per_second"] <= p["fastest"]
        assert 0 < p["latency_us"]["p50"] <= p["latency_us"]["p90"] <= p["latency_us"]["p99"]
        assert sum(p["shares"].values()) == pytest.approx(1)
    one = document["points"][0]
    assert sum(one["stages_us"].values()) < 1e6 / one["slowest"] * 1.01  # stages are inside the wall time of their thread
    assert document["samples"] == [{"name": "demo.hlt", "events": 6, "hits": one["hits"], "bytes": pytest.approx(75413, rel=0.01)}]
    assert (document["unequal"], document["left_out"], document["growth"]) == ([], [], [])
    assert f"demo.hlt ({one['hits']:.0f} hits)" in capsys.readouterr().out


def test_events_that_differ_make_the_figures_worthless(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = bench.compare

    def damaged(sample: bench.Sample, rows: Any, name: str) -> list[str]:
        if name.endswith("2"):
            rows["digest"][3] ^= 1
        return plain(sample, rows, name)

    monkeypatch.setattr(bench, "compare", damaged)
    assert run(["bench", "pipeline", str(DEMO), "--threads", "1,2", *QUICK]) == 1
    captured = capsys.readouterr()
    assert "NOT EQUAL: demo.hlt, event 3: digest" in captured.out
    assert "1 digests differ" in captured.err


class FakeGpu:
    """A chain on a GPU with memory for one of them: 10 us an event and 100 us a batch on the device."""

    backend, device, alive = "cuda", "fake", 0

    def __init__(self, sample: bench.Sample, backend: str, batch: int, threads: int, config: Any, profile: bool = False) -> None:
        assert FakeGpu.alive == 0, "two chains at a time"
        FakeGpu.alive += 1
        self.batch, self.profile = batch, profile

    def __del__(self) -> None:
        FakeGpu.alive -= 1

    def __enter__(self) -> FakeGpu:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, events: list[Any]) -> BatchResult:
        rows = np.zeros(len(events), RESULT)
        rows["hits"] = 100
        seconds = {"chain": 1e-4 * len(events) / self.batch + 1e-5 * len(events)}
        return BatchResult(rows, seconds | ({"cells": 8e-6 * len(events), "fit": 2e-6 * len(events)} if self.profile else {}), None)


def test_device_times_are_of_batches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "opened", FakeGpu)
    monkeypatch.setattr(bench, "WARM_UP_S", 0.0)
    sample = bench.read(open_source(DEMO))
    one, many = run_pipeline([sample], "cuda", [1, 100], [], Effort(events=64, repeat=2, seconds=0.01)).points
    assert (one.batch, one.hits, many.events % 100) == (1, 100, 0)
    assert one.stages_us == {"cells": pytest.approx(8), "fit": pytest.approx(2), "chain": pytest.approx(110)}
    assert many.stages_us["chain"] == pytest.approx(11)
    assert many.shares == {"cells": pytest.approx(0.8), "fit": pytest.approx(0.2)}
    assert many.events >= 400
    assert one.latency_us.batches >= bench.LATENCIES[0]


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (BackendError("H200: not enough memory for batches of 512 events (x); lower max_events"), False),
        (LayoutError("Cells: capacity 5000000000 is not within 1 .. 2^32 - 1"), False),
        (MemoryError(), False),
        (BackendError("no usable CUDA device; use --backend cpu"), True),
    ],
)
def test_batches_that_do_not_fit_are_left_out(error: Exception, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_size(error) is not fits

    def fake(sample: Any, backend: str, batch: int, *_: Any) -> Point:
        if batch > 64:
            raise error
        return point(batch=batch)

    monkeypatch.setattr(bench, "measure", fake)
    sample = bench.read(open_source(DEMO))
    if fits:
        with pytest.raises(BackendError, match="no usable"):
            run_pipeline([sample], "cuda", [512, 64], [], Effort())
        return
    results = run_pipeline([sample], "cuda", [512, 64, 1, 64], [], Effort())
    assert [p.batch for p in results.points] == [1, 64]
    (left,) = results.left_out
    assert (left.sample, left.batch) == ("demo.hlt", 512)
    assert left.reason == (str(error) or "MemoryError")


def test_tables_of_several_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.hlt"
    other.write_bytes(DEMO.read_bytes())

    def fake(sample: bench.Sample, backend: str, batch: int, *_: Any) -> Point:
        sample.hits = 1000.0 if sample.name == "demo.hlt" else 4000.0
        if batch == 128 and sample.name == "other.hlt":
            raise BackendError("H200: not enough memory")
        cost = 50.0 * (sample.hits / 1000) ** 1.5 * (2 if batch == 1 else 1)
        return point(sample=sample.name, hits=sample.hits, batch=batch, events_per_second=1e6 / cost)

    monkeypatch.setattr(bench, "measure", fake)
    arguments = ["bench", "pipeline", str(DEMO), str(other), "--backend", "cuda", "--batches", "1,64,128"]
    assert run([*arguments, "--json", str(tmp_path / "x.json")]) == 0
    out = capsys.readouterr().out
    assert "demo.hlt (1000 hits)" in out
    assert "left out: other.hlt, cuda, batches of 128: H200: not enough memory" in out
    assert "cuda: cost of an event grows as hits ^ 1.50 (50.0 us at 1000 hits, 400.0 us at 4000 hits)" in out
    assert "30.0 75%" in out
    (fit,) = json.loads((tmp_path / "x.json").read_text())["growth"]
    assert fit["exponent"] == {"value": pytest.approx(1.5), "error": None}
    assert [s["batch"] for s in fit["samples"]] == [64, 64]


def test_exponent_and_its_error() -> None:
    fit = exponent([1000, 2000, 4000, 8000], [3 * n**1.25 for n in (1000, 2000, 4000, 8000)])
    assert fit is not None
    assert (fit.value, fit.error) == (pytest.approx(1.25), pytest.approx(0, abs=1e-6))
    from scipy.stats import linregress

    hits, cost = [1000.0, 2000.0, 4000.0], [10.0, 25.0, 45.0]
    line, fit = linregress([math.log(x) for x in hits], [math.log(y) for y in cost]), exponent(hits, cost)
    assert fit is not None
    assert (fit.value, fit.error) == (pytest.approx(line.slope), pytest.approx(line.stderr))
    assert exponent([1000], [1]) is None
    assert exponent([1000, 1000], [1, 2]) is None
    assert exponent([1000, 2000], [0, 2]) is None


def test_growth_takes_the_best_setting_of_each_sample() -> None:
    small = [point(batch=b, events_per_second=r) for b, r in ((1, 1e3), (64, 2e4), (128, 1e4))]
    large = [point(sample="b.hlt", hits=2000.0, batch=b, events_per_second=r) for b, r in ((1, 5e3), (64, 1e3))]
    (fit,) = growth([*small, *large])
    assert [(p.sample, p.batch) for p in fit.best] == [("a.hlt", 64), ("b.hlt", 1)]
    assert fit.chain.value == pytest.approx(2)
    assert fit.stages["cells"].value == pytest.approx(0)
    assert "chain" not in fit.stages
    assert list(growth(small)) == []


def test_sizes_and_names_of_devices() -> None:
    assert (sizes(1), sizes(2), sizes(4), sizes(6)) == ([1], [1, 2], [1, 2, 4], [1, 2, 4, 6])
    assert visible([0, 2], None) == ["0", "2"]
    assert visible([0, 1], "5,GPU-8f") == ["5", "GPU-8f"]
    with pytest.raises(BackendError, match="there is no GPU 2: CUDA_VISIBLE_DEVICES=5,6 leaves 2 of them visible"):
        visible([0, 2], "5,6")


def test_scaling_is_against_the_first_device_alone() -> None:
    scaling = Scaling("a.hlt", "H200", 64, 1.0, [Phase(["0"], [100.0]), Phase(["0", "1"], [95.0, 85.0])])
    assert scaling.scaling(scaling.phases[1]) == pytest.approx(1.8)


def test_processes_work_together_phase_by_phase() -> None:
    """On the CPU: the processes, the barrier and the accounting are the same."""
    sample = bench.read(open_source(DEMO))
    scaling = run_devices(sample, [0, 1], 4, 0.2, DEFAULT, backend="cpu")
    assert [p.devices for p in scaling.phases] == [["0"], ["0", "1"]]
    assert all(rate > 0 for p in scaling.phases for rate in p.rates)
    assert scaling.device == f"cpu:1 {load_library().name}"


def test_events_lie_in_one_block_in_every_process() -> None:
    sample = settled(pickle.loads(pickle.dumps(bench.read(open_source(DEMO)))))
    assert all(np.shares_memory(e.payload, sample.memory) for e in sample.events)


def test_a_process_that_fails_ends_all() -> None:
    sample = bench.read(open_source(DEMO))
    odd = replace(sample, events=[replace(sample.events[0], payload=sample.events[0].payload[:-2])])
    with pytest.raises(BackendError, match=r"GPU 0: event 0: payload of .* is not a whole number of 32-bit words"):
        run_devices(odd, [0], 4, 0.2, DEFAULT, backend="cpu")


def test_a_process_that_is_killed_ends_all() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    theirs.close()
    with ours, pytest.raises(BackendError, match="GPU 3: its process ended without a result"):
        bench_devices._answers([ours], ["3"])


def test_devices_from_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fake(sample: bench.Sample, devices: list[int], batch: int, seconds: float, config: Any) -> Scaling:
        if batch > 64:
            raise BackendError("GPU 1: not enough memory for batches")
        return Scaling(sample.name, "H200", batch, seconds, [Phase(["0"], [100.0]), Phase(["0", "1"], [100.0, 90.0])])

    monkeypatch.setattr(bench_devices, "run_devices", fake)
    out = tmp_path / "x.json"
    arguments = ["bench", "pipeline", str(DEMO), "--backend", "cuda", "--devices", "0,1"]
    assert run([*arguments, "--batches", "64,256", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["devices"][0]["phases"][1]["scaling"] == pytest.approx(1.9)
    assert document["left_out"][0]["batch"] == 256
    assert document["samples"][0]["hits"] is None
    assert "1.90" in capsys.readouterr().out
    assert run([*arguments, "--batches", "256"]) == 1
    assert "nothing was measured: GPU 1: not enough memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "gpu"], "use cpu, cuda or both"),
        (["--batches", "0,1"], "'0,1' is not a comma-separated list of integers from 1 on"),
        (["--devices", "0"], "use --backend cuda"),
        (["--backend", "cuda", "--devices", "0,0"], "named twice"),
        (["--backend", "cuda", "--devices", "-1"], "from 0 on"),
        ([str(DEMO)], "each needs a name of its own"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "pipeline", str(DEMO), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
