"""Models that the chain refuses, and what an event classifier may see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.dnn.selector import EVENT_INPUTS, Selector, over_all_features
from tests.reference import selectors


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (lambda: Selector(selectors.mlp(1, ("tip", "muons"))), "unknown feature 'muons'"),
        (lambda: Selector(selectors.mlp(1, hidden=(129,))), "a layer of 129"),
        (lambda: Selector(selectors.mlp(1), engine="magic"), "engine 'magic' is unknown"),
        (lambda: Selector(selectors.mlp(1), "0.5"), "working point '0.5' is unknown"),
        (lambda: Selector(selectors.mlp(1, ("hits",), target="event")), "scores events, not tracks"),
        (lambda: Selector(event=selectors.mlp(1)), "scores tracks, not events"),
        (lambda: Selector(event=selectors.mlp(1, ("event_score",), target="event")), "unknown feature 'event_score'"),
    ],
)
def test_models_that_the_chain_cannot_compute(selector: Callable[[], Selector], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        selector()


def test_models_over_all_features_have_hashes_of_their_own() -> None:
    """Compiled code is kept by them: the same weights on other features are another model."""
    one, other = selectors.mlp(1, ("tip", "zip")), selectors.mlp(1, ("zip", "tip"))
    assert one.manifest.files == other.manifest.files
    wide = [over_all_features(model) for model in (one, other)]
    assert wide[0].features == wide[1].features
    assert wide[0].hash != wide[1].hash
    assert over_all_features(one).hash == wide[0].hash


def test_without_a_selector_no_engine_is_needed() -> None:
    """The classifier of events is computed by kernels."""
    selector = Selector(engine="eager", event=selectors.mlp(1, ("hits",), target="event"))
    assert not selector.uses_torch
    assert selector.params()["exact_scores"]


def test_classifiers_do_not_see_their_own_score() -> None:
    assert "event_score" not in EVENT_INPUTS
    assert "best_sum_pt2" in EVENT_INPUTS
