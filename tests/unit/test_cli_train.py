"""`hltfarm train`: a package and a report from a sample, and what it refuses before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hltfarm.service import cli
from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.models import Cut, load, save
from hltfarm.workers.models import Cuts as ModelCuts
from tests.reference import model_samples


def test_command_makes_a_package_and_a_report(
    demo_sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice into two folders: the same weights; the page holds every figure."""
    pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
    common = ["--backend", "cpu", "--threads", "1", "--epochs", "80", "--hidden", "8", "--seed", "4", "--test", str(demo_sample)]
    assert cli.run(["train", str(demo_sample), *common, "--name", "tiny", "--out", str(tmp_path / "a")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("hltfarm.loadgen.training.figures.draw", lambda _document, _folder: [])  # they take longer than all the rest
        assert cli.run(["train", str(demo_sample), *common, "--name", "tiny", "--out", str(tmp_path / "b")]) == 0
    model = load(tmp_path / "a" / "tiny", FEATURES)
    assert set(model.manifest.working_points) == {"0.995", "0.99", "0.98"}
    assert model.manifest.training["command"] == (
        "hltfarm train demo.hlt --out a --name tiny --seed 4 --test demo.hlt --hidden 8 --epochs 80 --backend cpu --threads 1"
    )
    weights = [(tmp_path / folder / "tiny" / "weights.safetensors").read_bytes() for folder in ("a", "b")]
    assert weights[0] == weights[1]
    document = json.loads((tmp_path / "a" / "report.json").read_text())
    selections = document["selections"]
    fakes = [selections[name]["triplets"]["hard"]["fake_rate"]["rate"] for name in ("loose, patatrack-phase1", "loose", "model, 0.98")]
    assert fakes[0] > fakes[1] > fakes[2]
    page = (tmp_path / "a" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((tmp_path / "a").glob("*.png"))) == 9
    assert str(tmp_path) not in page
    assert "triplets" in capsys.readouterr().out
    assert cli.run(["train", str(demo_sample), *common, "--name", "tiny", "--out", str(tmp_path / "a")]) == 2
    assert "tiny exists" in capsys.readouterr().err


def test_command_trains_a_classifier_of_events(demo_sample: Path, tmp_path: Path) -> None:
    """Signal and background of the same events: nothing to tell apart, but a package that the chain takes."""
    pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
    samples = ["--signal", str(demo_sample), "--background", str(demo_sample), "--background", str(demo_sample)]
    cuts = ModelCuts((Cut(feature="n_hits", min=3),))
    save(tmp_path / "every", cuts, **{**model_samples.TRACK, "features": ("n_hits",)})
    options = ["--name", "events", "--hidden", "4", "--epochs", "2", "--seed", "7", "--backend", "cpu", "--threads", "1"]
    options += ["--model", str(tmp_path / "every")]
    options += ["--feature", "sum_pt", "--feature", "hits"]
    assert cli.run(["train", "--target", "event", *samples, *options, "--out", str(tmp_path)]) == 0
    model = load(tmp_path / "events")
    assert (model.target, model.features) == ("event", ("sum_pt", "hits"))
    assert set(model.manifest.working_points["0.95"]) == {"event"}
    assert Selector(event=model).params()["event_layers"] == 2
    assert "--model every" in model.manifest.training["command"]


EVENTS = ["--target", "event", "--signal", "b.hlt", "--background", "c.hlt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least one sample"),
        (["a.hlt", "--signal", "b.hlt"], "--target event"),
        (["--target", "event", "--signal", "b.hlt"], "needs --signal and --background"),
        (["a.hlt", "--target", "event"], "--signal and --background"),
        (["--target", "event", "--signal", "b.hlt", "--background", "c.hlt", "--test-signal", "d.hlt"], "belong together"),
        (["a.hlt", "--hidden", "64,x"], "'64,x'"),
        (["a.hlt", "--hidden", "0"], "'0'"),
        (["a.hlt", "--hidden", "200"], "each 1 to 128"),
        (["a.hlt", "--efficiency", "1.5"], "1.5"),
        (["a.hlt", "--efficiency", "1e-9"], "working point 1e-09: an efficiency above 0 and at most 1, of up to six digits"),
        (["a.hlt", "--efficiency", "0.9999999"], "working point 0.9999999"),
        (["a.hlt", "--efficiency", "nan"], "working point nan"),
        (["a.hlt", "--efficiency", "0.99", "--efficiency", "0.990"], "working point 0.99 is asked for 2 times"),
        (["a.hlt", "--name", "../evil"], "model '../evil': name: String should match"),
        (["a.hlt", "--version", "9999999999"], "version: Input should be less than or equal to 2147483647"),
        ([*EVENTS, "--kind", "forest"], "a classifier of events is of kind mlp, not forest"),
        ([*EVENTS, "--model", "none", "--working-point", "0.99"], "no effect without a selector"),
        (["a.hlt", "--feature", "zip", "--feature", "modules"], "--feature modules: unknown"),
        (["a.hlt", "--feature", "zip", "--feature", "zip"], "named twice"),
        (["a.hlt", "--default", "0.5"], "0.5 is not one of"),
        (["absent.hlt"], "absent.hlt"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", *arguments, "--out", str(tmp_path / "out"), "--backend", "cpu"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "out"])


def test_command_looks_at_its_folder_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cli.run(["train", "absent.hlt", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "file/out: the folder cannot be made: Not a directory" in capsys.readouterr().err
    (tmp_path / "out" / "mine").mkdir(parents=True)
    assert cli.run(["train", "absent.hlt", "--out", str(tmp_path / "out"), "--name", "mine", "--overwrite"]) == 2
    assert "out/mine is no model package" in capsys.readouterr().err
