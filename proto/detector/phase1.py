"""The built-in detector: the pixel detector of the CMS Phase-1 upgrade, described by formulas.

Dimensions: CMS, "The CMS Phase-1 pixel detector upgrade", JINST 16 (2021) P02027: four barrel layers, two times three disks with an inner
and an outer ring of blades turned by 20 degrees (the inner ones also inclined by 12 degrees), 1856 modules of 160 x 416 pixels.
Ladders and blades are placed regularly. Everything is a pure function of the constants below: no file, no random numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import rawid
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
from hltfarm.proto.detector.sensor import hit_errors_x, hit_errors_y, lorentz_drift

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LADDERS = (12, 28, 44, 64)
MODULES_PER_LADDER = 8
MEAN_RADII_CM = (2.9, 6.8, 10.9, 16.0)
LADDER_STAGGER_CM = 0.16  # ladders lie at mean radius -+ this, alternately: neighbours overlap
MODULE_PITCH_Z_CM = 6.70  # sensors are 6.48 cm long
DISK_Z_CM = (32.0, 39.5, 49.0)
BLADES = (22, 34)  # inner ring, outer ring
RING_RADII_CM = (7.8, 12.8)
RING_INCLINE_DEG = (12.0, 0.0)
RING_SPREAD_Z_CM = (0.40, 0.25)  # step in z from blade to blade
RING_STEPS = (6, 9)  # after so many steps the blades start again
RING_OFFSET_Z_CM = (-0.1, -2.1)  # first blade, relative to the disk
PANEL_SHIFT_CM = (0.52, 0.46)  # the two modules of a blade lie to the left and the right of its axis ...
PANEL_GAP_CM = (0.19, 0.15)  # ... and on its two faces
BLADE_TURN_DEG = 20.0
MODULE_TURN_DEG = 5.6  # in its own plane
FIELD_TESLA = 3.8112
HALL_MOBILITY_BARREL = (0.065, 0.078, 0.090, 0.100)  # tan(Lorentz angle) per tesla; lower where the bias voltage is higher
HALL_MOBILITY_DISK = 0.077
THICKNESS_BARREL_CM = 0.0285
THICKNESS_DISK_CM = 0.0290
PITCH_X_CM = 0.0100
PITCH_Y_CM = 0.0150
N_FEDS = 139
FIRST_FED = 1200
LINKS, ROCS = 48, 8
CHIPS = 16
N_MODULES = 1856


def topology(pitch_x: float = PITCH_X_CM, pitch_y: float = PITCH_Y_CM) -> Topology:
    """The pixel matrix of a Phase-1 module: 2 x 8 chips of 80 x 52 pixels; pixels at inner chip borders are double,
    and so are the first and the last column. Pitches in cm, rounded to float32."""
    rows, cols, chip_rows, chip_cols = 160, 416, 80, 52
    width_x = np.ones(rows, np.int32)
    width_x[[chip_rows - 1, chip_rows]] = 2
    width_y = np.ones(cols, np.int32)
    width_y[::chip_cols] = 2
    width_y[chip_cols - 1 :: chip_cols] = 2
    edge_x = np.concatenate(([0], np.cumsum(width_x))).astype(np.int32)
    edge_y = np.concatenate(([0], np.cumsum(width_y))).astype(np.int32)
    return Topology(
        rows, cols, chip_rows, chip_cols, _f32(pitch_x), _f32(pitch_y), float(edge_x[-1] / 2), float(edge_y[-1] / 2), edge_x, edge_y
    )


@lru_cache(maxsize=1)
def phase1() -> Detector:
    """The built-in detector (cached; do not write into its arrays)."""
    raw_id = rawid.phase1_raw_ids(LADDERS, MODULES_PER_LADDER, len(DISK_Z_CM), sum(BLADES))
    position, rotation = _placement()
    topo = topology()
    detector = Detector(
        name="phase1",
        topology=topo,
        modules=_modules(raw_id, position, rotation, topo),
        layers=phase1_layers(),
        cabling=_cabling(raw_id),
        gains=_gains(topo),
        beam_spot=BeamSpot(x=0.0, y=0.0, z=_f32(5e-5), sigma_x=_f32(1.5e-3), sigma_y=_f32(1.5e-3), sigma_z=4.0),
        field_tesla=FIELD_TESLA,
    )
    detector.validate()
    return detector


def phase1_layers() -> tuple[Layer, ...]:
    """Four barrel layers, three disks at positive z, three at negative z, in module order."""
    out: list[Layer] = []
    first = 0
    for k, ladders in enumerate(LADDERS):
        out.append(Layer(f"BPIX{k + 1}", first, ladders * MODULES_PER_LADDER, True))
        first += out[-1].count
    for side in "+-":
        for k in range(len(DISK_Z_CM)):
            out.append(Layer(f"FPIX{side}{k + 1}", first, 2 * sum(BLADES), False))
            first += out[-1].count
    return tuple(out)


def chip_orientation(raw_id: NDArray[np.uint32]) -> list[NDArray[Any]]:
    """Affine maps of the 16 chips of each module: row0, row_step, col0, col_step, each (n, 16), by chip number in the module.

    Chips lie in two rows of eight. In one kind of module (barrel layers 2-4 at negative z, all disks) the chips 0..7 are read along
    increasing rows and decreasing columns and number the columns backwards; the other kind is the same turned by half a turn.
    """
    d = np.arange(CHIPS)
    low = d < 8
    a_row0, a_row_step = np.where(low, 0, 159), np.where(low, 1, -1)
    a_col0, a_col_step = np.where(low, (8 - d) * 52 - 1, (d - 8) * 52), np.where(low, -1, 1)
    b_row0, b_row_step = np.where(low, 159, 0), np.where(low, -1, 1)
    b_col0, b_col_step = np.where(low, d * 52, (16 - d) * 52 - 1), np.where(low, 1, -1)
    b = rawid.is_turned(raw_id)[:, None]
    return [
        np.where(b, b_row0, a_row0).astype(np.int16),
        np.where(b, b_row_step, a_row_step).astype(np.int8),
        np.where(b, b_col0, a_col0).astype(np.int16),
        np.where(b, b_col_step, a_col_step).astype(np.int8),
    ]


def calibration_constants(raw_id: NDArray[np.uint32]) -> tuple[F32, F32, NDArray[np.int32]]:
    """Electrons per VCAL unit, offset in electrons and least cluster charge of each module: barrel layer 1 differs from the rest."""
    first = rawid.is_barrel(raw_id) & (rawid.barrel_layer(raw_id) == 1)
    return (
        np.where(first, 50, 47).astype(np.float32),
        np.where(first, -670, -60).astype(np.float32),
        np.where(first, 2000, 4000).astype(np.int32),
    )


def word_formats(raw_id: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """`Cabling.word_format` of each module: the chips of barrel layer 1 send row and column."""
    first = rawid.is_barrel(raw_id) & (rawid.barrel_layer(raw_id) == 1)
    return np.where(first, WORD_ROW_COL, WORD_DCOL_PXID).astype(np.uint8)


def _f32(x: float) -> float:
    return float(np.float32(x))


def _placement() -> tuple[F64, F64]:
    """Centres (n, 3) and rotations (n, 3, 3) of all modules, in module order."""
    positions: list[F64] = []
    rotations: list[F64] = []
    for layer, ladders in enumerate(LADDERS):
        p, r = _barrel_layer(layer, ladders)
        positions.append(p)
        rotations.append(r)
    for side in (1.0, -1.0):
        for z in DISK_Z_CM:
            p, r = _disk(z, side)
            positions.append(p)
            rotations.append(r)
    return np.concatenate(positions), np.concatenate(rotations)


def _barrel_layer(layer: int, ladders: int) -> tuple[F64, F64]:
    """Ladders at two radii in turn; modules of the inner ones face the beam. Local y is always -z."""
    k = np.repeat(np.arange(ladders), MODULES_PER_LADDER)
    phi = (k + 0.5) * 2 * np.pi / ladders
    outward = np.where(k % 2 == (1 if layer == 3 else 0), 1.0, -1.0)
    r = MEAN_RADII_CM[layer] + outward * LADDER_STAGGER_CM
    z = np.tile((np.arange(MODULES_PER_LADDER) - (MODULES_PER_LADDER - 1) / 2) * MODULE_PITCH_Z_CM, ladders)
    zero = np.zeros_like(phi)
    normal = np.stack([outward * np.cos(phi), outward * np.sin(phi), zero], 1)
    y = np.broadcast_to(np.array([0.0, 0.0, -1.0]), normal.shape)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], 1), np.stack([np.cross(y, normal), y, normal], 1)


def _disk(z_disk: float, side: float) -> tuple[F64, F64]:
    """First the modules on one face of all blades (inner ring, outer ring), then those on the other face, which are flipped."""
    positions: list[F64] = []
    rotations: list[F64] = []
    turn, in_plane = np.radians(BLADE_TURN_DEG), np.radians(MODULE_TURN_DEG)
    for face in (1.0, -1.0):
        for ring, blades in enumerate(BLADES):
            k = np.arange(blades)
            phi = k * 2 * np.pi / blades
            half = k % (blades // 2)
            step = np.where(half < RING_STEPS[ring], half, half - RING_STEPS[ring])
            z = z_disk + RING_OFFSET_Z_CM[ring] + RING_SPREAD_Z_CM[ring] * step - face * PANEL_GAP_CM[ring] / 2
            incline = np.radians(RING_INCLINE_DEG[ring])
            n = face * np.array([-np.cos(turn) * np.sin(incline), np.sin(turn), np.cos(turn) * np.cos(incline)])
            u = np.array([np.cos(incline), 0.0, np.sin(incline)])  # in the plane of the module, pointing outwards
            y = np.cos(in_plane) * u + np.sin(in_plane) * np.cross(n, u) * _sign_of(np.cross(n, u)[1]) * face
            local = np.stack([y, n])
            local[:, 2] *= side
            e_r = np.stack([np.cos(phi), np.sin(phi), 0 * phi], 1)
            e_phi = np.stack([-np.sin(phi), np.cos(phi), 0 * phi], 1)
            e_z = np.broadcast_to(np.array([0.0, 0.0, 1.0]), e_r.shape)
            y_g, n_g = (v[0] * e_r + v[1] * e_phi + v[2] * e_z for v in local)
            shift = face * PANEL_SHIFT_CM[ring]
            r = np.sqrt(RING_RADII_CM[ring] ** 2 - shift**2)
            positions.append(r * e_r + shift * e_phi + side * z[:, None] * e_z)
            rotations.append(np.stack([np.cross(y_g, n_g), y_g, n_g], 1))
    return np.concatenate(positions), np.concatenate(rotations)


def _sign_of(x: float) -> float:
    return 1.0 if x >= 0 else -1.0


def _modules(raw_id: NDArray[np.uint32], position: F64, rotation: F64, topo: Topology) -> Modules:
    barrel = rawid.is_barrel(raw_id)
    layers = phase1_layers()
    layer = np.repeat(np.arange(len(layers)), [x.count for x in layers]).astype(np.uint8)
    thickness = np.where(barrel, THICKNESS_BARREL_CM, THICKNESS_DISK_CM)
    p32, r32 = position.astype(np.float32), rotation.astype(np.float32)
    mobility = np.where(barrel, np.array(HALL_MOBILITY_BARREL + (0.0,) * 6)[layer], HALL_MOBILITY_DISK)
    width_x, width_y = lorentz_drift(rotation[:, :, 2] * FIELD_TESLA, mobility, thickness)
    origin = -np.einsum("nij,nj->ni", r32.astype(np.float64), p32.astype(np.float64))
    cot = origin[:, :2] / origin[:, 2:]
    spread_x = np.abs(thickness * cot[:, 0] - width_x)
    spread_y = np.abs(thickness * cot[:, 1] - width_y)
    epv, offset, cut = calibration_constants(raw_id)
    wx, wy = width_x.astype(np.float32), width_y.astype(np.float32)
    half = np.float32(0.5)
    return Modules(
        raw_id=raw_id,
        is_barrel=barrel,
        layer=layer,
        position=p32,
        rotation=r32,
        thickness=thickness.astype(np.float32),
        shift_x=half * wx,
        shift_y=half * wy,
        charge_width_x=wx,
        charge_width_y=wy,
        origin=origin.astype(np.float32),
        sigma_x=hit_errors_x(topo.pitch_x, spread_x),
        sigma_y=hit_errors_y(topo.pitch_y, spread_y),
        electrons_per_vcal=epv,
        electrons_offset=offset,
        min_cluster_charge=cut,
    )


def _cabling(raw_id: NDArray[np.uint32]) -> Cabling:
    """Modules in order onto 139 FEDs; a module takes two links of eight chips."""
    shape = (N_FEDS, LINKS, ROCS)
    module = np.full(shape, NO_MODULE, np.uint16)
    word_format = np.zeros(shape, np.uint8)
    maps: list[NDArray[Any]] = [np.zeros(shape, t) for t in (np.int16, np.int8, np.int16, np.int8)]
    m = np.repeat(np.arange(N_MODULES), CHIPS)
    d = np.tile(np.arange(CHIPS), N_MODULES)
    fed = m * N_FEDS // N_MODULES
    first = -(-fed * N_MODULES // N_FEDS)
    at = (fed, 2 * (m - first) + d // ROCS, d % ROCS)
    module[at] = m
    word_format[at] = word_formats(raw_id)[m]
    for k, values in enumerate(chip_orientation(raw_id)):
        maps[k][at] = values[m, d]
    fed_ids = np.arange(FIRST_FED, FIRST_FED + N_FEDS, dtype=np.uint16)
    row0, row_step, col0, col_step = maps
    return Cabling(fed_ids, module, word_format, row0, row_step, col0, col_step, np.zeros(shape, np.uint8))


def _gains(topo: Topology) -> GainCalibration:
    """Gain about 3.2 VCAL per ADC count (+-6 %), pedestal about 28 (+-2.5), from a hash of the position; some dead and noisy columns."""
    blocks = 2
    index = np.arange(N_MODULES * topo.cols * blocks, dtype=np.uint32).reshape(N_MODULES, topo.cols, blocks)
    h = _hash(index)
    bell = sum(((h >> np.uint32(s)) & np.uint32(15)).astype(np.int32) for s in (0, 4, 8, 12)) - 30  # sigma 9.2
    bell2 = sum(((h >> np.uint32(s)) & np.uint32(3)).astype(np.int32) for s in (16, 18, 20, 22, 24)) - 8  # sigma 2.5
    codes = np.empty((N_MODULES, topo.cols, blocks, 2), np.uint8)
    codes[..., 0] = 205 + bell
    codes[..., 1] = 28 + bell2
    gains = GainCalibration(codes, topo.rows // blocks, 0.0, _f32(1 / 64), 0.0, 1.0)
    columns = np.arange(N_MODULES * topo.cols, dtype=np.uint32).reshape(N_MODULES, topo.cols)
    column = _hash(columns ^ np.uint32(0x5EED5EED)) & np.uint32(8191)
    codes[column == 0, :, 1] = gains.dead
    codes[column == 1, :, 1] = gains.noisy
    return gains


def _hash(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A 32-bit integer mixer (two multiplicative rounds with shifts), the same on every machine."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return np.asarray(x ^ (x >> np.uint32(16)), np.uint32)
