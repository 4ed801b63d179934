"""Columns of one event, copied out of an arena for people, files and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.soa import Collection
from hltfarm.workers.hits import HITS


@dataclass(frozen=True)
class EventColumns:
    """Digis (module, row, col, charge, hit) and hits (columns of the Hits structure) of an event."""

    digis: dict[str, NDArray[Any]]
    hits: dict[str, NDArray[Any]]


def event_columns(arena: Mapping[str, Collection], detector: Detector, i: int) -> EventColumns:
    """Copy the columns of event i of a batch to the host (NumPy or CuPy collections)."""
    n = detector.n_modules
    begin = _host(arena["ModulePixels"].begin[i * n : (i + 1) * n]).astype(np.int64)
    count = _host(arena["ModuleClusters"].digis[i * n : (i + 1) * n]).astype(np.int64)
    first, last = (int(x) for x in _host(arena["Events"].hit_offset[i : i + 2]))
    lo, hi = int(begin.min(initial=0)), int((begin + count).max(initial=0))
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    at = np.repeat(begin, count) + within - lo
    column = {name: _host(arena["Digis"][name][lo:hi])[at] for name in ("position", "charge", "hit")}
    padded_rows = -(-detector.topology.rows // 32) * 32
    digis = {
        "module": np.repeat(np.arange(n, dtype=np.uint16), count),
        "row": (column["position"] % padded_rows).astype(np.uint16),
        "col": (column["position"] // padded_rows).astype(np.uint16),
        "charge": column["charge"].astype(np.int64),
        "hit": np.where(column["hit"] == 0xFFFFFFFF, -1, column["hit"].astype(np.int64)),
    }
    hits = {c.name: _host(arena["Hits"][c.name][first:last]) for c in HITS.columns}
    return EventColumns(digis, hits)


def _host(column: Any) -> NDArray[Any]:
    return column.copy() if isinstance(column, np.ndarray) else column.get()  # type: ignore[no-any-return]
