"""Training: labels, split by event, working points, calibration, export of forests, and the same weights from the same rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.loadgen.training.calibration import log_loss, platt, reliability, scaled_forest, scaled_mlp
from hltfarm.loadgen.training.forest import ForestConfig, exported, train_forest
from hltfarm.loadgen.training.importance import permutation_importance
from hltfarm.loadgen.training.job import TrainConfig, halved, row_weights, save_package, train
from hltfarm.loadgen.training.measure import selection, tightened
from hltfarm.loadgen.training.perceptron import MlpConfig, standardisation, train_mlp
from hltfarm.loadgen.training.rows import GROUPS, Rows, joined
from hltfarm.loadgen.training.samples import Reading, loose_tracks, track_rows
from hltfarm.loadgen.training.scoring import logits, scores_of
from hltfarm.loadgen.training.split import Fractions, parts, split
from hltfarm.loadgen.training.working_points import kept, passing, roc, threshold, working_points
from hltfarm.loadgen.validation import Cuts, EventReco, Geometry, Study
from hltfarm.proto.errors import SampleError
from hltfarm.workers import configuration
from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.models import MlpWeights
from hltfarm.workers.reconstructor import Reconstructor

TINY = TrainConfig(mlp=MlpConfig(hidden=(8,), epochs=4, batch_rows=256), forest=ForestConfig(trees=6, leaves=6))
CPU = Reading(configuration.DEFAULT, None, "cpu", 3, 1)


def quiet(*_: Any) -> None:
    """Nobody watches."""


def watch(steps: Any, _what: str) -> Any:
    return steps


def rows_of(n: int, seed: int = 0, groups: tuple[str, ...] = GROUPS["track"]) -> Rows:
    """The label follows x and, turned around, y; noise and a constant say nothing. Ten rows an event, three in ten are triplets."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(n, 4)).astype(np.float32)
    values[:, 3] = 7.0
    label = random.uniform(size=n) < 1 / (1 + np.exp(-4.0 * (values[:, 0] - values[:, 1])))
    group = (random.uniform(size=n) < 0.7).astype(np.int64) if len(groups) > 1 else np.zeros(n, np.int64)
    event = np.arange(n) // 10
    about = {
        "pt": random.exponential(2.0, n),
        "eta": random.uniform(-2, 2, n),
        "n_hits": np.where(group, 4.0, 3.0),
        "tip": np.full(n, 0.005),
    }
    read = np.unique(np.stack([event % 2, event]), axis=1)
    return Rows(("x", "y", "noise", "constant"), groups, values, label, group, event % 2, event, about, read)


# ---------------------------------------------------------------- rows of a sample


def test_labels_and_features_are_those_of_the_chain(demo_sample: Path) -> None:
    """Row by row the loose tracks of the default chain; true ones and fakes as `hltfarm validate` counts them."""
    rows = track_rows([demo_sample], CPU, watch)
    source = open_source(demo_sample)
    detector = source.detector()
    study = Study(Geometry.of(detector))
    menu = Menu.parse(DEFAULT_MENU, "built-in menu")
    largest = max(source[i].payload.nbytes for i in range(len(source)))
    with Reconstructor(
        detector, menu, selector=Selector(), backend="cpu", threads=1, max_events=1, max_batch_bytes=-(-largest // 128) * 128
    ) as reconstructor:
        for i in range(len(source)):
            result = reconstructor.run([source[i]], keep=True)
            tracks = result.tracks(0)
            study.add(EventReco.of(result.hits(0), result.digis(0), tracks, result.vertices(0)), source.truth(i))
            loose = tracks["quality"] >= 2
            mine = rows[rows.event == i]
            assert np.array_equal(mine.about["pt"], tracks["pt"][loose].astype(np.float64))
            assert np.array_equal(mine.columns("n_hits")[:, 0], tracks["n_hits"][loose])
            assert np.array_equal(mine.group, tracks["n_hits"][loose] > 3)
    totals = study.document()["tracks"]["totals"]
    for g, name in enumerate(("triplets", "quadruplets")):
        mine = rows.of(g)
        assert (int((mine & ~rows.label).sum()), int(mine.sum())) == (
            totals[name]["fake_rate"]["passed"],
            totals[name]["fake_rate"]["total"],
        )
    assert rows.names == FEATURES
    assert np.isfinite(rows.values).all()


def test_other_cuts_are_read_without_a_selector(demo_sample: Path) -> None:
    """What another configuration finds loose: the reference program's cuts let more fakes through."""
    ours, theirs = (
        loose_tracks([demo_sample], replace(CPU, config=c, events=2), watch)
        for c in (configuration.DEFAULT, configuration.PATATRACK_PHASE1)
    )
    assert (~theirs.label).sum() > 1.5 * (~ours.label).sum() > 0
    assert ours.events == theirs.events == 2
    assert len(ours) == len(track_rows([demo_sample], replace(CPU, events=2), watch))
    twice = loose_tracks([demo_sample, demo_sample], replace(CPU, events=2), watch)
    assert (twice.events, len(twice)) == (4, 2 * len(ours)), "equal numbers in two samples are two events"


def test_events_without_rows_count() -> None:
    """True tracks per event: an event in which nothing was found has none."""
    rows = rows_of(4000)
    found = rows[rows.event % 4 != 0]
    assert found.events == rows.events == 400
    every = np.ones(len(found), bool)
    assert selection(found, every, found.events)["longer"]["all"]["true_per_event"] == (found.of(1) & found.label).sum() / 400
    of_parts = parts(found, 3, Fractions(0.2, 0.3))
    assert sum(part.events for part in of_parts) == 400
    for part, mask in zip(of_parts, vars(split(rows, 3, Fractions(0.2, 0.3))).values(), strict=True):
        assert part.events == len(np.unique(rows.event[mask]))
        assert np.isin(part.event, part.read[1]).all()
    document = train(found, None, TINY, quiet).document
    assert sum(part["events"] for part in document["parts"].values()) == 400


def test_sample_without_truth(tmp_path: Path, demo_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(demo_sample)
    monkeypatch.setattr(type(source), "truth", lambda _self, _i: None)
    with pytest.raises(SampleError, match=r"event 0: no truth to learn from"):
        track_rows([demo_sample], CPU, watch)


# ---------------------------------------------------------------- split


def test_split_keeps_events_whole_and_where_they_are() -> None:
    rows = rows_of(20_000)
    parts = split(rows, 5, Fractions(0.2, 0.3))
    assert np.array_equal(parts.train.astype(int) + parts.validation + parts.test, np.ones(len(rows)))
    for mask in (parts.train, parts.validation, parts.test):
        inside = {(s, e) for s, e in zip(rows.sample[mask], rows.event[mask], strict=True)}
        outside = {(s, e) for s, e in zip(rows.sample[~mask], rows.event[~mask], strict=True)}
        assert not inside & outside
    assert abs(parts.validation.mean() - 0.2) < 0.03
    assert abs(parts.test.mean() - 0.3) < 0.03
    fewer = rows[rows.event < 700]
    assert np.array_equal(split(fewer, 5, Fractions(0.2, 0.3)).test, parts.test[rows.event < 700])
    assert not np.array_equal(split(rows, 6, Fractions(0.2, 0.3)).test, parts.test)


def test_events_of_the_same_number_in_other_samples_are_others() -> None:
    rows = rows_of(4000)
    moved = replace(rows, sample=rows.sample + 1, read=rows.read + np.array([[1], [0]]))
    both = joined([rows, moved])
    assert both.events == 2 * rows.events - len(
        {(1, e) for e in rows.event[rows.sample == 1]} & {(1, e) for e in moved.event[moved.sample == 1]}
    )
    assert not np.array_equal(split(rows, 1, Fractions()).train, split(moved, 1, Fractions()).train)


# ---------------------------------------------------------------- working points


def test_threshold_keeps_just_enough() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.95, 0.1], np.float32)
    label = np.array([1, 1, 1, 1, 1, 0, 0], bool)
    for efficiency, expected in ((1.0, 0.5), (0.99, 0.5), (0.8, 0.6), (0.6, 0.7), (0.2, 0.9), (0.01, 0.9)):
        assert threshold(scores, label, efficiency) == np.float32(expected)
    tied = np.full(7, 0.5, np.float32)
    assert threshold(tied, label, 0.2) == 0.5
    with pytest.raises(ValueError, match="no true rows"):
        threshold(scores, np.zeros(7, bool), 0.9)


def test_working_points_hold_in_every_group() -> None:
    rows = rows_of(5000)
    scores = np.random.default_rng(2).uniform(size=len(rows)).astype(np.float32)
    scores[rows.group == 0] /= 2  # one threshold for both would miss both
    points = working_points(rows, scores, (0.995, 0.9))
    assert set(points) == {"0.995", "0.9"}
    for point, limits in points.items():
        passed = passing(rows, scores, limits)
        for g in range(2):
            r = kept(rows, passed, rows.of(g))
            true = rows.of(g) & rows.label
            assert r["efficiency"]["passed"] == int(np.ceil(float(point) * true.sum() - 1e-9))
            assert r["fake_rate"]["total"] == int((rows.of(g) & passed).sum())
            assert r["fake_rate_before"]["passed"] == int((rows.of(g) & ~rows.label).sum())
    with pytest.raises(SampleError, match="no true triplets"):
        working_points(rows[(rows.group == 1) | ~rows.label], scores[(rows.group == 1) | ~rows.label], (0.9,))


def test_roc_area_is_the_chance_that_a_true_row_scores_more() -> None:
    random = np.random.default_rng(3)
    scores = np.round(random.uniform(size=300), 2).astype(np.float32)
    label = random.uniform(size=300) < scores
    more = scores[label][:, None] > scores[~label][None, :]
    same = scores[label][:, None] == scores[~label][None, :]
    curve = roc(scores, label)
    assert curve["area"] == pytest.approx((more + 0.5 * same).mean())
    assert min(curve["efficiency"]) >= 1 / label.sum()
    assert all(0 <= f <= 1 for f in curve["false_kept"])
    assert roc(scores, np.ones(300, bool))["area"] is None


def test_tightened_cuts_are_the_best_of_all_pairs() -> None:
    random = np.random.default_rng(4)
    rows = replace(rows_of(240), values=random.normal(size=(240, 4)).astype(np.float32))
    true = rows.label & rows.of(0)
    need = int(np.ceil(0.9 * true.sum() - 1e-9))
    passed = tightened(rows, 0, ("x", "y"), 0.9)
    assert not (passed & rows.of(1)).any()
    assert (passed & true).sum() >= need
    x, y = rows.columns("x", "y").T
    least = min(
        int((rows.of(0) & ~rows.label & inside).sum())
        for a in x[true]
        for b in y[true]
        if ((inside := (x <= a) & (y <= b)) & true).sum() >= need
    )
    assert (passed & ~rows.label).sum() == least


# ---------------------------------------------------------------- calibration


def test_platt_finds_the_scale_that_made_the_labels() -> None:
    random = np.random.default_rng(5)
    logit = random.normal(scale=2.0, size=60_000)
    label = random.uniform(size=len(logit)) < 1 / (1 + np.exp(-(0.5 * logit - 1.0)))
    a, b = platt(logit, label)
    assert (a, b) == (pytest.approx(0.5, abs=0.02), pytest.approx(-1.0, abs=0.03))
    assert log_loss(a * logit + b, label) < log_loss(logit, label)
    before, after = (reliability(scores_of(x), label)["expected_calibration_error"] for x in (logit, a * logit + b))
    assert after < 0.01 < 0.1 < before


def test_platt_of_separated_reversed_and_one_sided_labels() -> None:
    logit = np.linspace(-3, 3, 40)
    a, b = platt(logit, logit > 0)
    assert np.isfinite([a, b]).all()
    assert a > 1
    assert platt(logit, logit < 0) == (1.0, 0.0)
    assert platt(logit, np.ones(40, bool)) == (1.0, 0.0)


def test_calibration_is_folded_into_the_weights() -> None:
    rows = rows_of(3000)
    weight = np.ones(len(rows))
    net, _ = train_mlp(rows, rows, weight, weight, TINY.mlp, 1, quiet)
    trees, _ = train_forest(rows, rows, weight, weight, TINY.forest, 1, quiet)
    for content, folded in ((net, scaled_mlp(net, 1.7, -0.3)), (trees, scaled_forest(trees, 1.7, -0.3))):
        assert logits(folded, rows.values) == pytest.approx(1.7 * logits(content, rows.values) - 0.3, abs=2e-5)  # type: ignore[arg-type]


def test_reliability_counts_every_row() -> None:
    scores = np.array([0.0, 0.01, 0.55, 0.57, 1.0], np.float32)
    table = reliability(scores, np.array([0, 0, 1, 0, 1], bool))
    assert sum(table["rows"]) == 5
    at = table["rows"].index(2, 1)
    assert (table["score"][at], table["true"][at]) == (pytest.approx(0.56), 0.5)
    assert table["true"][-1] == 1.0


# ---------------------------------------------------------------- forests


def test_exported_forest_equals_lightgbm() -> None:
    """On values at, just below and just above every threshold, too: doubles there must become the right float32."""
    lightgbm = pytest.importorskip("lightgbm", reason="the extra `train` is not installed")
    rows = rows_of(4000)
    data = lightgbm.Dataset(rows.values, rows.label, feature_name=list(rows.names))
    booster = lightgbm.train({"objective": "binary", "num_leaves": 16, "num_threads": 1, "verbose": -1, "max_depth": 12}, data, 40)
    forest = exported(booster.dump_model())
    assert len(forest.root) == 40
    assert 2 <= forest.depth <= 12
    inner = forest.left >= 0
    random = np.random.default_rng(6)
    tried = rows.values[random.integers(len(rows), size=3 * int(inner.sum()))].copy()
    limits = forest.threshold[inner]
    edges = np.concatenate([np.nextafter(limits, np.float32(-np.inf)), limits, np.nextafter(limits, np.float32(np.inf))])
    tried[np.arange(len(tried)), np.tile(forest.feature[inner], 3)] = edges
    values = np.concatenate([rows.values, tried])
    assert scores_of(logits(forest, values)) == pytest.approx(booster.predict(values.astype(np.float64)), abs=1e-6)


def test_forest_stops_where_validation_is_best() -> None:
    pytest.importorskip("lightgbm", reason="the extra `train` is not installed")
    rows = rows_of(600)
    part = rows.event % 3 == 0
    n = (~part).sum(), part.sum()
    config = ForestConfig(trees=300, leaves=31, learning_rate=0.3, min_rows=2, patience=5)
    forest, curves = train_forest(rows[~part], rows[part], np.ones(n[0]), np.ones(n[1]), config, 1, quiet)
    assert len(forest.root) == 1 + int(np.argmin(curves["validation"])) < len(curves["validation"]) < 300


# ---------------------------------------------------------------- networks


def test_network_learns_and_leaves_constants_alone() -> None:
    rows = rows_of(8000)
    part = rows.event % 4 == 0
    n = (~part).sum(), part.sum()
    seen: list[int] = []
    config = MlpConfig(hidden=(16,), epochs=12, batch_rows=128)
    net, curves = train_mlp(rows[~part], rows[part], np.ones(n[0]), np.ones(n[1]), config, 1, lambda i, _a, _b: seen.append(i))
    assert roc(scores_of(logits(net, rows[part].values)), rows[part].label)["area"] > 0.955
    assert net.scale[3] == 0
    assert seen == list(range(len(curves["validation"])))
    best = log_loss(logits(net, rows[part].values), rows[part].label)
    assert best == pytest.approx(min(curves["validation"]), rel=1e-5)


def test_network_takes_the_epoch_before_it_gets_worse() -> None:
    """A network that is far too large for its rows: the last epochs are worse, and it gives up on them."""
    rows = rows_of(300)
    part = rows.event % 2 == 0
    n = (~part).sum(), part.sum()
    config = MlpConfig(hidden=(128, 64), epochs=100, batch_rows=16, patience=3, learning_rate=1e-2)
    net, curves = train_mlp(rows[~part], rows[part], np.ones(n[0]), np.ones(n[1]), config, 1, quiet)
    assert len(curves["validation"]) == int(np.argmin(curves["validation"])) + 1 + 3 < 100
    assert log_loss(logits(net, rows[part].values), rows[part].label) == pytest.approx(min(curves["validation"]), rel=1e-4)


def test_standardisation() -> None:
    values = np.random.default_rng(0).normal(3.0, 0.25, (5000, 2)).astype(np.float32)
    values[:, 1] = 1e4
    mean, scale = standardisation(values)
    assert (mean[0], scale[0]) == (pytest.approx(3.0, abs=0.02), pytest.approx(4.0, abs=0.1))
    assert (mean[1], scale[1]) == (1e4, 0.0)
    values[::50, 0] *= 1e4  # a long tail
    values[::10, 1] = 2e4  # the central 68 % are one value: mean and standard deviation remain
    mean, scale = standardisation(values, robust=True)
    assert (mean[0], scale[0]) == (pytest.approx(3.0, abs=0.05), pytest.approx(4.0, abs=0.6))
    assert (mean[1], scale[1]) == (pytest.approx(1.1e4), pytest.approx(1 / 3e3))


def test_half_precision_is_what_is_stored_and_measured(tmp_path: Path) -> None:
    rows = rows_of(3000)
    config = replace(TINY, half=True)
    trained = train(rows, None, config, quiet)
    assert isinstance(trained.content, MlpWeights)
    assert all(
        np.array_equal(a, b) for a, b in zip(halved(trained.content).tensors().values(), trained.content.tensors().values(), strict=True)
    )
    model = save_package(trained, tmp_path / "m", "m", 1, config, rows, {}, overwrite=False)
    assert isinstance(model.content, MlpWeights)
    assert np.array_equal(logits(model.content, rows.values), logits(trained.content, rows.values))


def test_half_precision_of_features_beyond_it(tmp_path: Path) -> None:
    """A mean above 65504, the largest float16: only the layers are narrowed."""
    rows = rows_of(3000)
    values = rows.values.copy()
    values[:, 0] = 2e6 + 1e5 * values[:, 0]
    values[:, 2] *= 1e-9
    large = replace(rows, values=values)
    config = replace(TINY, half=True)
    trained = train(large, None, config, quiet)
    model = save_package(trained, tmp_path / "m", "m", 1, config, large, {}, overwrite=False)
    assert isinstance(model.content, MlpWeights)
    assert model.content.mean[0] == pytest.approx(2e6, rel=0.01)
    assert np.array_equal(logits(model.content, values), logits(trained.content, values))


# ---------------------------------------------------------------- the whole job


@pytest.mark.parametrize("kind", ["mlp", "forest"])
def test_same_rows_and_seed_same_weights(kind: Any, tmp_path: Path) -> None:
    if kind == "forest":
        pytest.importorskip("lightgbm", reason="the extra `train` is not installed")
    rows = rows_of(4000)
    config = replace(TINY, kind=kind)
    saved = []
    for name, settings in (("a", config), ("b", config), ("c", replace(config, seed=2))):
        trained = train(rows, None, settings, quiet)
        saved.append(save_package(trained, tmp_path / name, "model", 1, settings, rows, {"seed": settings.seed}, overwrite=False))
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert saved[0].hash == saved[1].hash != saved[2].hash
    assert (tmp_path / "a" / "model.json").read_bytes() == (tmp_path / "b" / "model.json").read_bytes()
    assert saved[0].manifest.working_points == trained.points | saved[0].manifest.working_points


def test_job_reaches_its_working_points_on_unseen_events() -> None:
    rows, test = rows_of(20_000), rows_of(20_000, seed=9)
    document = train(rows, test, replace(TINY, mlp=MlpConfig(hidden=(16,), epochs=8, batch_rows=128)), quiet).document
    assert document["parts"]["test"]["rows"] == len(test)
    assert document["parts"]["training"]["rows"] + document["parts"]["validation"]["rows"] == len(rows)
    for entry in document["test"]["groups"].values():
        assert entry["roc"]["area"] > 0.955
        assert entry["reliability"]["expected_calibration_error"] < 0.03
        for point, regions in entry["working_points"].items():
            # 450 true triplets set a threshold: within four standard deviations of what so many can do.
            spread = np.sqrt(float(point) * (1 - float(point)) / 450)
            assert regions["all"]["efficiency"]["rate"] == pytest.approx(float(point), abs=4 * spread)
            assert regions["all"]["fake_rate"]["rate"] < regions["all"]["fake_rate_before"]["rate"]
    assert {entry["feature"] for entry in document["importance"][:2]} == {"x", "y"}
    json.dumps(document, allow_nan=False)


def test_parts_without_rows_are_named() -> None:
    rows = rows_of(2000)
    with pytest.raises(SampleError, match="the training events have no false rows"):
        train(rows[rows.label], None, TINY, quiet)
    with pytest.raises(SampleError, match="the test events have no true rows"):
        train(rows, rows[~rows.label], TINY, quiet)


def test_weights_of_rows() -> None:
    rows = replace(rows_of(5), label=np.array([0, 0, 1, 1, 1], bool), group=np.array([0, 1, 0, 1, 1]))
    about = {"pt": np.array([30.0, 30.0, 16.0, 0.5, 900.0]), "tip": np.array([0.3, 0.03, 0.001, 0.03, 0.3])}
    rows = replace(rows, about=about)
    assert row_weights(rows, TINY) == pytest.approx([3.0, 1.0, 12.0, 3.0, 10 * np.sqrt(50)])
    assert row_weights(rows, replace(TINY, hard_exponent=0.0, displaced_exponent=0.0)) == pytest.approx([3.0, 1.0, 3.0, 1.0, 1.0])
    events = rows_of(1000, groups=GROUPS["event"])
    weight = row_weights(events, TINY)
    assert weight[events.label].sum() == pytest.approx(weight[~events.label].sum())


def test_importance_is_zero_for_what_the_model_does_not_read() -> None:
    rows = rows_of(4000)
    layers = ((np.array([[3.0, -3.0, 0.0, 0.0]], np.float32), np.zeros(1, np.float32)),)
    net = MlpWeights(np.zeros(4, np.float32), np.ones(4, np.float32), layers)
    by_name = {entry["feature"]: entry for entry in permutation_importance(net, rows, 1)}
    assert by_name["noise"] == {"feature": "noise", "triplets": 0.0, "longer": 0.0}
    assert min(by_name["x"]["triplets"], by_name["y"]["longer"]) > 0.5


def test_momentum_cut_of_the_report_is_that_of_the_validation() -> None:
    rows = rows_of(3000)
    passed = np.ones(len(rows), bool)
    from hltfarm.loadgen.training.measure import regions

    hard = regions(rows)["hard"]
    assert kept(rows, passed, hard)["fake_rate"]["total"] == int((rows.about["pt"] > Cuts().pt_min_gev).sum())
