"""Models that the chain refuses, and what an event classifier may see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.dnn.selector import EVENT_INPUTS, Selector
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


def test_classifiers_do_not_see_their_own_score() -> None:
    assert "event_score" not in EVENT_INPUTS
    assert "best_sum_pt2" in EVENT_INPUTS
