"""Events and deciders for the tests of the output."""

from __future__ import annotations

import numpy as np
from crc32c import crc32c

from hltfarm.proto.columns import encode_columns
from hltfarm.proto.events import EventId
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.results import OUTPUT_DECISION
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service.output.events import Deciders, OutputEvent

PATHS = (PathInfo("A", "physics"), PathInfo("B", "physics"), PathInfo("C", "monitoring"))
DECIDERS = Deciders(RunConfig(run=7), "c0ffee", (), PATHS)
OTHER = Deciders(RunConfig(run=7), "feed", (), PATHS)


def accepted(number: int, *, lumi: int = 1, bits: int = 1, size: int = 400, columns: bool = True, run: int = 7) -> OutputEvent:
    """An event whose bytes follow from its number."""
    payload = np.random.default_rng(number).integers(0, 256, size).astype(np.uint8).tobytes()
    decision = np.zeros(1, OUTPUT_DECISION)
    decision["path_bits"], decision["digest"], decision["accept"] = bits, number * 1001, 1
    tables = encode_columns({"tracks": {"pt": np.arange(number % 5, dtype=np.float32)}}) if columns else b""
    return OutputEvent(number, EventId(run, lumi, number, 3), payload, crc32c(payload), bits, decision.tobytes(), tables)
