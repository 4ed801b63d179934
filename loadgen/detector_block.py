"""A detector description as a block of named arrays, for samples that bring their own detector."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from hltfarm.loadgen.arrays import Array, pack_arrays, unpack_arrays
from hltfarm.proto.detector import BeamSpot, Cabling, Detector, GainCalibration, Layer, Modules, Topology
from hltfarm.proto.errors import ConditionsError, SampleError

_TABLES: dict[str, type] = {"topology": Topology, "modules": Modules, "cabling": Cabling, "gains": GainCalibration}


def pack_detector(detector: Detector) -> bytes:
    """The block of a detector; `unpack_detector` returns one with the same digest."""
    arrays: dict[str, Array] = {}
    numbers: dict[str, Any] = {"layers": [asdict(layer) for layer in detector.layers], "beam_spot": asdict(detector.beam_spot)}
    for table, cls in _TABLES.items():
        numbers[table] = {}
        for f in fields(cls):
            value = getattr(getattr(detector, table), f.name)
            if isinstance(value, np.ndarray):
                arrays[f"{table}.{f.name}"] = value
            else:
                numbers[table][f.name] = value
    for f in fields(Detector):
        if f.name not in _TABLES and f.name not in numbers:
            numbers[f.name] = getattr(detector, f.name)
    if not detector.reconstruction:
        del numbers["reconstruction"]  # as files from before there was any
    return pack_arrays(arrays, numbers)


def unpack_detector(block: bytes) -> Detector:
    """The detector of a block. SampleError if the block is not a valid detector."""
    arrays, numbers = unpack_arrays(block)
    try:
        for table, cls in _TABLES.items():
            mine = {name.partition(".")[2]: value for name, value in arrays.items() if name.startswith(table + ".")}
            numbers[table] = cls(**mine, **numbers[table])
        numbers["layers"] = tuple(Layer(**layer) for layer in numbers["layers"])
        numbers["beam_spot"] = BeamSpot(**numbers["beam_spot"])
        detector = Detector(**numbers)
        detector.validate()
    except (KeyError, TypeError, ValueError, ConditionsError) as e:
        raise SampleError(f"embedded detector: not a valid description ({e})") from e
    return detector
