"""The models that a run names: the configuration they make, and what a worker tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hltfarm.proto import worker_link as link
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.messages import RunConfig, models_text
from hltfarm.service.cli.serve import check_models, model_name
from hltfarm.workers.configuration import DEFAULT, SelectionConfig
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.models import load, registry, save
from hltfarm.workers.models.exporting import export_model
from hltfarm.workers.process import WorkerSettings
from hltfarm.workers.run_models import check, configuration_of, loaded
from tests.reference import model_samples, selectors


def selection(**given: str) -> SelectionConfig:
    return configuration_of(RunConfig(run=1, **given)).selection  # type: ignore[arg-type]


def test_a_run_that_names_no_models_is_configured_as_always() -> None:
    assert configuration_of(RunConfig(run=1)) == DEFAULT


def test_what_a_run_names_takes_the_place_of_the_configured() -> None:
    chosen = selection(model="/m", working_point="0.98", engine="aot", event_model="/e")
    assert (chosen.model, chosen.working_point, chosen.engine, chosen.event_model) == ("/m", "0.98", "aot", "/e")
    none = selection(model="none", engine="aot", event_model="none")
    assert (none.model, none.engine, none.event_model) == (None, DEFAULT.selection.engine, None), "no selector, no engine"


def test_a_worker_tells_what_it_loaded() -> None:
    track, event = selectors.mlp(1), selectors.mlp(2, ("vertices",), target="event")
    assert loaded(Selector()) == ()
    first, second = loaded(Selector(track, engine="eager", event=event))
    assert (first.name, first.hash, first.engine, first.working_point) == ("random-mlp", track.hash, "eager", "0.99")
    assert first.working_points["0.98"] == track.thresholds("0.98")
    assert first.features == track.features
    assert (second.target, second.engine, second.working_point, second.hash) == ("event", "fused", "", event.hash)
    assert loaded(Selector(track, "0.98"))[0].working_point == "0.98"
    assert models_text((first, second)) == f"random-mlp:{track.hash},random-mlp:{event.hash}"
    message = link.Configured(generation=3, menu_hash="m", models=(first, second))
    assert link.decode_from_worker(link.encode(message)) == message


def test_a_worker_builds_what_the_run_names(tmp_path: Path) -> None:
    save(tmp_path / "m", model_samples.perceptron(features=1), **{**model_samples.TRACK, "features": ("log_pt",)})
    settings = WorkerSettings(name="w", backend="cpu", threads=1, max_events=1, max_batch_bytes=4096)
    built = settings.build(RunConfig(run=1, model=str(tmp_path / "m"), working_point="0.9", event_model="none"), None)
    built.reconstruction.close()
    (info,) = built.models
    assert (info.name, info.working_point, info.features) == ("sample", "0.9", ("log_pt",))
    with pytest.raises(ConfigError, match="neither a directory nor shipped"):
        settings.build(RunConfig(run=1, model=str(tmp_path / "missing")), None)
    with pytest.raises(ConfigError, match=r"working point '0\.5' is unknown"):
        settings.build(RunConfig(run=1, model=str(tmp_path / "m"), working_point="0.5"), None)


def test_models_of_one_name_cannot_be_told_apart(tmp_path: Path) -> None:
    """The API shows a model by its name."""
    track = {**model_samples.TRACK, "features": ("log_pt",)}
    event = {**model_samples.EVENT, "features": ("hits",)}
    for folder, described in (("t", track), ("e", event), ("other", {**event, "name": "other"})):
        save(tmp_path / folder, model_samples.perceptron(features=1), **described)
    with pytest.raises(ConfigError, match="are both named sample; rename one of them"):
        check_models(RunConfig(run=1, model=str(tmp_path / "t"), event_model=str(tmp_path / "e")))
    check_models(RunConfig(run=1, model=str(tmp_path / "t"), event_model=str(tmp_path / "other")))


def test_a_torch_program_needs_an_engine_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    content = export_model(save(tmp_path / "dense", model_samples.perceptron(), **model_samples.TRACK))
    save(tmp_path / "program", content, **{**model_samples.TRACK, "name": "program"})
    assert load(tmp_path / "program").kind == "pt2"
    check(RunConfig(run=1, model="program", engine="eager", event_model="none"))
    with pytest.raises(ConfigError, match="program is a torch program; use the engine eager"):
        check(RunConfig(run=1, model="program", event_model="none"))


def test_serve_loads_the_models_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "m", model_samples.perceptron(), **model_samples.TRACK)  # `pt` is no feature of this version
    monkeypatch.chdir(tmp_path)
    assert (model_name(None), model_name("none"), model_name("m")) == ("", "none", str(tmp_path / "m"))
    with pytest.raises(ConfigError, match="'pt' is unknown"):
        check_models(RunConfig(run=0, model=model_name("m")))
    with pytest.raises(ConfigError, match="neither a directory nor shipped"):
        model_name("nothing")
