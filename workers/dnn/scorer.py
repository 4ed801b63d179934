"""A torch model in the chain: reads the feature columns and writes the score column of a lane's `Selected`, in place.

torch is imported by those who build an engine; a farm that runs the fused models never loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hltfarm.proto.soa import Collection
from hltfarm.workers import dnn
from hltfarm.workers.dnn.selector import Selector, over_all_features

if TYPE_CHECKING:
    from hltfarm.workers.models.engines import Engine


class Scorer:
    """An engine on the memory of one lane."""

    def __init__(self, engine: Engine, selected: Collection, selector: Selector) -> None:
        from hltfarm.workers.tensors import TensorCollection

        assert selector.track is not None
        self._engine = engine
        self.views = TensorCollection(selected)
        groups = (dnn.FEATURES,) if selector.track.kind == "mlp" else selector.track.inputs
        self._inputs: list[Any] = [self.views.input(f"input {i}", *group) for i, group in enumerate(groups)]
        self._score = self.views.output("score", "score")[:, 0]

    def score(self, first: int, last: int) -> None:
        """Score the rows from `first` to before `last`. Runs (or is captured) on torch's current stream."""
        if first < last:
            self._engine.run(tuple(x[first:last] for x in self._inputs), self._score[first:last])


def build_engine(selector: Selector, device: str) -> Engine | None:
    """What computes the selector on a torch device ("cpu", "cuda:0"); None if the kernels do. Raises BackendError if it cannot be built."""
    if selector.track is None or not selector.uses_torch:
        return None
    from hltfarm.workers.models.engines import build

    model = over_all_features(selector.track) if selector.track.kind == "mlp" else selector.track
    return build(model, device=device, engine=selector.engine)
