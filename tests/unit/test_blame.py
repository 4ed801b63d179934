"""Which stage an exception came from."""

from __future__ import annotations

import numpy as np
import pytest

from hltfarm.proto.errors import HltfarmError
from hltfarm.workers.blame import stage_of


def _raised(code: str, module: str) -> BaseException:
    space = {"__name__": module}
    exec(code, space)
    with pytest.raises(Exception) as caught:
        space["f"]()
    return caught.value


def test_the_innermost_stage_is_blamed() -> None:
    assert stage_of(_raised("def f(): 1 / 0", "hltfarm.workers.fit")) == "fit"
    assert stage_of(_raised("def f(): 1 / 0", "hltfarm.workers.inference.eager")) == "dnn"
    assert stage_of(_raised("def f(): 1 / 0", "hltfarm.workers.engine")) == ""
    assert stage_of(_raised("def f(): 1 / 0", "torch.nn")) == ""
    assert stage_of(HltfarmError("never raised")) == ""
    inner: dict[str, object] = {"__name__": "hltfarm.workers.dnn.selector"}
    exec("def g(): 1 / 0", inner)
    outer = {"__name__": "hltfarm.workers.tracks", "g": inner["g"]}
    exec("def f(): g()", outer)
    with pytest.raises(ZeroDivisionError) as caught:
        outer["f"]()
    assert stage_of(caught.value) == "dnn"


def test_a_model_that_gives_nonsense_is_the_selectors() -> None:
    """Real code: features for a model of other ones."""
    from hltfarm.workers.dnn.features import FEATURES
    from hltfarm.workers.models import load
    from hltfarm.workers.models.registry import find

    with pytest.raises(HltfarmError) as caught:
        load(find("track-mlp"), FEATURES[:1])
    assert stage_of(caught.value) == "dnn"
    with pytest.raises(ValueError) as failed:
        np.zeros(3).reshape(2, 2)
    assert stage_of(failed.value) == ""
