"""Detector descriptions: tables (`Detector`), the built-in one (`phase1`), detector files, and the files of pixeltrack-standalone."""

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
from hltfarm.proto.detector.file import SUFFIXES, parse_detector, read_detector_file
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
    "is_detector_file",
    "load_detector",
    "parse_detector",
    "phase1",
    "read_detector_file",
    "read_patatrack",
    "write_patatrack",
]


def is_detector_file(spec: str) -> bool:
    """Whether a name is meant as that of a detector file."""
    return spec.endswith(SUFFIXES)


def load_detector(spec: str) -> Detector:
    """`"phase1"`, a detector file (.yaml), or a directory with the conditions files of pixeltrack-standalone; ConditionsError otherwise."""
    if spec == "phase1":
        return phase1()
    if os.path.isdir(spec):  # Path.is_dir raises for what cannot be asked: a long name, a folder of others
        return read_patatrack(spec)
    if is_detector_file(spec):
        return read_detector_file(spec)
    raise ConditionsError(f"detector {spec!r}: neither 'phase1' nor a detector file (.yaml), nor a folder with conditions")
