"""Bit layout of the CMS module identifiers (DetId), as far as the raw data depend on it.

Barrel: detector 1, subdetector 1, layer bits 23..20, ladder 19..12, module 9..2. Disks: subdetector 2, side 24..23 (1: z < 0, 2: z > 0),
disk 21..18, blade 17..12, panel 11..10, module 9..2. Numbers start at 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
_BARREL = 1 << 28 | 1 << 25
_DISK = 1 << 28 | 2 << 25


def phase1_raw_ids(ladders: tuple[int, ...], per_ladder: int, disks: int, blades: int) -> U32:
    """Identifiers in module order: barrel layers; disks at z > 0, then z < 0, each with panel 2 of all blades before panel 1."""
    ids: list[int] = []
    for layer, n in enumerate(ladders, 1):
        ids += [_BARREL | layer << 20 | ladder << 12 | m << 2 for ladder in range(1, n + 1) for m in range(1, per_ladder + 1)]
    for side in (2, 1):
        for disk in range(1, disks + 1):
            head = _DISK | side << 23 | disk << 18 | 1 << 2
            ids += [head | blade << 12 | panel << 10 for panel in (2, 1) for blade in range(1, blades + 1)]
    return np.array(ids, np.uint32)


def is_barrel(raw_id: U32) -> NDArray[np.bool_]:
    """True for barrel modules."""
    return np.asarray((raw_id >> np.uint32(25)) & np.uint32(7) == 1)


def barrel_layer(raw_id: U32) -> U32:
    """Barrel layer 1..4 (meaningless for disks)."""
    return np.asarray((raw_id >> np.uint32(20)) & np.uint32(15), np.uint32)


def disk_number(raw_id: U32) -> U32:
    """Disk 1..3 (meaningless for the barrel)."""
    return np.asarray((raw_id >> np.uint32(18)) & np.uint32(15), np.uint32)


def is_turned(raw_id: U32) -> NDArray[np.bool_]:
    """True for modules whose chip numbering is turned by half a turn: barrel layer 1, and layers 2-4 at z > 0 (module number 5..8)."""
    number = (raw_id >> np.uint32(2)) & np.uint32(0x3FF)
    return np.asarray(is_barrel(raw_id) & ((barrel_layer(raw_id) == 1) | (number >= 5)))
