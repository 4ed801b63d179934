"""Writes pixels.bin, which stands for somebody else's raw data: the pixels of a sample, in words of their own.

python pixels.py mine.hlt pixels.bin
"""

from __future__ import annotations

import sys

import numpy as np

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.raw import unpack_event


def main(source: str, target: str) -> None:
    """For each event u32 n, then n times u16 module, row, column, adc."""
    sample = Sample(source)
    detector = sample.detector()
    with open(target, "wb") as file:
        for event in sample:
            digis = unpack_event(detector, event.payload)
            file.write(np.uint32(len(digis.module)).tobytes())
            file.write(np.stack([np.asarray(column, "<u2") for column in digis], 1).tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
