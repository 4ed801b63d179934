"""Selection of high-purity tracks on every backend: features, models of every kind, thresholds, capacities, exchange of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.results import EventFlag
from hltfarm.workers.configuration import DEFAULT, PATATRACK_PHASE1, SPEED_OF_LIGHT, Configuration, SelectionConfig
from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.models import Model
from hltfarm.workers.reconstructor import BatchResult, Reconstructor
from tests.conformance.test_tracking import EVENTS, event, same_tracks
from tests.reference import features as reference
from tests.reference import selectors
from tests.reference.backends import BACKENDS

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

PLAIN: Configuration = replace(DEFAULT, selection=SelectionConfig())
MENU = Menu.parse(DEFAULT_MENU)
MODELS: dict[str, Callable[[], Model]] = {
    "mlp": lambda: selectors.mlp(1),
    "mlp of some features": lambda: selectors.mlp(2, FEATURES[5:1:-1]),
    "logistic regression": lambda: selectors.mlp(3, hidden=()),
    "wide mlp": lambda: selectors.mlp(14, hidden=(128, 128)),
    "forest": lambda: selectors.forest(5),
    "forest of some features": lambda: selectors.forest(6, FEATURES[1:4], trees=3),
    "cuts": selectors.cuts,
}


def chain(backend: str, selector: Selector, config: Configuration = PLAIN, **options: int) -> Reconstructor:
    sizes = {"threads": 1, "max_events": 8, "max_batch_bytes": 1 << 20, **options}
    return Reconstructor(phase1(), MENU, backend=backend, selector=selector, config=config, **sizes)


def all_events() -> list:
    return [event(name) for name in EVENTS]


def check_selection(batch: BatchResult, i: int, selector: Selector) -> None:
    """Assert scores, qualities and counts of an event from its own features."""
    assert selector.track is not None
    tracks, features = batch.tracks(i), batch.features(i)
    seen = features["track"]
    values = features["values"][:, [FEATURES.index(name) for name in selector.track.features]]
    assert np.isfinite(features["values"]).all()
    expected = selectors.scores(selector.track, values, tracks["n_hits"][seen])
    np.testing.assert_allclose(tracks["score"][seen], expected, rtol=0, atol=1e-5)
    thresholds = selector.track.thresholds(selector.working_point)
    limit = np.where(tracks["n_hits"] == 3, np.float32(thresholds["triplets"]), np.float32(thresholds["longer"]))
    np.testing.assert_array_equal(tracks["quality"][seen], np.where(tracks["score"][seen] >= limit[seen], 3, 2))
    others = np.setdiff1d(np.arange(len(tracks["pt"])), seen)
    assert (tracks["score"][others] == 0).all()
    assert (tracks["quality"][others] < 3).all()
    assert batch.results["tracks_high_purity"][i] == (tracks["quality"] == 3).sum()


@pytest.mark.parametrize("config", [PLAIN, replace(PATATRACK_PHASE1, selection=SelectionConfig())], ids=lambda c: c.name)
def test_features(config: Configuration, backend: str) -> None:
    """Every feature of every loose track is what its definition says."""
    detector = phase1()
    field = config.fit.field_gev_per_cm or detector.field_tesla * SPEED_OF_LIGHT
    with chain(backend, Selector(MODELS["mlp"]()), config) as r:
        batch = r.run(all_events(), keep=True)
    assert reference.NAMES == FEATURES
    rows = 0
    for i in range(len(EVENTS)):
        tracks, found = batch.tracks(i), batch.features(i)
        expected = reference.features(tracks, batch.hits(i), detector, field, tracks["quality"] >= 2)
        np.testing.assert_array_equal(found["track"], np.flatnonzero(tracks["quality"] >= 2))
        for k, name in enumerate(FEATURES):
            np.testing.assert_allclose(found["values"][:, k], expected[name], rtol=1e-6, atol=1e-6, err_msg=f"event {i}, {name}")
        rows += len(found["track"])
    assert rows > 300


@pytest.mark.parametrize("name", MODELS)
def test_kernels_compute_the_model(name: str, backend: str) -> None:
    """With thresholds in the middle of the scores, so that both sides of them are populated."""
    model = MODELS[name]()
    with chain(backend, Selector(model), events_per_task=3) as r:
        first = r.run(all_events(), keep=True)
        scores = np.concatenate([first.tracks(i)["score"][first.features(i)["track"]] for i in range(len(EVENTS))])
        low, high = np.quantile(scores, [0.4, 0.6])
        points = {"0.99": {"triplets": float(low), "longer": float(high)}, "0.98": {"triplets": 1.0, "longer": 0.0}}
        model = selectors.with_working_points(model, points)
        for point in points:
            selector = Selector(model, point)
            r.use(selector=selector)
            batch = r.run(all_events(), keep=True)
            for i in range(len(EVENTS)):
                check_selection(batch, i, selector)
                assert (batch.tracks(i)["quality"] >= 2).sum() == len(batch.features(i)["track"])  # every loose track has been seen
            assert 0 < batch.results["tracks_high_purity"].sum() < batch.results["tracks"].sum()


@pytest.mark.parametrize("engine", ["fused", "eager"])
@pytest.mark.parametrize("kind", ["mlp", "forest", "cuts"])
def test_batch_does_not_matter(kind: str, engine: str, backend: str) -> None:
    selector = Selector(MODELS[kind](), engine=engine)
    events = all_events()
    with chain(backend, selector, events_per_task=4) as r:
        together = r.run(events, keep=True)
    with chain(backend, selector) as r:
        for i, one in enumerate(events):
            alone = r.run([one], keep=True)
            if engine == "fused":
                same_tracks(alone, 0, together, i)
            np.testing.assert_allclose(alone.tracks(0)["score"], together.tracks(i)["score"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "mlp of some features", "forest of some features", "cuts"])
def test_torch_gives_the_scores_of_the_kernels(kind: str, backend: str) -> None:
    model = MODELS[kind]()
    results = {}
    for engine in ("fused", "eager"):
        with chain(backend, Selector(model, engine=engine)) as r:
            results[engine] = r.run(all_events(), keep=True)
    for i in range(len(EVENTS)):
        fused, eager = (results[engine].tracks(i)["score"] for engine in ("fused", "eager"))
        np.testing.assert_allclose(eager, fused, rtol=0, atol=1e-5)


def test_vertices_and_quantities_come_from_high_purity_tracks(backend: str) -> None:
    """With every track refused nothing is left of them; with every track accepted all is as without a selector."""
    model = selectors.mlp(7)
    refuse = selectors.with_working_points(model, {"0.99": {"triplets": 1.0, "longer": 1.0}})
    accept = selectors.with_working_points(model, {"0.99": {"triplets": 0.0, "longer": 0.0}})
    e = [event("most particles")]
    with chain(backend, Selector()) as r:
        without = r.run(e, keep=True)
        r.use(selector=Selector(refuse))
        refused = r.run(e, keep=True)
        r.use(selector=Selector(accept))
        accepted = r.run(e, keep=True)
    row = refused.results[0]
    assert row["tracks"] == without.results["tracks"][0] > 100
    for name in ("tracks_high_purity", "vertices", "leading_pt", "sum_pt", "hard_tracks", "displaced_tracks", "best_tracks"):
        assert row[name] == 0, name
    assert accepted.results["tracks_high_purity"][0] == accepted.results["tracks"][0]
    for name in ("vertices", "leading_pt", "sum_pt", "hard_tracks", "displaced_tracks", "best_tracks", "best_sum_pt"):
        assert accepted.results[name][0] == without.results[name][0] > 0, name


def test_exchange_of_models_and_menus(backend: str) -> None:
    """After `use` the results are those of a reconstruction that was built with it; an exchange that fails changes nothing."""
    first, second = Selector(selectors.mlp(8)), Selector(selectors.forest(9))
    other_menu = Menu.parse("version: 1\npaths:\n  - {name: A, require: {tracks_high_purity: {min: 40}}}\n")
    e = all_events()
    with chain(backend, first) as r:
        before = r.run(e).results
        r.use(selector=second, menu=other_menu)
        after = r.run(e).results
        with pytest.raises(ConfigError, match="unknown feature"):
            r.use(selector=Selector(selectors.mlp(1, ("tip", "nonsense"))))
        np.testing.assert_array_equal(r.run(e).results, after)
        r.use(selector=first, menu=MENU)
        np.testing.assert_array_equal(r.run(e).results, before)
    with Reconstructor(phase1(), other_menu, backend=backend, selector=second, config=PLAIN, threads=1, max_batch_bytes=1 << 20) as r:
        np.testing.assert_array_equal(r.run(e).results, after)
    assert set(after["accept"]) == {0, 1}


def test_event_classifier(backend: str) -> None:
    features = ("tracks", "best_sum_pt2", "leading_pt", "vertices", "sum_pt", "hits")
    track, classifier = selectors.mlp(1), selectors.mlp(10, features, (8,), "event", scale=0.01)
    with chain(backend, Selector(track, event=classifier)) as r:
        rows = r.run(all_events()).results
    values = np.stack([rows[name] for name in features], axis=1)
    np.testing.assert_allclose(rows["event_score"], selectors.scores(classifier, values, rows["hits"]), rtol=0, atol=1e-5)
    assert len(np.unique(rows["event_score"])) > 3


def test_event_classifier_without_a_selector(backend: str) -> None:
    """An engine that is asked for has nothing to compute then."""
    classifier = selectors.mlp(10, ("tracks", "hits"), (8,), "event", scale=0.01)
    rows = []
    for engine in ("fused", "eager"):
        with chain(backend, Selector(engine=engine, event=classifier)) as r:
            rows.append(r.run(all_events()).results)
    np.testing.assert_array_equal(*rows)
    assert len(np.unique(rows[0]["event_score"])) > 3


def test_more_tracks_than_fit(backend: str) -> None:
    """The first ones of the event are scored, the others stay loose; the event is flagged, its neighbours are not concerned."""
    tight = replace(PLAIN, selection=replace(PLAIN.selection, words_per_selected=128))
    selector = Selector(selectors.mlp(1))
    busy, quiet = event("most particles"), event("no hits")
    capacity = -(-busy.payload.nbytes // 128) * 32 // 128
    with chain(backend, selector, tight, events_per_task=3) as r:
        batch = r.run([quiet, busy, quiet], keep=True)
    with chain(backend, selector) as r:
        roomy = r.run([busy], keep=True)
    seen, all_seen = batch.features(1)["track"], roomy.features(0)["track"]
    assert len(seen) == capacity < len(all_seen)
    np.testing.assert_array_equal(seen, all_seen[:capacity])
    np.testing.assert_array_equal(batch.tracks(1)["score"][seen], roomy.tracks(0)["score"][seen])
    flags = batch.results["flags"] & EventFlag.TRACK_OVERFLOW
    assert flags.tolist() == [0, EventFlag.TRACK_OVERFLOW, 0]
