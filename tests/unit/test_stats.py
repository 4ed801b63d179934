"""What an ingest counts of the results of a batch."""

from __future__ import annotations

import numpy as np

from hltfarm.proto.results import RESULT, EventFlag
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service.ingest.stats import FLAGS, OBJECTS, Stats

PATHS = (PathInfo("HLT_A", "physics"), PathInfo("HLT_B", "physics"))


def test_objects_and_flags_of_events_are_added_up() -> None:
    stats, results = Stats(), np.zeros(3, RESULT)
    stats.menu(PATHS)
    for number, kind in enumerate(OBJECTS):
        results[kind] = (number, 10, 4_000_000_000)  # more than 32 bits in the sum
    results["flags"] = (0, EventFlag.HIT_OVERFLOW, EventFlag.HIT_OVERFLOW | EventFlag.FED_REJECTED)
    stats.selected(results, np.full(3, 100), PATHS)
    stats.selected(results[:1], np.full(1, 100), PATHS)
    assert stats.objects == {kind: 4_000_000_010 + 2 * number for number, kind in enumerate(OBJECTS)}
    assert {name: count for name, count in stats.flags.items() if count} == {"HIT_OVERFLOW": 2, "FED_REJECTED": 1}
    assert set(stats.flags) == {flag.name for flag in FLAGS}, "all are there before they are met"


def test_paths_and_streams_of_events_are_counted() -> None:
    stats, results = Stats(), np.zeros(3, RESULT)
    stats.menu(PATHS)
    results["path_raw"], results["path_bits"] = (3, 3, 2), (1, 3, 0)
    stats.selected(results, np.array([10, 100, 1000]), PATHS)
    assert stats.path_events == {"HLT_A": 3, "HLT_B": 3}
    assert stats.path_accepts == {"HLT_A": 2, "HLT_B": 1}
    assert stats.path_prescaled == {"HLT_A": 0, "HLT_B": 2}
    assert (stats.stream_events["physics"], stats.stream_bytes["physics"]) == (2, 110)
