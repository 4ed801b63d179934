"""Imperfections on request: dead modules and chips, noise pixels, error words in the data of a FED."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation.config import FaultConfig, SensorConfig
from hltfarm.loadgen.simulation.digitize import Digis, adc_of, thresholds
from hltfarm.proto.detector.description import Detector
from hltfarm.proto.raw import FRAME_WORDS, ROC_FIRST_ERROR, frame, join_payload, pixel_word, split_payload

#: Mean charge of a noise pixel above its threshold, electrons.
NOISE_ABOVE_THRESHOLD = 500.0


def dead_chips(detector: Detector, faults: FaultConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Chips that give no data, shape (modules, chip rows, chip columns)."""
    top = detector.topology
    shape = (detector.n_modules, top.rows // top.chip_rows, top.cols // top.chip_cols)
    dead: NDArray[np.bool_] = rng.random(shape) < faults.dead_chips
    dead |= (rng.random(detector.n_modules) < faults.dead_modules)[:, None, None]
    return dead


def without_dead(digis: Digis, dead: NDArray[np.bool_], detector: Detector) -> Digis:
    """Digis of working chips."""
    top = detector.topology
    return digis.take(np.flatnonzero(~dead[digis.module, digis.row // top.chip_rows, digis.col // top.chip_cols]))


def with_noise(digis: Digis, detector: Detector, faults: FaultConfig, sensor: SensorConfig, rng: np.random.Generator) -> Digis:
    """Add pixels that fire without a particle (hit -1), anywhere but where one fired already; the order of digis is restored."""
    top = detector.topology
    n = int(rng.poisson(faults.noise_pixels))
    module, row, col = (rng.integers(0, size, n) for size in (detector.n_modules, top.rows, top.cols))
    electrons = thresholds(module, detector, sensor) + rng.exponential(NOISE_ABOVE_THRESHOLD, n)
    adc, works = adc_of(electrons, module, row, col, detector, sensor.adc_max)
    key = np.concatenate([(d[0] * top.cols + d[2]) * top.rows + d[1] for d in ((digis.module, digis.row, digis.col), (module, row, col))])
    works = np.concatenate([np.ones(len(digis.module), bool), works])
    both = Digis(
        np.concatenate([digis.module, module]),
        np.concatenate([digis.row, row]),
        np.concatenate([digis.col, col]),
        np.concatenate([digis.adc, adc]),
        np.concatenate([digis.hit, np.full(n, -1)]),
        np.concatenate([digis.electrons, electrons]),
    )
    _, first = np.unique(key, return_index=True)  # the first of equal keys: the particle's
    return both.take(first[works[first]])


def with_error_words(payload: NDArray[np.uint8], n: int, event_number: int, bx: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Append n error words of random kinds to random FEDs."""
    frames = split_payload(payload)
    if n == 0 or not frames:
        return payload
    extra: dict[int, list[int]] = {}
    for k in rng.integers(0, len(frames), n).tolist():
        kind = int(rng.integers(ROC_FIRST_ERROR, 32))
        extra.setdefault(k, []).append(pixel_word(int(rng.integers(1, 49)), kind, int(rng.integers(0, 1 << 13)), int(rng.integers(0, 256))))
    out: list[tuple[int, NDArray[np.uint8] | bytes]] = []
    for k, (fed_id, data) in enumerate(frames):
        if k in extra:
            words = data.view("<u4")[FRAME_WORDS // 2 : -(FRAME_WORDS // 2)]
            words = words[words != 0]  # the padding moves to the end
            out.append((fed_id, frame(fed_id, np.concatenate([words, np.array(extra[k], np.uint32)]), event_number=event_number, bx=bx)))
        else:
            out.append((fed_id, data))
    return join_payload(out)
