"""From charge in silicon to converter values of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation.config import SensorConfig
from hltfarm.loadgen.simulation.deposit import Steps
from hltfarm.proto.detector.description import Detector

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Drift length to which `SensorConfig.diffusion_cm` refers.
DIFFUSION_LENGTH_CM = 0.03


@dataclass(frozen=True, eq=False)
class Digis:
    """n fired pixels, ordered by module, column, row; each pixel once."""

    module: Ints
    row: Ints
    col: Ints
    adc: Ints
    hit: Ints  # crossing that gave most of the charge, -1: noise
    electrons: Floats  # before the converter

    def take(self, i: NDArray[np.integer] | NDArray[np.bool_]) -> Digis:
        return Digis(self.module[i], self.row[i], self.col[i], self.adc[i], self.hit[i], self.electrons[i])


def pixel_of(unit: Floats, edges: NDArray[np.int32]) -> Ints:
    """Row (column) of positions in units of the pitch, -1 outside the matrix."""
    first, last = int(edges[0]), int(edges[-1])
    table = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    cell = np.floor(unit).astype(np.int64) - first
    inside = (cell >= 0) & (cell < last - first)
    return np.where(inside, table[np.where(inside, cell, 0)], -1)


def drift(steps: Steps, module: Ints, detector: Detector, config: SensorConfig, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Row and column in which the charge of each step is collected; -1 outside.

    Electrons drift to the read-out side, local z = -thickness / 2, deflected by -2 shift over the whole thickness; they diffuse as the
    square root of the drift length.
    """
    m, top = detector.modules, detector.topology
    at = module[steps.crossing]
    thickness = m.thickness[at].astype(np.float64)
    length = np.clip(steps.z + 0.5 * thickness, 0.0, thickness)
    sigma = config.diffusion_cm * np.sqrt(length / DIFFUSION_LENGTH_CM)
    a, b = rng.standard_normal((2, len(sigma))) * sigma
    x = steps.x - 2.0 * m.shift_x[at] * (length / thickness) + a
    y = steps.y - 2.0 * m.shift_y[at] * (length / thickness) + b
    return pixel_of(x / top.pitch_x + top.centre_x, top.edge_x), pixel_of(y / top.pitch_y + top.centre_y, top.edge_y)


def collect(steps: Steps, module: Ints, row: Ints, col: Ints, detector: Detector) -> tuple[Ints, Floats, Ints]:
    """Sum the charge per pixel.

    Returns the pixels' keys ((module * cols + col) * rows + row, ascending), their electrons and the crossing that gave most of each.
    """
    top = detector.topology
    i = np.flatnonzero((row >= 0) & (col >= 0))
    key = (module[steps.crossing[i]] * top.cols + col[i]) * top.rows + row[i]
    # Steps come crossing by crossing, so a stable sort by pixel leaves the crossings of a pixel together.
    order = np.argsort(key, kind="stable")
    key, who, electrons = key[order], steps.crossing[i][order], steps.electrons[i][order]
    if len(key) == 0:
        return key, electrons, who
    part = np.flatnonzero(np.r_[True, (key[1:] != key[:-1]) | (who[1:] != who[:-1])])
    part_charge, part_key, part_who = np.add.reduceat(electrons, part), key[part], who[part]
    first = np.flatnonzero(np.r_[True, part_key[1:] != part_key[:-1]])
    pixel = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(part)]))
    best = np.lexsort((-part_who, part_charge, pixel))[np.r_[first[1:], len(part)] - 1]
    return part_key[first], np.add.reduceat(part_charge, first), part_who[best]


def split_key(key: Ints, detector: Detector) -> tuple[Ints, Ints, Ints]:
    """Module, row and column of pixel keys."""
    top = detector.topology
    rest, row = np.divmod(key, top.rows)
    module, col = np.divmod(rest, top.cols)
    return module, row, col


def adc_of(electrons: Floats, module: Ints, row: Ints, col: Ints, detector: Detector, adc_max: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Converter values whose calibration comes nearest to the charges, and which pixels work (neither dead nor noisy).

    The inverse of vcal = (adc - pedestal) gain, electrons = vcal * electrons_per_vcal + electrons_offset.
    """
    g, m = detector.gains, detector.modules
    code = g.codes[module, col, row // g.rows_per_block]
    gain = code[:, 0] * np.float64(g.gain_precision) + g.gain_min
    pedestal = code[:, 1] * np.float64(g.pedestal_precision) + g.pedestal_min
    vcal = (electrons - m.electrons_offset[module]) / m.electrons_per_vcal[module]
    value = np.floor(vcal / np.where(gain > 0, gain, 1.0) + pedestal + 0.5)
    works = (code[:, 1] != g.dead) & (code[:, 1] != g.noisy) & (gain > 0)
    return np.clip(value, 0, adc_max).astype(np.int64), works


def thresholds(module: Ints, detector: Detector, config: SensorConfig) -> Floats:
    """Mean threshold of each pixel in electrons; the first barrel layer has its own."""
    return np.where(in_first_layer(module, detector), config.threshold_layer1, config.threshold_other)


def in_first_layer(module: Ints, detector: Detector) -> NDArray[np.bool_]:
    """Whether modules belong to layer 0 and that is a barrel layer."""
    out: NDArray[np.bool_] = (detector.modules.layer[module] == 0) & detector.modules.is_barrel[module]
    return out


def read_out(key: Ints, electrons: Floats, hit: Ints, detector: Detector, config: SensorConfig, rng: np.random.Generator) -> Digis:
    """Noise, unknown gain, threshold, lost pixels, converter."""
    module, row, col = split_key(key, detector)
    noise, spread, gain = rng.standard_normal((3, len(key)))
    lost = rng.random(len(key)) < config.pixel_loss
    measured = electrons * (1.0 + config.gain_spread * gain) + config.noise_electrons * noise
    fired = measured > thresholds(module, detector, config) + config.threshold_spread * spread
    adc, works = adc_of(measured, module, row, col, detector, config.adc_max)
    return Digis(module, row, col, adc, hit, measured).take(np.flatnonzero(fired & works & ~lost))
