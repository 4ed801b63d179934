"""Detectors for tests: the built-in one, one with every kind of trouble, and a small one that shares no number with the real ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from hltfarm.proto.detector import (
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
    phase1,
)


@lru_cache(maxsize=1)
def troubled() -> Detector:
    """The built-in detector with unconnected, bad and switched-off ROCs, dead and noisy columns, wild gains and a displaced beam."""
    base, rng = phase1(), np.random.default_rng(1)
    cabling, gains = base.cabling, base.gains
    module, disabled = cabling.module.copy(), cabling.disabled.copy()
    module[rng.random(module.shape) < 0.03] = NO_MODULE
    disabled[rng.random(module.shape) < 0.03] |= 1
    disabled[rng.random(module.shape) < 0.03] |= 2
    codes = rng.integers(0, 250, gains.codes.shape).astype(np.uint8)
    trouble = rng.random(codes.shape[:-1])
    codes[..., 1][trouble < 0.02] = gains.dead
    codes[..., 1][trouble > 0.98] = gains.noisy
    detector = replace(
        base,
        name="troubled",
        cabling=replace(cabling, module=module, disabled=disabled),
        gains=replace(gains, codes=codes),
        beam_spot=BeamSpot(x=0.0931, y=-0.1697, z=0.3821),
    )
    detector.validate()
    return detector


@lru_cache(maxsize=1)
def small() -> Detector:
    """Eleven modules of 4 ROCs with 11 x 9 pixels, two word formats, three FEDs (ids 7, 4095, 0), mixed orientations, FED 0 half empty."""
    rng = np.random.default_rng(2)
    n, chip_rows, chip_cols = 11, 11, 9
    rows, cols = 2 * chip_rows, 2 * chip_cols
    wide_rows = np.ones(rows, np.int32)
    wide_rows[[chip_rows - 1, chip_rows]] = 2
    wide_cols = np.ones(cols, np.int32)
    wide_cols[[0, chip_cols - 1, chip_cols, cols - 1]] = 2
    topology = Topology(
        rows=rows,
        cols=cols,
        chip_rows=chip_rows,
        chip_cols=chip_cols,
        pitch_x=0.005,
        pitch_y=0.02,
        centre_x=float(wide_rows.sum() / 2),
        centre_y=float(wide_cols.sum() / 2),
        edge_x=np.concatenate([[0], np.cumsum(wide_rows)]).astype(np.int32),
        edge_y=np.concatenate([[0], np.cumsum(wide_cols)]).astype(np.int32),
    )

    def f32(*shape: int, low: float, high: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.uniform(low, high, shape).astype(np.float32)

    rotation = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0].astype(np.float32)
    position = f32(n, 3, low=-12, high=12)
    modules = Modules(
        raw_id=np.arange(n, dtype=np.uint32),
        is_barrel=np.arange(n) < 6,
        layer=(np.arange(n) >= 6).astype(np.uint8),
        position=position,
        rotation=rotation,
        thickness=f32(n, low=0.01, high=0.03),
        shift_x=f32(n, low=-0.01, high=0.01),
        shift_y=f32(n, low=-0.01, high=0.01),
        charge_width_x=f32(n, low=-0.02, high=0.02),
        charge_width_y=f32(n, low=-0.02, high=0.02),
        origin=-np.einsum("nij,nj->ni", rotation, position).astype(np.float32),
        sigma_x=f32(n, 3, low=1e-3, high=5e-3),
        sigma_y=f32(n, 3, low=1e-3, high=5e-3),
        electrons_per_vcal=f32(n, low=20, high=80),
        electrons_offset=f32(n, low=-900, high=50),
        min_cluster_charge=rng.integers(500, 9000, n).astype(np.int32),
    )
    shape = (3, 5, 4)  # FEDs, links, ROCs: each link reads one module
    link_module = rng.permutation(np.concatenate([np.arange(n), np.full(4, NO_MODULE)]))
    link_module = np.concatenate([np.sort(link_module[:10]), link_module[10:]])
    module = np.repeat(link_module, 4).reshape(shape).astype(np.uint16)
    upper, right = np.broadcast_to(np.arange(4) // 2, shape), np.broadcast_to(np.arange(4) % 2, shape)
    row_step, col_step = rng.choice([-1, 1], shape), rng.choice([-1, 1], shape)
    cabling = Cabling(
        fed_ids=np.array([7, 4095, 0], np.uint16),
        module=module,
        word_format=rng.choice([WORD_DCOL_PXID, WORD_ROW_COL], shape).astype(np.uint8),
        row0=(upper * chip_rows + np.where(row_step > 0, 0, chip_rows - 1)).astype(np.int16),
        row_step=row_step.astype(np.int8),
        col0=(right * chip_cols + np.where(col_step > 0, 0, chip_cols - 1)).astype(np.int16),
        col_step=col_step.astype(np.int8),
        disabled=np.zeros(shape, np.uint8),
    )
    gains = GainCalibration(
        codes=rng.integers(0, 256, (n, cols, 3, 2)).astype(np.uint8),
        rows_per_block=8,
        gain_min=0.4,
        gain_precision=0.031,
        pedestal_min=-6.5,
        pedestal_precision=0.17,
        dead=3,
        noisy=200,
    )
    detector = Detector(
        name="small",
        topology=topology,
        modules=modules,
        layers=(Layer("inner", 0, 6, True), Layer("outer", 6, 5, False)),
        cabling=cabling,
        gains=gains,
        beam_spot=BeamSpot(x=-0.05, y=0.11, z=-1.5),
        min_electrons=37,
        edge_error_x=0.0071,
        edge_error_y=0.0123,
    )
    detector.validate()
    return detector


@lru_cache(maxsize=1)
def degenerate() -> Detector:
    """The small detector shrunk to points: no pitch, no drift, modules on the beam line or exactly beside it along x or y.

    Every hit has coordinates that are exactly 0, so that the azimuth's limiting cases occur.
    """
    base = small()
    n = base.n_modules
    beside = np.array([[0, 0], [0, 2], [0, -2], [2, 0], [-2, 0], [2, 2], [-2, 2], [2, -2], [-2, -2], [0, 0], [0, 0]], np.float32)
    position = np.zeros((n, 3), np.float32)
    position[:, :2] = beside
    none = np.zeros(n, np.float32)
    detector = replace(
        base,
        name="degenerate",
        topology=replace(base.topology, pitch_x=0.0, pitch_y=0.0),
        modules=replace(base.modules, position=position, shift_x=none, shift_y=none, charge_width_x=none, charge_width_y=none),
        beam_spot=BeamSpot(x=0.0, y=0.0, z=0.0),
    )
    detector.validate()
    return detector


DETECTORS = {"phase1": phase1, "troubled": troubled, "small": small, "degenerate": degenerate}
