"""`hltfarm bench pipeline` on a device: every batch size gives the same events; a GPU in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hltfarm.service.cli import run

pytestmark = pytest.mark.gpu

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"


def test_points_have_stages_and_latencies(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--backend", "both", "--threads", "2", "--batches", "1,7", "--events", "64", "--seconds", "0.2", "--repeat", "2"]
    assert run(["bench", "pipeline", str(DEMO), *arguments, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [(p["backend"], p["batch"]) for p in document["points"]] == [("cpu", 1), ("cuda", 1), ("cuda", 7)]
    for p in document["points"][1:]:
        assert p["stages_us"]["chain"] > 0
        assert "cells" in p["shares"]
        assert "chain" not in p["shares"]


def test_a_batch_beyond_every_memory_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--backend", "cuda", "--batches", "4,4000000", "--events", "32", "--seconds", "0.1", "--repeat", "1"]
    assert run(["bench", "pipeline", str(DEMO), *arguments, "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [p["batch"] for p in document["points"]] == [4]
    assert [x["batch"] for x in document["left_out"]] == [4000000]


def test_one_gpu_by_its_number(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--backend", "cuda", "--batches", "4", "--devices", "0", "--seconds", "0.2"]
    assert run(["bench", "pipeline", str(DEMO), *arguments, "--json", str(out)]) == 0
    (scaling,) = json.loads(out.read_text())["devices"]
    assert scaling["phases"][0]["total"] > 0
    assert scaling["phases"][0]["scaling"] == 1


def test_all_batches_are_equal_to_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "equality.json"
    assert run(["bench", "equality", str(DEMO), "--events", "100", "--batches", "1,7,64", "--json", str(out)]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [(r["backend"], r["batch"]) for r in runs] == [("cpu", 1), ("cpu", 7), ("cpu", 16), ("cuda", 1), ("cuda", 7), ("cuda", 64)]
    assert {r["unequal"] for r in runs} == {0}
