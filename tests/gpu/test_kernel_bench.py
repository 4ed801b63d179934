"""`hltfarm bench kernels` on a device: the kernels of the captured chain, and copies at its ends only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hltfarm.service.cli import run
from hltfarm.workers.pipeline import CHAIN

pytestmark = pytest.mark.gpu

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"


def test_every_kernel_of_the_graph_is_timed(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    assert run(["bench", "kernels", str(DEMO), "--backend", "cuda", "--batch", "6", "--json", str(out)]) == 0
    names = {k["kernel"] for k in json.loads(out.read_text())["kernels"]}
    assert names >= {k.name for s in CHAIN for k in s.kernels if k.when in ("", "selector", "mlp")}
    assert {n for n in names if n.startswith("Memcpy")} == {"Memcpy HtoD", "Memcpy DtoH"}
