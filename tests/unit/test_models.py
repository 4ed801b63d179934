"""Model packages: what is written is read back, what is wrong is refused with one line that names file, field and value."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from hltfarm.proto.errors import ConfigError
from hltfarm.service import cli
from hltfarm.workers.models import Cuts, Forest, MlpWeights, Model, load, registry, save
from hltfarm.workers.models.package import digest
from tests.reference.model_samples import EVENT, FEATURES, TRACK, cuts, forest, perceptron

CONTENTS: dict[str, Callable[[], MlpWeights | Forest | Cuts]] = {"mlp": perceptron, "forest": forest, "cuts": cuts}


def arrays(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    assert isinstance(model.content, MlpWeights | Forest)
    return model.content.tensors()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    save(tmp_path / "m", perceptron(), **TRACK)
    return tmp_path / "m"


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    save(tmp_path / "f", forest(), **TRACK)
    return tmp_path / "f"


def edit(directory: Path, **fields: Any) -> None:
    """Change fields of model.json; None removes one."""
    path = directory / "model.json"
    described = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not None}))


def put(directory: Path, **tensors: np.ndarray[Any, Any] | None) -> None:
    """Change tensors (dots of their names as __; None removes one), and the digest with them."""
    path = directory / "weights.safetensors"
    changed = {**safetensors.numpy.load_file(path), **{key.replace("__", "."): value for key, value in tensors.items()}}
    safetensors.numpy.save_file({key: value for key, value in changed.items() if value is not None}, path)
    edit(directory, files={path.name: digest(path.read_bytes())})


def refused(directory: Path, *parts: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(directory, FEATURES)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (str(directory), *parts)), message


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("arguments", [TRACK, EVENT], ids=["track", "event"])
def test_round_trip(kind: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    content = CONTENTS[kind]()
    saved = save(tmp_path / "a" / "m", content, **arguments, description="d", training={"seed": 3, "auc": 0.5})
    model = load(tmp_path / "a" / "m", FEATURES)
    assert model.hash == saved.hash
    assert model.manifest == saved.manifest
    assert (model.name, model.version, model.kind, model.target) == ("sample", 2, kind, arguments["target"])
    assert model.features == FEATURES
    assert model.inputs == (FEATURES,)
    assert model.manifest.training == {"seed": 3, "auc": 0.5}
    if isinstance(content, Cuts):
        assert model.content == content
    else:
        expected, found = content.tensors(), arrays(model)
        assert all(np.array_equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in expected)
        assert not any(array.flags.writeable for array in found.values())
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["m"]


def test_thresholds(package: Path) -> None:
    model = load(package)
    assert model.thresholds() == {"triplets": 0.25, "longer": 0.125}
    assert model.thresholds("0.9") == {"triplets": 0.5, "longer": 0.375}
    with pytest.raises(ConfigError, match=r"working point '0\.7' is unknown; known are 0\.99, 0\.9"):
        model.thresholds("0.7")


def test_half_precision_is_widened_exactly(tmp_path: Path) -> None:
    content = perceptron()
    narrow = save(tmp_path / "half", content, **TRACK, half=True)
    wide = save(tmp_path / "full", content, **TRACK)
    assert (tmp_path / "half" / "weights.safetensors").stat().st_size < (tmp_path / "full" / "weights.safetensors").stat().st_size
    for name, array in arrays(narrow).items():
        assert array.dtype == np.float32
        stored = np.float32 if name in ("mean", "scale") else np.float16
        assert np.array_equal(array, arrays(wide)[name].astype(stored).astype(np.float32))


def test_depth_is_found_not_believed(tmp_path: Path) -> None:
    grown = forest(depth=4)
    model = save(tmp_path / "m", Forest(**grown.tensors(), depth=99), **TRACK)
    assert isinstance(model.content, Forest)
    assert model.content.depth == 4


def test_hash_covers_what_decides_and_nothing_else(tmp_path: Path) -> None:
    base = save(tmp_path / "m", perceptron(), **TRACK).hash

    def other(content: MlpWeights | Forest | Cuts | None = None, **changes: Any) -> str:
        return save(tmp_path / "m", content or perceptron(), **{**TRACK, **changes}, overwrite=True).hash

    assert other() == base
    assert other(description="x", training={"seed": 1}) == base
    points = TRACK["working_points"]
    different = [
        other(perceptron(seed=2)),
        other(forest()),
        other(cuts()),
        other(half=True),
        other(name="another"),
        other(version=3),
        other(features=FEATURES[::-1]),
        other(default_working_point="0.9"),
        other(working_points={**points, "0.9": {"triplets": 0.5, "longer": 0.3750001}}),
    ]
    assert len({base, *different}) == len(different) + 1


def test_hash_does_not_depend_on_the_machine_or_the_day(tmp_path: Path) -> None:
    layer = (np.arange(5, dtype=np.float32).reshape(1, 5), np.ones(1, np.float32))
    content = MlpWeights(np.zeros(5, np.float32), np.ones(5, np.float32), (layer,))
    save(tmp_path / "m", content, **TRACK)
    path = tmp_path / "m" / "model.json"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert load(tmp_path / "m").hash == "830dd3c8f7517785"


def test_writing_is_all_or_nothing(package: Path) -> None:
    before = load(package).hash
    bad = perceptron()
    bad.layers[0][1][0] = np.nan
    with pytest.raises(ConfigError, match=r"layer0\.bias holds nan at \(0,\)"):
        save(package, bad, **TRACK, overwrite=True)
    with pytest.raises(ConfigError, match="exists; choose another name"):
        save(package, perceptron(seed=2), **TRACK)
    assert load(package).hash == before
    after = save(package, perceptron(seed=2), **TRACK, overwrite=True)
    assert after.hash == load(package).hash != before
    assert [path.name for path in package.parent.iterdir()] == [package.name]
    other = package.parent / "other"
    other.mkdir()
    (other / "keep.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not a model package"):
        save(other, perceptron(), **TRACK, overwrite=True)
    assert (other / "keep.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"format": 2}, ["model.json: format", "2"]),
        ({"name": "../x"}, ["name", "'../x'"]),
        ({"name": "a\n"}, ["name"]),
        ({"version": "1"}, ["version", "'1'"]),
        ({"version": 0}, ["version", "0"]),
        ({"kind": "pickle"}, ["kind", "'pickle'"]),
        ({"kind": "forest"}, ["tensor 'feature' is missing"]),
        ({"kind": "pt2"}, ["files: a pt2 model has model.pt2"]),
        ({"target": "jet"}, ["target", "'jet'"]),
        ({"surprise": 1}, ["surprise", "1"]),
        ({"features": None}, ["features"]),
        ({"features": []}, ["features"]),
        ({"features": ["pt", "eta", "phi", "tip", "Zip"]}, ["features.4", "'Zip'"]),
        ({"features": ["pt", "eta", "phi", "tip", "charm"]}, ["features: 'charm' is unknown; known are pt, eta"]),
        ({"features": ["pt", "eta", "phi", "tip", "pt"]}, ["features: 'pt' appears 2 times"]),
        ({"features": ["pt", "eta", "phi", "tip"]}, ["weights.safetensors: mean has shape (5,); expected (4,)"]),
        ({"default_working_point": "0.5"}, ["default_working_point: '0.5' is not among the working points 0.99, 0.9"]),
        ({"working_points": {}}, ["working_points"]),
        ({"working_points": {"0.99": {"triplets": 0.5}}}, ["working_points.0.99", "triplets, longer; got triplets"]),
        ({"working_points": {"0.99": {"triplets": 0.5, "longer": 1.5}}}, ["working_points.0.99.longer", "1.5"]),
        ({"working_points": {"0.99": {"triplets": -0.1, "longer": 0.5}}}, ["working_points.0.99.triplets", "-0.1"]),
        ({"working_points": {"0.99": {"triplets": float("nan"), "longer": 0.5}}}, ["working_points.0.99.triplets", "nan"]),
        ({"working_points": {"1.5": {"triplets": 0.5, "longer": 0.5}}}, ["working_points.1.5"]),
        ({"target": "event"}, ["working_points.0.99", "thresholds for event; got triplets, longer"]),
        ({"cuts": [{"feature": "pt", "min": 1}]}, ["cuts: a mlp model has none, got 1"]),
        ({"inputs": [["pt"]]}, ["inputs: only a pt2 model"]),
        ({"files": {}}, ["files: a mlp model has weights.safetensors; got none"]),
        ({"files": {"../../etc/passwd": "0" * 32}}, ["files", "'../../etc/passwd'"]),
        ({"files": {"weights.safetensors": "0" * 31}}, ["files.weights.safetensors", "0" * 31]),
        ({"files": {"weights.safetensors": "0" * 32}}, ["weights.safetensors: the digest is", "0" * 32]),
    ],
)
def test_bad_manifest(fields: dict[str, Any], parts: list[str], package: Path) -> None:
    edit(package, **fields)
    refused(package, *parts)


@pytest.mark.parametrize(
    ("cut", "parts"),
    [
        ({"feature": "pt"}, ["needs min, max or both"]),
        ({"feature": "pt", "min": 2, "max": 1}, ["min 2.0 above max 1.0"]),
        ({"feature": "pt", "min": 1, "min_hits": 5, "max_hits": 4}, ["min_hits 5 above max_hits 4"]),
        ({"feature": "charm", "min": 1}, ["cuts: 'charm' is not among the features"]),
        ({"feature": "pt", "min": "1"}, ["cuts.0.min", "'1'"]),
        ({"feature": "pt", "max": 1e39}, ["cuts.0", "max 1e+39: beyond float32"]),
        ({"feature": "pt", "min": -3.5e38, "max": 1}, ["cuts.0", "min -3.5e+38: beyond float32"]),
    ],
)
def test_bad_cuts(cut: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    save(tmp_path / "c", cuts(), **TRACK)
    edit(tmp_path / "c", cuts=[cut])
    refused(tmp_path / "c", *parts)


def test_cuts_need_cuts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a cuts model has at least one cut, got 0"):
        save(tmp_path / "c", Cuts(()), **TRACK)


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"scale": None}, ["tensor 'scale' is missing"]),
        ({"extra": np.zeros(1, np.float32)}, ["tensor 'extra' is unknown"]),
        ({"mean": np.zeros(5)}, ["mean has dtype float64"]),
        ({"mean": np.zeros((5, 1), np.float32)}, ["mean has shape (5, 1); expected (5,)"]),
        ({"scale": np.array([1, 1, np.inf, 1, 1], np.float32)}, ["scale holds inf at (2,)"]),
        ({"layer0__weight": np.zeros((8, 6), np.float32)}, ["layer0.weight has shape (8, 6); expected (8, 5)"]),
        ({"layer1__weight": np.full((4, 8), np.nan, np.float16)}, ["layer1.weight holds nan at (0, 0)"]),
        ({"layer1__bias": np.zeros(3, np.float32)}, ["layer1.weight has shape (4, 8); expected (3, 8)"]),
        ({"layer1__bias": np.zeros((), np.float32)}, ["layer1.bias has shape ()"]),
        ({"layer2__weight": np.zeros((2, 4), np.float32)}, ["layer2.weight has shape (2, 4); expected (1, 4): the last layer"]),
        ({"layer2__bias": np.zeros(2, np.float32)}, ["layer2.bias has shape (2,); expected (1,)"]),
        ({"layer1__weight": None, "layer1__bias": None}, ["layers [0, 2]"]),
        ({"layer2__bias": None}, ["tensor 'layer2.bias' is missing"]),
    ],
)
def test_bad_weights(tensors: dict[str, Any], parts: list[str], package: Path) -> None:
    put(package, **tensors)
    refused(package, "weights.safetensors", *parts)


#: One tree: node 0 with the leaves 1 and 2.
TREE: dict[str, Any] = {
    "feature": np.array([0, 0, 0], np.int32),
    "threshold": np.zeros(3, np.float32),
    "left": np.array([1, -1, -1], np.int32),
    "right": np.array([2, -1, -1], np.int32),
    "value": np.zeros(3, np.float32),
    "root": np.array([0], np.int32),
    "base": np.zeros(1, np.float32),
}


def chain(nodes: int) -> dict[str, Any]:
    """A tree as deep as it can be: every right child is a leaf."""
    inner = nodes // 2
    here = np.arange(nodes, dtype=np.int32)
    return {
        "feature": np.zeros(nodes, np.int32),
        "threshold": np.zeros(nodes, np.float32),
        "left": np.where(here < inner, here + 1, -1).astype(np.int32),
        "right": np.where(here < inner, here + inner + 1, -1).astype(np.int32),
        "value": np.zeros(nodes, np.float32),
    }


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"left": np.array([1, -1, -1], np.int64)}, ["left has dtype int64; expected int32"]),
        ({"threshold": np.zeros(3, np.float16)}, ["threshold has dtype float16; expected float32"]),
        ({"threshold": np.array([np.nan, 0, 0], np.float32)}, ["threshold holds nan at (0,)"]),
        ({"value": np.zeros(2, np.float32)}, ["value has shape (2,); expected (3,)"]),
        ({"base": np.zeros(2, np.float32)}, ["base has shape (2,)"]),
        ({"root": np.zeros(0, np.int32)}, ["root has shape (0,)"]),
        ({"root": np.array([3], np.int32)}, ["root of entry 0 is 3; possible are 0 to 2"]),
        ({"left": np.array([3, -1, -1], np.int32)}, ["left of entry 0 is 3; possible are -1 to 2"]),
        ({"left": np.array([1, -2, -1], np.int32)}, ["left of entry 1 is -2"]),
        ({"right": np.array([-1, -1, -1], np.int32)}, ["right of entry 0 is -1; possible are 0 to 2"]),
        ({"feature": np.array([5, 0, 0], np.int32)}, ["feature of entry 0 is 5; possible are 0 to 4"]),
        ({"left": np.array([0, -1, -1], np.int32)}, ["node 0 is reached twice"]),
        ({"right": np.array([1, -1, -1], np.int32)}, ["node 1 is reached twice"]),
        ({"root": np.array([0, 0], np.int32)}, ["node 0 is reached twice"]),
        ({"left": np.array([-1, -1, -1], np.int32)}, ["node 1 belongs to no tree"]),
        (chain(131), ["a tree is deeper than 64 levels"]),
        ({"gain": np.zeros(3, np.float32)}, ["tensor 'gain' is unknown"]),
    ],
)
def test_bad_forests(tensors: dict[str, Any], parts: list[str], trees: Path) -> None:
    put(trees, **{**TREE, **tensors})
    refused(trees, "weights.safetensors", *parts)


def test_a_tree_may_have_64_levels(trees: Path) -> None:
    put(trees, **{**TREE, **chain(129)})
    content = load(trees).content
    assert isinstance(content, Forest)
    assert content.depth == 64


def test_files_that_are_none(package: Path, tmp_path: Path) -> None:
    weights = package / "weights.safetensors"
    text = b"\x10\0\0\0\0\0\0\0not safetensors!"
    weights.write_bytes(text)
    edit(package, files={weights.name: digest(text)})
    refused(package, "not a safetensors file")
    weights.unlink()
    refused(package, "weights.safetensors", "No such file")
    os.mkfifo(weights)
    refused(package, "not a regular file")
    (package / "model.json").write_text("{")
    refused(package, "model.json", "Invalid JSON")
    (package / "model.json").write_text(" " * ((1 << 20) + 1))
    refused(package, "model.json", "at most 1048576 are read")
    (package / "model.json").unlink()
    refused(package, "model.json", "No such file")
    with pytest.raises(ConfigError, match="no such directory"):
        load(tmp_path / "nowhere")


def test_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    save(tmp_path / "sample", perceptron(), **TRACK)
    assert registry.shipped() == {"sample": tmp_path / "sample"}
    assert registry.find("sample") == registry.find("sample@2") == registry.find(tmp_path / "sample") == tmp_path / "sample"
    with pytest.raises(ConfigError, match="there in version 2, not '1'"):
        registry.find("sample@1")
    with pytest.raises(ConfigError, match="neither a directory nor shipped; shipped are sample"):
        registry.find("simple")
    with pytest.raises(ConfigError, match="model '' is neither a directory nor shipped"):
        registry.find("")
    with pytest.raises(ConfigError, match="File name too long"):
        registry.find("a" * 5000)


def test_shipped_models_are_sound_and_named_as_their_folder() -> None:
    assert [load(directory).name for directory in registry.shipped().values()] == list(registry.shipped())


def test_commands(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setattr(registry, "SHIPPED", shelf)
    assert cli.run(["models", "list"]) == 0
    assert "no models" in capsys.readouterr().out
    package.rename(shelf / "sample")
    assert cli.run(["models", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("sample  2        mlp   track   5         0.99")
    assert cli.run(["models", "show", "sample"]) == 0
    text = capsys.readouterr().out
    assert "5-8-4-1, 89 parameters" in text
    assert "working point 0.99 (default): triplets >= 0.25, longer >= 0.125" in text
    assert cli.run(["models", "show", "sample", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["hash"]) == ("sample", load(shelf / "sample").hash)
    assert cli.run(["models", "export", "sample", "--out", str(tmp_path / "out")]) == 0
    exported = load(tmp_path / "out", FEATURES)
    assert (exported.kind, exported.manifest.working_points) == ("pt2", TRACK["working_points"])
    assert cli.run(["models", "export", "sample", "--out", str(tmp_path / "out.pt2")]) == 0
    assert (tmp_path / "out.pt2").read_bytes()[:2] == b"PK"
    capsys.readouterr()
    for arguments, message in (
        (["show", "nothing"], "neither a directory nor shipped; shipped are sample"),
        (["export", str(tmp_path / "out"), "--out", str(tmp_path / "again")], "is an exported program already"),
        (["export", "sample", "--out", str(tmp_path / "out")], "exists; choose another name"),
    ):
        assert cli.run(["models", *arguments]) == 2
        assert message in capsys.readouterr().err
