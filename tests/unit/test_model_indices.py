"""Exported programs that gather and scatter: only by indices that cannot leave their tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.models import Exported, save
from hltfarm.workers.models.exporting import export, export_model
from tests.reference import model_samples

COLUMNS = torch.tensor([2, 0, 1])
TABLE = torch.linspace(0, 1, 7)

Function = Callable[[Tensor], Tensor]


class Module(nn.Module):
    """A function with a constant, buffers and an embedding at hand."""

    def __init__(self, function: Callable[[Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("columns", COLUMNS.clone())
        self.register_buffer("far", COLUMNS + 1, persistent=False)
        self.register_buffer("table", TABLE.clone())
        self.embedding = nn.Embedding(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.function(self, x))


def whole(x: Tensor) -> Tensor:
    return x.to(torch.int64)


WITHIN: dict[str, Callable[[Module, Tensor], Tensor]] = {
    "columns by a buffer": lambda m, x: x[:, m.columns].sum(1),
    "columns by a list": lambda m, x: x[:, [0, 2, -3]].sum(1),
    "select": lambda m, x: torch.index_select(x, 1, m.columns).sum(1),
    "slice and transpose": lambda m, x: x[:, 1:].t()[0] + x.unbind(1)[0],
    "constants in arithmetic": lambda m, x: x[:, (2 - m.columns).flip(0)].mean(1),
    "steps": lambda m, x: x[:, torch.arange(2, -1, -1)].mean(1),
    "clamp": lambda m, x: m.table[whole(x).clamp(0, 6)].sum(1),
    "clamp of one side and remainder": lambda m, x: m.table[(whole(x) % 9).clamp(max=6)].sum(1),
    "from the end": lambda m, x: m.table[whole(x).clamp(-7, -1)].sum(1),
    "argmax": lambda m, x: torch.gather(x, 1, x.argmax(1, keepdim=True))[:, 0],
    "sort": lambda m, x: torch.gather(x, 1, x.sort(1)[1])[:, 0],
    "topk": lambda m, x: torch.gather(x, 1, x.topk(2, 1)[1]).sum(1),
    "bins": lambda m, x: m.embedding(torch.bucketize(x[:, 0], TABLE[:4])).sum(1),
    "comparison": lambda m, x: m.table[3 * (x > 0).to(torch.int64) + (x > 1).to(torch.int32)].sum(1),
    "a table of indices": lambda m, x: m.table[m.columns[x.argmax(1)]],
    "where": lambda m, x: m.table[torch.where(x > 0, x.argmin(1, keepdim=True), 6)].sum(1),
    "scatter": lambda m, x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0).sum(1),
    "add by constants": lambda m, x: torch.zeros_like(x).index_add(1, m.columns, x)[:, 0],
    "cat": lambda m, x: m.table[torch.cat([x.argmax(1, keepdim=True), x.argmin(1, keepdim=True) + 4], 1)].sum(1),
    "mask without index": lambda m, x: x.masked_fill(x > 0, 0.0).sum(1),
}

BEYOND: dict[str, tuple[Callable[[Module, Tensor], Tensor], str]] = {
    "feature": (lambda m, x: m.table[whole(x)].sum(1), r"aten\.index: .* -9223372036854775808 to 9223372036854775807.* has 7 elements"),
    "gather": (lambda m, x: torch.gather(x, 1, whole(x))[:, 0], r"aten\.gather"),
    "constant": (lambda m, x: x[:, m.far].sum(1), r"aten\.index: the index \S+ may be 1 to 3, its dimension has 3 elements"),
    "select": (lambda m, x: torch.index_select(x, 1, m.far).sum(1), r"aten\.index_select.*1 to 3"),
    "below": (lambda m, x: torch.gather(x, 1, x.argmax(1, keepdim=True) - 1)[:, 0], r"-1 to 1, its dimension has 3"),
    "one too far": (lambda m, x: m.table[whole(x).clamp(0, 7)].sum(1), "0 to 7, its dimension has 7"),
    "one too far from the end": (lambda m, x: m.table[whole(x).clamp(-8, 0)].sum(1), "-8 to 0"),
    "clamp of a float": (lambda m, x: m.table[whole(x.clamp(0, 6))].sum(1), "may be -9223372036854775808"),
    "overflow": (lambda m, x: m.table[(whole(x).clamp(0, 6) * 2**62 * 4).clamp(max=6)].sum(1), "may be -9223372036854775808 to 6"),
    "sum of two": (lambda m, x: m.table[2 * x.argmax(1) + x.argmin(1) * 2], "0 to 8"),
    "other bits": (lambda m, x: m.table[m.columns.to(torch.int32)[:2].view(torch.int64)].sum() + x[:, 0], "may be -9223372036854775808"),
    "embedding": (lambda m, x: m.embedding(whole(x[:, 0])).sum(1), r"aten\.embedding"),
    "embedding of too many bins": (lambda m, x: m.embedding(torch.bucketize(x[:, 0], m.table)).sum(1), r"0 to 7, its dimension has 5"),
    "scatter": (lambda m, x: torch.zeros_like(x).scatter(1, whole(x), 1.0).sum(1), r"aten\.scatter"),
    "add": (lambda m, x: torch.zeros_like(x).scatter_add(1, whole(x), x).sum(1), r"aten\.scatter_add"),
    "put": (lambda m, x: torch.index_put(x.t(), (m.far,), x.t())[0], r"aten\.index_put"),
    "in place": (lambda m, x: torch.zeros_like(x).index_add_(1, whole(x[0]), x)[:, 0], r"aten\.index_add"),
    "take": (lambda m, x: torch.take(m.table, whole(x)).sum(1), r"aten\.take"),
    "rows": (lambda m, x: x[x[:, 0].argsort(), 0], r"its dimension has n elements"),
    "mask": (lambda m, x: torch.index_put(x, (x > 0,), torch.zeros(())).sum(1), "is a mask"),
    "bytes are a mask": (lambda m, x: torch.index_put(x, ((x > 0).to(torch.uint8),), torch.zeros(())).sum(1), "is a mask"),
    "masked scatter": (
        lambda m, x: x.masked_scatter(x > 0, m.table).sum(1),
        r"aten\.masked_scatter is refused: nothing tells that its mask",
    ),
    "bags": (lambda m, x: nn.functional.embedding_bag(whole(x), m.embedding.weight).sum(1), "is refused"),
    "loss": (lambda m, x: nn.functional.nll_loss(x, whole(x[:, 0]), reduction="none"), r"is refused: nothing tells that its target"),
}


@pytest.mark.parametrize("name", WITHIN)
def test_indices_that_stay_within(name: str) -> None:
    assert export(Module(WITHIN[name]), [3]).archive


@pytest.mark.parametrize("name", BEYOND)
def test_indices_that_may_not(name: str) -> None:
    function, message = BEYOND[name]
    with pytest.raises(ConfigError, match=message) as caught:
        export(Module(function), [3])
    assert "\n" not in str(caught.value)


def test_a_package_with_such_a_program_gets_no_engine(tmp_path, monkeypatch) -> None:
    """What is written without hltfarm is refused when an engine is to be built."""
    from hltfarm.workers.models import indices
    from hltfarm.workers.models.engines import build

    with monkeypatch.context() as patch:
        patch.setattr(indices, "check", lambda _program, _where: None)
        content = export(Module(BEYOND["gather"][0]), [len(model_samples.FEATURES)])
    assert isinstance(content, Exported)
    model = save(tmp_path / "m", content, **model_samples.TRACK)
    with pytest.raises(ConfigError, match=r"model sample: models/model\.json: operator aten\.gather: the index"):
        build(model, "cpu", max_rows=8)


@pytest.mark.parametrize("content", [model_samples.forest(), model_samples.perceptron()])
def test_exports_of_own_models_pass(content, tmp_path) -> None:
    """A forest walks by indices that it computes, all of them from its own tables."""
    assert export_model(save(tmp_path / "m", content, **model_samples.TRACK)).archive


def test_the_program_of_a_forest_with_a_wrong_child_does_not(tmp_path, monkeypatch) -> None:
    from hltfarm.workers.models import networks

    original = networks.ForestNet.__init__

    def wrong(self, forest) -> None:
        original(self, forest)
        self.branches[3] = len(forest.left)

    monkeypatch.setattr(networks.ForestNet, "__init__", wrong)
    with pytest.raises(ConfigError, match=r"aten\.index: the index"):
        export_model(save(tmp_path / "m", model_samples.forest(), **model_samples.TRACK))
