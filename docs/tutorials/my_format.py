"""A converter for `--payload-format`: payloads as pixels.bin has them (u32 n, then n times u16 module, row, column, adc)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import load_detector
from hltfarm.proto.raw import pack_event

DETECTOR = load_detector(str(Path(__file__).with_name("my-detector.yaml")))
PIXEL = np.dtype([("module", "<u2"), ("row", "<u2"), ("col", "<u2"), ("adc", "<u2")])


def to_fed_table(payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The payload in format 1. What is raised refuses the event, and the source is told the text."""
    n = int(payload[:4].view("<u4")[0])
    if len(payload) != 4 + n * PIXEL.itemsize:
        raise ValueError(f"{n} pixels in {len(payload)} bytes")
    pixels = payload[4:].view(PIXEL)
    return pack_event(DETECTOR, pixels["module"], pixels["row"], pixels["col"], pixels["adc"])
