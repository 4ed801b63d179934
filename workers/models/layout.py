"""How the tensors lie that a model is given: dtypes and strides; the number of rows is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hltfarm.proto.errors import LayoutError
from hltfarm.workers.models.package import Model


@dataclass(frozen=True)
class Columns:
    """One tensor: `columns` (None: it has one dimension), dtype, strides in elements (of a single column: 1)."""

    columns: int | None
    dtype: torch.dtype
    strides: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Columns:
        """The layout of a tensor of one or two dimensions. Raises LayoutError for others."""
        if tensor.dim() not in (1, 2):
            raise LayoutError(f"a tensor of shape {tuple(tensor.shape)}: models take (n, columns), scores are (n,) or (n, 1)")
        columns = tensor.shape[1] if tensor.dim() == 2 else None
        return cls(columns, tensor.dtype, (tensor.stride(0), *([1] if columns == 1 else tensor.stride()[1:])))

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows,) if self.columns is None else (rows, self.columns)

    def fits(self, strides: Sequence[int], rows: int) -> bool:
        """Whether a tensor of `rows` rows with such strides lies as this says; strides that are never used do not count."""
        first = 1 if rows < 2 else 0
        return (self.columns == 1 and (rows < 2 or strides[0] == self.strides[0])) or tuple(strides[first:]) == self.strides[first:]

    def filled(self, rows: int, values: torch.Generator, device: torch.device) -> Tensor:
        """A tensor of this layout with random numbers of a few units in size.

        It starts one element after a boundary of 16 bytes, as slices of columns may: what is traced with it must not assume more.
        """
        shape = self.shape(rows)
        extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, self.strides, strict=True))
        memory = torch.randn(1 + extent, generator=values).mul_(4)
        if not self.dtype.is_floating_point:
            memory.abs_()
        return memory.to(device=device, dtype=self.dtype).as_strided(shape, self.strides, 1)


@dataclass(frozen=True)
class Layout:
    """All inputs of a model and its scores."""

    inputs: tuple[Columns, ...]
    out: Columns

    def example(self, rows: int, device: torch.device, seed: int = 1) -> tuple[tuple[Tensor, ...], Tensor]:
        """Random inputs, and room for scores."""
        values = torch.Generator().manual_seed(seed)
        return tuple(c.filled(rows, values, device) for c in self.inputs), self.out.filled(rows, values, device)

    @property
    def example_rows(self) -> int:
        """Rows with which a compiler can trace: at most 31, no stride a multiple of it, columns do not run into one another.

        A stride that equals the number of rows would be taken for it.
        """
        every = (*self.inputs, self.out)
        numbers = {n for c in every for n in (*c.strides, c.columns or 1) if n > 1}
        most = min([31, *(c.strides[1] for c in every if c.columns and 0 < c.strides[0] < c.strides[1])])
        return next((n for n in range(most, 1, -1) if all(number % n for number in numbers)), max(most, 2))


def layout_of(model: Model, like: tuple[Sequence[Tensor], Tensor] | None) -> Layout:
    """The layout of examples, contiguous without any. Cuts on tracks take the numbers of hits, (n,) or (n, 1), as second input.

    Raises LayoutError if they are not what the model takes.
    """
    widths = [len(group) for group in model.inputs]
    by_hits = model.kind == "cuts" and model.target == "track"
    if like is None:
        hits = (Columns(None, torch.float32, (1,)),) if by_hits else ()
        return Layout((*(Columns(k, torch.float32, (k, 1)) for k in widths), *hits), Columns(None, torch.float32, (1,)))
    inputs, out = like
    layout = Layout(tuple(Columns.of(tensor) for tensor in inputs), Columns.of(scores(out)))
    features = layout.inputs[: len(widths)]
    if len(inputs) != len(widths) + by_hits or [c.columns for c in features] != widths:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        wanted = ", ".join([f"(n, {k})" for k in widths] + ["numbers of hits (n,)"] * by_hits)
        raise LayoutError(f"inputs of shapes {shapes}; model {model.name} takes {wanted}")
    for c in (*features, layout.out):
        if c.dtype != torch.float32:
            raise LayoutError(f"a tensor of {c.dtype}; features and scores of model {model.name} are torch.float32")
    return layout


def scores(out: Tensor) -> Tensor:
    """Scores as (n,): the one column of an (n, 1) tensor."""
    return out[:, 0] if out.dim() == 2 and out.shape[1] == 1 else out
