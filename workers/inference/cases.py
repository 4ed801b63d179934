"""The models of the benchmark, and the columns that each reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn

from hltfarm.proto.soa import Column, Schema
from hltfarm.workers.inference.fill import Fill
from hltfarm.workers.inference.networks import DeepSet, GraphNet, MaskedNet, MultiHeadNet, SimpleNet, TinyResNet

NODES_PER_GRAPH, EDGES_PER_GRAPH = 700, 30_000


def _as_declared(view: Tensor) -> Tensor:
    return view


def _hits(view: Tensor) -> Tensor:
    """Planes (n, feature x place) as (n, place, feature), without a copy."""
    return view.unflatten(1, (4, 8)).transpose(1, 2)


@dataclass(frozen=True)
class Port:
    """A tensor of a model: its columns, and how their view becomes what the model takes (a view of the view)."""

    name: str
    columns: tuple[str, ...]
    arrange: Callable[[Tensor], Tensor] = _as_declared
    dtype: torch.dtype | None = None
    index: bool = False  #: torch indexes with int64 only: the model converts it


@dataclass(frozen=True)
class Case:
    """A model with its data. `scratch` is the memory that a run takes for intermediate results, in bytes for each element.

    An element is a row of the last schema; `per_group` gives the rows of each schema in one group of elements (a graph), without it every
    schema has a row an element.
    """

    name: str
    element: str
    schemas: tuple[Schema, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    network: Callable[[], nn.Module]
    scratch: int
    fills: Mapping[str, Fill] = field(default_factory=lambda: MappingProxyType({}))
    per_group: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def capacities(self, size: int) -> dict[str, int]:
        """Rows of each schema for `size` elements, rounded to whole groups, at least one."""
        groups = max(1, round(size / self.per_group[self.schemas[-1].name])) if self.per_group else size
        return {schema.name: groups * self.per_group.get(schema.name, 1) for schema in self.schemas}

    def elements(self, size: int) -> int:
        """Elements that a size comes to."""
        return self.capacities(size)[self.schemas[-1].name]

    def column_bytes(self, size: int) -> int:
        """Memory of all columns for `size` elements."""
        capacities = self.capacities(size)
        return sum(schema.layout(capacities[schema.name]).nbytes for schema in self.schemas)

    def device_bytes(self, size: int) -> int:
        """Memory that a run takes where the model runs: columns, the same again as row-major arrays, intermediate results."""
        return 2 * self.column_bytes(size) + self.scratch * self.elements(size)

    def host_bytes(self, size: int) -> int:
        """Memory that copying through the host takes there, page-locked or not: columns and row-major arrays, of both kinds."""
        return 4 * self.column_bytes(size)


def _floats(names: str, shape: tuple[int, ...] = ()) -> tuple[Column, ...]:
    return tuple(Column(name, "f4", name.replace("_", " "), shape=shape) for name in names.split())


_FEATURES = "chi2 dz_error dxy_error eta phi pt cot_theta qpt_error"
_SCORE = Column("score", "f4", "score")
_X = Port("features", tuple(_FEATURES.split()))
_Y = Port("score", ("score",))
_VALID = Column("valid", "u1", "1 where the feature is known", shape=(8,))

CASES: tuple[Case, ...] = (
    Case("simple", "tracks", (Schema("Tracks", "features of tracks", (*_floats(_FEATURES), _SCORE)),), (_X,), (_Y,), SimpleNet, 180),
    Case(
        "masked",
        "tracks",
        (Schema("Tracks", "features of tracks, some missing", (*_floats(_FEATURES), _VALID, _SCORE)),),
        (_X, Port("valid", ("valid",), dtype=torch.bool)),
        (_Y,),
        MaskedNet,
        220,
        fills={"valid": Fill(0, 2)},
    ),
    Case(
        "multihead",
        "tracks",
        (Schema("Tracks", "features of tracks", (*_floats(_FEATURES), *_floats("px py pz"), _SCORE)),),
        (_X,),
        (Port("momentum", ("px", "py", "pz")), _Y),
        MultiHeadNet,
        320,
    ),
    Case(
        "resnet",
        "images",
        (Schema("Images", "images of 3 x 9 x 9 pixels", (*_floats("pixels", (3, 9, 9)), _SCORE)),),
        (Port("image", ("pixels",)),),
        (_Y,),
        TinyResNet,
        12_000,
    ),
    Case(
        "deepset",
        "tracks",
        (Schema("Tracks", "hits of tracks", (*_floats("x y z charge", (8,)), Column("n_hits", "i4", "hits in use"), _SCORE)),),
        (Port("hits", ("x", "y", "z", "charge"), _hits), Port("n_hits", ("n_hits",))),
        (_Y,),
        DeepSet,
        1_400,
        fills={"n_hits": Fill(3, 9)},
    ),
    Case(
        "graph",
        "edges",
        (
            Schema("Nodes", "hits", _floats("x y z charge")),
            Schema(
                "Edges",
                "doublets of hits",
                (Column("source", "i4", "inner node"), Column("target", "i4", "outer node"), *_floats("dphi dr"), _SCORE),
            ),
        ),
        (
            Port("nodes", ("x", "y", "z", "charge")),
            Port("source", ("source",), index=True),
            Port("target", ("target",), index=True),
            Port("edges", ("dphi", "dr")),
        ),
        (_Y,),
        GraphNet,
        300,
        fills={name: Fill(0, NODES_PER_GRAPH, EDGES_PER_GRAPH, NODES_PER_GRAPH) for name in ("source", "target")},
        per_group={"Nodes": NODES_PER_GRAPH, "Edges": EDGES_PER_GRAPH},
    ),
)
