"""Detector descriptions: the tables (`Detector`), the built-in one (`phase1`), and the files of pixeltrack-standalone."""

from __future__ import annotations

import os

from hltfarm.proto.detector.description import (
    NO_MODULE,
    WORD_DCOL_PXID,
    WORD_ROW_COL,
    BeamSpot,
    Cabling,
    Detector,
    GainCalibration,
    Layer,
    Modules,
    Topology,
)
from hltfarm.proto.detector.patatrack import read_patatrack
from hltfarm.proto.detector.patatrack_writer import write_patatrack
from hltfarm.proto.detector.phase1 import phase1
from hltfarm.proto.errors import ConditionsError

__all__ = [
    "NO_MODULE",
    "WORD_DCOL_PXID",
    "WORD_ROW_COL",
    "BeamSpot",
    "Cabling",
    "Detector",
    "GainCalibration",
    "Layer",
    "Modules",
    "Topology",
    "load_detector",
    "phase1",
    "read_patatrack",
    "write_patatrack",
]


def load_detector(spec: str) -> Detector:
    """`"phase1"` or a directory with the conditions files of pixeltrack-standalone; ConditionsError otherwise."""
    if spec == "phase1":
        return phase1()
    if not os.path.isdir(spec):  # Path.is_dir raises for what cannot be asked: a long name, a folder of others
        raise ConditionsError(f"detector {spec!r}: neither 'phase1' nor a directory with conditions files")
    return read_patatrack(spec)
