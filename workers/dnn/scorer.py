"""A torch model in the chain: reads the feature columns and writes the score column of a lane's `Selected`, in place.

torch is imported when the first scorer is made; a farm that runs models by kernels never loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hltfarm.proto.soa import Collection
from hltfarm.workers.dnn.selector import Selector, over_all_features

if TYPE_CHECKING:
    from hltfarm.workers.models.engines import Engine


class Scorer:
    """A model on the memory of one lane; used by one thread at a time.

    `views`: the tensors over the columns. Raises BackendError if the engine cannot be built, ConfigError for inputs that are not evenly
    spaced columns.
    """

    def __init__(self, selected: Collection, selector: Selector) -> None:
        from hltfarm.workers.models.engines import build
        from hltfarm.workers.tensors import TensorCollection

        assert selector.track is not None
        assert selector.engine != "fused"
        model = over_all_features(selector.track)
        self.views = TensorCollection(selected)
        self._inputs: list[Any] = [self.views.input(f"input {i}", *group) for i, group in enumerate(model.inputs)]
        if model.kind == "cuts":
            self._inputs.append(self.views.input("n_hits", "n_hits")[:, 0])
        self._score = self.views.output("score", "score")[:, 0]
        like = (self._inputs, self._score)
        self._engine: Engine = build(model, self.views.device, selector.engine, max_rows=selected.capacity, like=like)

    def score(self, first: int, last: int) -> None:
        """Score the rows from `first` to before `last`. Runs (or is captured) on torch's current stream; does not synchronise."""
        if first < last:
            self._engine.run(tuple(x[first:last] for x in self._inputs), self._score[first:last])
