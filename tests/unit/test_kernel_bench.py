"""`hltfarm bench kernels`: every kernel of the chain has its line, and the lines sum up to the time of the stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hltfarm.service.cli import run
from hltfarm.workers.pipeline import CHAIN

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"


def test_every_kernel_that_runs_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "kernels.json"
    assert run(["bench", "kernels", str(DEMO), "--backend", "cpu", "--batch", "4", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    times = {k["kernel"]: k for k in document["kernels"]}
    expected = {k.name: s.name for s in CHAIN for k in s.kernels if k.when in ("", "selector", "mlp")}
    assert {name: times[name]["stage"] for name in times} == expected
    assert document["us_per_event"] == pytest.approx(sum(k["us"] for k in times.values()))
    assert [k["us"] for k in document["kernels"]] == sorted((k["us"] for k in times.values()), reverse=True)
    assert times["link_cells"]["us"] > 0
    assert "link_cells" in capsys.readouterr().out


def test_torch_has_a_line_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    assert run(["bench", "kernels", str(DEMO), "--backend", "cpu", "--batch", "2", "--engine", "eager", "--json", str(out)]) == 0
    names = {k["kernel"] for k in json.loads(out.read_text())["kernels"]}
    assert "torch" in names
    assert "score_mlp" not in names


@pytest.mark.parametrize("arguments", [["--backend", "quantum"], ["--json", "missing/x.json"]])
def test_wrong_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", str(DEMO), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
