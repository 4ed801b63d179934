"""The backends that every conformance and property test runs on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest

from hltfarm.workers.configuration import DEFAULT
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor
from tests.reference.detectors import DETECTORS

BACKENDS = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]

MAX_EVENTS = 8
MAX_BATCH_BYTES = 8 << 20
MAX_HITS = 1 << 18


@lru_cache(maxsize=8)
def reconstructor(detector: str, backend: str, *, max_hits: int = MAX_HITS, threads: int = 1, events_per_task: int = 1) -> Reconstructor:
    """A Reconstructor that lives as long as the test process (building one costs more than most tests)."""
    description = DETECTORS[detector]()
    config = replace(DEFAULT, max_hits=max_hits)
    if not {layer.name for layer in description.layers} >= {pair.inner for pair in config.cells.pairs}:
        config = replace(config, cells=replace(config.cells, pairs=()))  # a detector of other layers: no cells, no tracks
    return Reconstructor(
        description,
        Menu.parse(DEFAULT_MENU),
        backend=backend,
        max_events=MAX_EVENTS,
        max_batch_bytes=MAX_BATCH_BYTES,
        threads=threads,
        events_per_task=events_per_task,
        config=config,
        lanes=2,  # of all the memory there is, several reconstructions at a time could not take their share
    )
