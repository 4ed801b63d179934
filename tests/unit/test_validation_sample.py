"""`hltfarm validate`, and the study on the public sample with the reference program's tracks and vertices."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.loadgen.validation import EventReco, Geometry, Study
from hltfarm.service import cli
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import BatchResult, Reconstructor

Arrays = dict[str, np.ndarray[Any, Any]]


def test_command_writes_json_figures_and_page(demo_sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra `validate` is not installed")
    out = tmp_path / "new" / "report"
    assert (
        cli.run(["validate", str(demo_sample), "--out", str(out), "--events", "3", "--batch", "2", "--backend", "cpu", "--threads", "1"])
        == 0
    )
    document = json.loads((out / "validation.json").read_text())
    assert document["events"] == 3
    assert document["hits"]["efficiency"]["primary"]["total"]["rate"] > 0.9
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(out.glob("*.png"))) > 2
    assert "hits per event" in capsys.readouterr().out
    assert cli.run(["validate", str(tmp_path / "absent.hlt"), "--out", str(out)]) == 2


def test_command_hands_tracks_and_vertices_over(demo_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One track of the first three hits and one vertex, in place of those of the chain."""
    pytest.importorskip("matplotlib", reason="the extra `validate` is not installed")
    track = {name: np.ones(1, np.float32) for name in ("pt", "eta", "phi", "tip", "zip", "chi2", "charge", "score")}
    track |= {"n_hits": np.array([3]), "quality": np.array([3]), "hits": np.array([[0, 1, 2, -1, -1]]), "cov": np.ones((1, 15), np.float32)}
    vertex = {name: np.ones(1, np.float32) for name in ("z", "error", "ndof", "chi2", "sum_pt2")}
    monkeypatch.setattr(BatchResult, "tracks", lambda _self, _i: track)
    monkeypatch.setattr(BatchResult, "vertices", lambda _self, _i: vertex)
    assert cli.run(["validate", str(demo_sample), "--out", str(tmp_path), "--events", "2", "--backend", "cpu", "--threads", "1"]) == 0
    document = json.loads((tmp_path / "validation.json").read_text())
    assert document["tracks"]["totals"]["high_purity"]["tracks_per_event"] == 1
    assert document["vertices"]["vertices_per_event"] == 1
    assert (tmp_path / "efficiency_pt.png").is_file()


@pytest.fixture(scope="module")
def on_reference(pixel_sample: Path) -> Any:
    """The document of the reference program's tracks and vertices on the hits of this chain, which are the same ones."""
    path = pixel_sample / "reference.npz"
    if not path.is_file() or not (pixel_sample / "truth.npz").is_file():
        pytest.skip(f"no reference.npz and truth.npz in {pixel_sample}")
    with np.load(path) as stored:
        ref = {name: stored[name] for name in stored.files}
    source = open_source(pixel_sample)
    study = Study(Geometry.of(source.detector()))
    with Reconstructor(source.detector(), Menu.parse(DEFAULT_MENU, "built-in"), backend="cpu", threads=1, max_events=len(source)) as chain:
        result = chain.run([source[i] for i in range(len(source))], keep=True)
    for i in range(len(source)):
        mine = result.hits(i)
        theirs, tracks, vertices = (of_event(ref, group, i) for group in ("hit", "track", "vertex"))
        keys = ("y_local", "x_local", "module")
        ours, other = np.lexsort([mine[k] for k in keys]), np.lexsort([theirs[k] for k in keys])
        place = np.empty(len(ours), np.int64)
        place[other] = ours
        assert all(np.array_equal(mine[k][place], theirs[k]) for k in keys)
        used = np.arange(tracks["hits"].shape[1]) < tracks["n_hits"][:, None]
        tracks["hits"] = np.where(used, place[np.where(used, tracks["hits"], 0)], -1)
        study.add(EventReco.of(mine, result.digis(i), tracks, vertices), source.truth(i))
    return study.document()


def of_event(ref: Arrays, group: str, i: int) -> Arrays:
    first, last = ref[f"{group}_offsets"][i : i + 2]
    prefix = f"{group}_"
    return {k.removeprefix(prefix): v[first:last] for k, v in ref.items() if k.startswith(prefix) and k != f"{group}_offsets"}


# Expected: the same quantities on 400 other events. The windows are about three standard deviations of 20 events.
def test_reference_efficiencies(on_reference: Any) -> None:
    efficiency = on_reference["tracks"]["efficiency"]
    assert efficiency["loose"]["layers4"]["rate"] == pytest.approx(0.972, abs=0.008)
    assert efficiency["loose"]["layers3"]["rate"] == pytest.approx(0.947, abs=0.010)
    assert efficiency["quadruplets"]["layers4"]["rate"] == pytest.approx(0.901, abs=0.013)


def test_reference_fakes_and_duplicates(on_reference: Any) -> None:
    totals = on_reference["tracks"]["totals"]
    assert totals["loose"]["tracks_per_event"] == pytest.approx(1047, rel=0.15)  # events differ by 25 %
    assert totals["loose"]["fake_rate"]["rate"] == pytest.approx(0.31, abs=0.03)
    assert totals["triplets"]["fake_rate_hard"]["rate"] == pytest.approx(0.78, abs=0.02)
    assert totals["quadruplets"]["fake_rate_hard"]["rate"] == pytest.approx(0.007, abs=0.004)
    assert totals["loose"]["duplicates_per_event"] == pytest.approx(0.33, abs=0.4)


def test_reference_vertices(on_reference: Any) -> None:
    v = on_reference["vertices"]
    assert v["vertices_per_event"] == pytest.approx(32.4, abs=4)
    assert v["collisions_per_event"] == pytest.approx(51, abs=5)
    assert v["fakes_per_event"] == pytest.approx(2.0, abs=1.0)
    assert v["hard_scatter"]["leading"]["rate"] >= 0.85


@pytest.mark.parametrize(
    ("name", "bin_", "barrel", "forward"),
    [("pt", 0, 0.031, 0.067), ("pt", 2, 0.039, 0.084), ("zip", 0, 81e-4, 345e-4), ("zip", 2, 49e-4, 131e-4)],
)
def test_reference_resolutions(on_reference: Any, name: str, bin_: int, barrel: float, forward: float) -> None:
    table = on_reference["tracks"]["resolutions"]["quadruplets"][name]
    for region, expected in (("barrel", barrel), ("forward", forward)):
        cell = table[region][bin_]
        # The relative error of a MAD is 1.17 / sqrt(n); the border of the regions was not handed down: 5 % more.
        assert cell["sigma_core"] == pytest.approx(expected, rel=0.05 + 3 * 1.17 / math.sqrt(cell["entries"])), region


def test_reference_hit_residuals(on_reference: Any) -> None:
    residuals = on_reference["hits"]["residuals"]
    for region, x, y in (("barrel", 13e-4, 21e-4), ("disks", 8e-4, 11e-4)):
        assert residuals[region]["x"]["sigma_core"] == pytest.approx(x, abs=0.5e-4)
        assert residuals[region]["y"]["sigma_core"] == pytest.approx(y, abs=0.5e-4)
        assert abs(residuals[region]["x"]["median"]) < 0.25e-4
        assert abs(residuals[region]["y"]["median"]) < 0.25e-4
