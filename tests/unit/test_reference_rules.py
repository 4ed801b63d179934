"""The reference itself on inputs whose outcome is known without it."""

from __future__ import annotations

import numpy as np
import pytest

from hltfarm.proto.detector import phase1
from hltfarm.proto.results import EventFlag
from tests.reference.cluster import cluster
from tests.reference.events import CORRUPT, PATTERNS, assemble, pack, pattern_event, some_feds
from tests.reference.hits import phi16
from tests.reference.unpack import unpack

BAD, MALFORMED, NONE = EventFlag.FED_REJECTED, EventFlag.PAYLOAD_MALFORMED, EventFlag(0)

#: case -> FED errors, flags, which of the four FEDs are used
OUTCOME: dict[str, tuple[int, EventFlag, tuple[int, ...]]] = {
    "empty payload": (0, MALFORMED, ()),
    "no FEDs": (0, NONE, ()),
    "count beyond 4096": (0, MALFORMED, ()),
    "table beyond the payload": (0, MALFORMED, ()),
    "4096 empty FEDs": (0, NONE, ()),
    "4096 FEDs of the largest size": (4096, BAD | MALFORMED, ()),
    "sizes wrap around": (6, BAD | MALFORMED, ()),
    "payload cut in the last FED": (1, BAD | MALFORMED, (0, 1, 2)),
    "bytes after the last FED": (0, NONE, (0, 1, 2, 3)),
    "size of all ones": (3, BAD | MALFORMED, (0,)),
    "size not a multiple of 8": (1, BAD | MALFORMED, (0, 2, 3)),
    "size not a multiple of 4": (1, BAD | MALFORMED, (0, 2, 3)),
    "size odd, unknown FED": (1, BAD | MALFORMED, (0, 2, 3)),
    "size 0": (0, NONE, (0, 2, 3)),
    "size 8": (1, BAD, (0, 2, 3)),
    "unknown FED": (0, NONE, (0, 2, 3)),
    "FED id beyond 16 bits": (0, NONE, (0, 2, 3)),
    "FED repeated": (1, BAD, (0, 1, 2, 3)),
    "FED repeated after an empty one": (0, NONE, (0, 1, 2, 3)),
    "FED repeated after a broken one": (2, BAD, (0, 2, 3)),
    "unknown FED repeated": (0, NONE, (0, 1, 2, 3)),
    "header without marker": (1, BAD, (0, 2, 3)),
    "trailer without marker": (1, BAD, (0, 2, 3)),
    "four headers, five trailers": (0, NONE, (0, 1, 2, 3)),
    "second header without marker": (1, BAD, (0, 2, 3)),
    "headers up to the trailer": (1, BAD, (0, 2, 3)),
    "inner trailer without marker": (1, BAD, (0, 2, 3)),
    "CRC modified": (1, BAD, (0, 2, 3)),
    "CRC modified in an inner trailer": (0, NONE, (0, 1, 2, 3)),
    "other id in the header": (1, NONE, (0, 1, 2, 3)),
    "other id and trailer broken": (1, BAD, (0, 2, 3)),
    "other length in the trailer": (0, NONE, (0, 1, 2, 3)),
}


@pytest.mark.parametrize("name", OUTCOME)
def test_fed_rules(name: str) -> None:
    """Counts, flags and used FEDs of a broken payload."""
    fed_errors, flags, used = OUTCOME[name]
    feds = some_feds(phase1())
    sound = unpack(assemble([feds[i] for i in used]), phase1())
    found = unpack(CORRUPT[name](phase1()), phase1())
    assert (found.fed_errors, found.flags, found.words) == (fed_errors, flags, sound.words)
    assert sound.fed_errors == 0
    assert len(found.module) == len(sound.module)
    np.testing.assert_array_equal(np.sort(found.module), np.sort(sound.module))


@pytest.mark.parametrize("name", ["spiral", "comb", "full module", "checkerboard", "diagonal"])
def test_one_path_is_one_cluster(name: str) -> None:
    found = cluster(unpack(pattern_event(phase1(), name, [600]), phase1()), phase1())
    assert len(found.module) == len(PATTERNS[name](phase1().topology))
    assert len(found) == 1


def test_pixels_two_apart_are_not_connected() -> None:
    found = cluster(unpack(pattern_event(phase1(), "isolated pixels", [600]), phase1()), phase1())
    assert len(found.module) == len(found) == 80 * 208


def test_pixels_come_back() -> None:
    """Every corner of every ROC of modules of all kinds, through words and back."""
    d = phase1()
    t = d.topology
    rows = [r + e for r in range(0, t.rows, t.chip_rows) for e in (0, 1, t.chip_rows - 1)]
    cols = [c + e for c in range(0, t.cols, t.chip_cols) for e in (0, 1, t.chip_cols - 1)]
    module, row, col = (x.ravel() for x in np.meshgrid([0, 95, 96, 99, 319, 320, 1183, 1184, 1855], rows, cols, indexing="ij"))
    found = cluster(unpack(pack(d, module, row, col, np.full(len(module), 200)), d), d)
    order = np.lexsort((row, col, module))
    np.testing.assert_array_equal(np.stack([found.module, found.row, found.col]), np.stack([module, row, col])[:, order])


def test_azimuth() -> None:
    """Within two units of the exact angle (0.2 mrad; 1.85 on 2 million angles), and exact in the limiting cases."""
    angle = np.linspace(-np.pi, np.pi, 20001)
    x, y = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64)) * (32768 / np.pi)
    difference = (phi16(x, y).astype(np.float64) - exact + 32768) % 65536 - 32768
    assert np.abs(difference).max() < 2
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    cases = [(zero, zero, 8192), (one, one, 8192), (-one, one, 24576), (one, -one, -8192), (-one, -one, -24576)]
    for a, b, phi in cases:
        assert phi16(a, b).tolist() == [phi]
