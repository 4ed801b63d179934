"""The menu stage: cuts, prescales and path bits, evaluated per event on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hltfarm.proto.soa import Collection, Column, Schema
from hltfarm.workers.kernel import Kernel, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from hltfarm.workers.menu.menu import Menu

PATHS = Schema(
    "Paths",
    "The menu's paths, in the order of their bits",
    (
        Column("n_paths", "u4", "paths of the menu", scalar=True),
        Column("salt", "u8", "salt of the prescale hash, from the path's name"),
        Column("prescale", "u4", "one accept in so many is kept; 0: none"),
        Column("first_cut", "u4", "first entry in Cuts; one entry more than paths"),
    ),
)

CUTS = Schema(
    "Cuts",
    "Cuts of all paths, one after the other",
    (
        Column("quantity", "u4", "place in QUANTITIES"),
        Column("low", "f8", "least value that passes"),
        Column("high", "f8", "largest value that passes"),
    ),
)

STAGE = Stage(
    "menu",
    columns=(),
    tables=(PATHS, CUTS),
    steps=(
        Kernel("score_event", "Batch.n_events", ("Selection", "ModelInputs", "ModelLayers", "ModelWeights", "Events", "Results")),
        Kernel("decide", "Batch.n_events", ("Batch", "Events", "Paths", "Cuts", "Results")),
    ),
)


def fill_tables(menu: Menu, allocate: Callable[[Schema, int], Collection]) -> dict[str, Collection]:
    """Paths and Cuts of a menu in memory from `allocate(schema, capacity)`, by struct name."""
    from hltfarm.workers.menu.menu import QUANTITIES, path_salt

    paths = allocate(PATHS, len(menu.paths) + 1)
    cuts = allocate(CUTS, max(1, sum(len(p.require) for p in menu.paths)))
    paths.n_paths[0] = len(menu.paths)
    at = 0
    for i, path in enumerate(menu.paths):
        paths.salt[i], paths.prescale[i], paths.first_cut[i] = path_salt(path.name), path.prescale, at
        for quantity, cut in path.require.items():
            cuts.quantity[at] = QUANTITIES.index(quantity)
            cuts.low[at] = -np.inf if cut.min is None else cut.min
            cuts.high[at] = np.inf if cut.max is None else cut.max
            at += 1
    paths.first_cut[len(menu.paths)] = at
    return {"Paths": paths, "Cuts": cuts}
