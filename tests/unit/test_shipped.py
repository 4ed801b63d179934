"""What `pip install hltfarm` gives: a sample by its name, and a clear word where an extra is missing."""

from __future__ import annotations

import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.source import open_source
from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import BackendError, SampleError
from hltfarm.service import cli
from hltfarm.workers.configuration import DEFAULT, with_models
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor, load_selector

ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_sample_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = open_source("demo")
    assert isinstance(shipped, Sample)
    assert shipped.path.samefile(ROOT / "loadgen" / "data" / "demo.hlt")
    assert len(open_source(Path("demo"))) == len(shipped)
    with pytest.raises(SampleError, match="no such sample file"):
        open_source("./other/demo")
    (tmp_path / "demo").write_text("a file of that name goes first")
    with pytest.raises(SampleError, match="demo"):
        open_source("demo")


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torch was never installed."""
    find = PathFinder.find_spec

    def without(name: str, *arguments: Any) -> Any:
        return None if name.partition(".")[0] == "torch" else find(name, *arguments)

    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(PathFinder, "find_spec", without)


@pytest.mark.usefixtures("no_torch")
def test_an_engine_of_torch_says_how_to_get_it() -> None:
    config = with_models(DEFAULT, "track-mlp", None, "eager", None)
    with Reconstructor(phase1(), Menu.parse(DEFAULT_MENU), backend="cpu", threads=1) as reconstructor:
        before = reconstructor.programme
        with pytest.raises(BackendError, match=r"the engine eager needs torch.*pip install 'hltfarm\[torch\]'"):
            reconstructor.use(selector=load_selector(config.selection))
        assert reconstructor.programme == before


def test_every_hint_is_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(cli.EXTRAS.values()) <= set(extras)
