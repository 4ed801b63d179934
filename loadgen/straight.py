"""An event of straight tracks through any detector: no generator, no random numbers, the same bytes on every machine.

It is what a farm asks its workers again and again for a detector that has no shipped sample (service/ingest/canary.py), and a first look at
whether a detector file describes what was meant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.raw import pack_event

#: Calibrated charge of each of the pixels that a track fires.
ELECTRONS = 12000.0
#: Turn from one track to the next: the golden angle, so that any number of them is spread evenly.
TURN_RAD = 2.399963229728653


def straight_tracks(detector: Detector, tracks: int = 24, max_slope: float = 2.0) -> NDArray[np.uint8]:
    """The payload of `tracks` straight lines from the beam spot, dz/dr between -max_slope and max_slope, two pixels a crossing."""
    spot, m, t = detector.beam_spot, detector.modules, detector.topology
    start = np.array([spot.x, spot.y, spot.z])
    k = np.arange(tracks)
    direction = np.stack([np.cos(TURN_RAD * k), np.sin(TURN_RAD * k), max_slope * (2 * (k + 0.5) / tracks - 1)], 1)
    rotation = m.rotation.astype(np.float64)
    from_module = np.einsum("nij,nj->ni", rotation, start - m.position.astype(np.float64))  # local frames
    ahead = np.einsum("nij,kj->kni", rotation, direction)
    along = np.where(np.abs(ahead[..., 2]) > 1e-6, ahead[..., 2], np.inf)
    path = -from_module[:, 2] / along
    local = from_module[None, :, :2] + path[..., None] * ahead[..., :2]
    # Charge arrives where the field drives it; the reconstruction takes that back.
    unit = (local[..., 0] - m.shift_x) / t.pitch_x + t.centre_x
    row = _pixel(unit, t.edge_x)
    col = _pixel((local[..., 1] - m.shift_y) / t.pitch_y + t.centre_y, t.edge_y)
    track, module = np.nonzero((path > 0) & (row >= 0) & (col >= 0))
    row, col, unit = row[track, module], col[track, module], unit[track, module]
    left = unit < 0.5 * (t.edge_x[row] + t.edge_x[row + 1])  # the neighbour is the one that is nearer
    beside = np.where(left, np.maximum(row - 1, 0), np.minimum(row + 1, t.rows - 1))
    pixels = np.unique(np.stack([np.tile(module, 2), np.concatenate([row, beside]), np.tile(col, 2)], 1), axis=0)
    pixels = pixels[_readable(detector, pixels)]
    return pack_event(detector, pixels[:, 0], pixels[:, 1], pixels[:, 2], _adc(detector, pixels))


def _pixel(unit: NDArray[np.float64], edges: NDArray[np.int32]) -> NDArray[np.int64]:
    """Rows (columns) at positions in units of the pitch, -1 outside."""
    cell = np.searchsorted(edges, unit, side="right") - 1
    return np.where((unit >= edges[0]) & (unit < edges[-1]), cell, -1)


def _readable(detector: Detector, pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the cabling connects the chips of pixels."""
    c, t = detector.cabling, detector.topology
    connected = np.zeros((detector.n_modules, t.rows // t.chip_rows, t.cols // t.chip_cols), bool)
    used = c.module < detector.n_modules
    at = [
        np.minimum(o, o + s.astype(np.int64) * (n - 1))[used] // n
        for o, s, n in ((c.row0.astype(np.int64), c.row_step, t.chip_rows), (c.col0.astype(np.int64), c.col_step, t.chip_cols))
    ]
    connected[c.module[used], at[0], at[1]] = True
    found: NDArray[np.bool_] = connected[pixels[:, 0], pixels[:, 1] // t.chip_rows, pixels[:, 2] // t.chip_cols]
    return found


def _adc(detector: Detector, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts that the calibration makes ELECTRONS of, as far as eight bits go."""
    g, m = detector.gains, detector.modules
    codes = g.codes[pixels[:, 0], pixels[:, 2], pixels[:, 1] // g.rows_per_block].astype(np.float64)
    gain = codes[:, 0] * g.gain_precision + g.gain_min
    pedestal = codes[:, 1] * g.pedestal_precision + g.pedestal_min
    vcal = (ELECTRONS - m.electrons_offset[pixels[:, 0]]) / m.electrons_per_vcal[pixels[:, 0]]
    counts = vcal / np.where(gain > 0, gain, 1.0) + pedestal
    return np.clip(np.round(counts), 1, 255).astype(np.int64)
