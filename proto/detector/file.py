"""A detector from a file of one's own (YAML, docs/detector-file.md): modules by formula or one by one, a simple readout and calibration."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from hltfarm.proto.detector.description import (
    MAX_FED_ID,
    NO_MODULE,
    WORD_ROW_COL,
    BeamSpot,
    Cabling,
    Detector,
    GainCalibration,
    Layer,
    Modules,
    Topology,
)
from hltfarm.proto.detector.file_schema import Barrel, DetectorFile, Disk, LayerFile, Placed, Sensor
from hltfarm.proto.detector.sensor import hit_errors_x, hit_errors_y, lorentz_drift
from hltfarm.proto.errors import ConditionsError

F64 = NDArray[np.float64]
VERSION = 1
SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 8 << 20
MAX_MODULES = 32000  # the simulation's look-up counts them in 16 bits
# What the pixel words can name (`hltfarm.proto.raw`, WORD_ROW_COL):
MAX_CHIP_ROWS, MAX_CHIP_COLS = 128, 64
MAX_LINKS, MAX_ROCS = 63, 24


def read_detector_file(path: str | Path) -> Detector:
    """The detector of a file. ConditionsError for one that cannot be read or that makes no sense, with the place."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConditionsError(f"{path}: larger than {MAX_BYTES >> 20} MiB; this is not a detector file")
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConditionsError(f"{path}: cannot be read ({error.strerror if isinstance(error, OSError) else 'not UTF-8'})") from error
    return parse_detector(text, str(path))


def parse_detector(text: str, origin: str = "detector file") -> Detector:
    """As `read_detector_file`, from text."""
    try:
        described = msgspec.convert(yaml.safe_load(text), DetectorFile, strict=False)
    except yaml.YAMLError as error:
        raise ConditionsError(f"{origin}: not YAML ({' '.join(str(error).split())})") from error
    except msgspec.ValidationError as error:
        raise ConditionsError(f"{origin}: {error}") from error
    try:
        return _detector(described)
    except ConditionsError as error:
        raise ConditionsError(f"{origin}: {error}") from error


def _detector(d: DetectorFile) -> Detector:
    _need(d.version == VERSION, f"version {d.version} is unknown; this is version {VERSION}")
    _need(bool(d.layers), "no layers")
    _need(len({layer.name for layer in d.layers}) == len(d.layers), "two layers have one name")
    _need(d.name != "phase1", "the name phase1 is the built-in detector's")
    _need(0 < abs(d.field_tesla) <= 20, f"a field of {d.field_tesla} T: tracks are found by their curvature; between 0 and 20 T")
    topology = _topology(d.sensor)
    layers: list[Layer] = []
    positions: list[F64] = []
    rotations: list[F64] = []
    first = 0
    for layer in d.layers:
        position, rotation, is_barrel = _place(layer)
        layers.append(Layer(layer.name, first, len(position), is_barrel))
        positions.append(position)
        rotations.append(rotation)
        first += len(position)
    _need(0 < first <= MAX_MODULES, f"{first} modules; 1 to {MAX_MODULES} are possible")
    try:
        reconstruction = json.dumps(d.reconstruction, sort_keys=True, allow_nan=False) if d.reconstruction else ""
    except (TypeError, ValueError) as error:
        raise ConditionsError(f"reconstruction: {error}") from error
    spot = d.beam_spot
    detector = Detector(
        name=d.name,
        topology=topology,
        modules=_modules(d, tuple(layers), np.concatenate(positions), np.concatenate(rotations)),
        layers=tuple(layers),
        cabling=_cabling(d, topology, first),
        gains=GainCalibration(
            codes=np.zeros((first, topology.cols, 1, 2), np.uint8),
            rows_per_block=topology.rows,
            gain_min=_f32(d.calibration.electrons_per_adc),
            gain_precision=0.0,
            pedestal_min=_f32(d.calibration.pedestal_adc),
            pedestal_precision=0.0,
        ),
        beam_spot=BeamSpot(
            *(_f32(x) for x in (spot.x_cm, spot.y_cm, spot.z_cm, spot.sigma_x_cm, spot.sigma_y_cm, spot.sigma_z_cm)),
        ),
        field_tesla=d.field_tesla,
        min_electrons=d.calibration.min_electrons,
        edge_error_x=_f32(0.5 * d.sensor.pitch_x_cm),
        edge_error_y=_f32(0.5 * d.sensor.pitch_y_cm),
        reconstruction=reconstruction,
    )
    detector.validate()
    return detector


def _topology(s: Sensor) -> Topology:
    for name, size, chip, most in (("rows", s.rows, s.chip_rows, MAX_CHIP_ROWS), ("cols", s.cols, s.chip_cols, MAX_CHIP_COLS)):
        _need(1 <= chip <= most, f"sensor: chip_{name} {chip}; a pixel word can name 1 to {most}")
        _need(size > 0 and size % chip == 0, f"sensor: {name} {size} is not a multiple of chip_{name} {chip}")
        _need(size <= 1024, f"sensor: {name} {size}; at most 1024")
    _need(min(s.pitch_x_cm, s.pitch_y_cm, s.thickness_cm) > 0, "sensor: pitches and thickness must be positive")

    def edges(size: int, chip: int) -> NDArray[np.int32]:
        width = np.ones(size, np.int32)
        if s.double_at_chip_edges:
            border = np.arange(chip, size, chip)
            width[border] = width[border - 1] = 2
        return np.concatenate([[0], np.cumsum(width)]).astype(np.int32)

    x, y = edges(s.rows, s.chip_rows), edges(s.cols, s.chip_cols)
    return Topology(
        s.rows, s.cols, s.chip_rows, s.chip_cols, _f32(s.pitch_x_cm), _f32(s.pitch_y_cm), float(x[-1] / 2), float(y[-1] / 2), x, y
    )


def _place(layer: LayerFile) -> tuple[F64, F64, bool]:
    """Centres (n, 3) and rotations (n, 3, 3) of a layer's modules, and whether it is a barrel."""
    given = [x for x in (layer.barrel, layer.disk, layer.modules) if x is not None]
    _need(len(given) == 1, f"layer {layer.name}: give one of barrel, disk and modules")
    if layer.barrel is not None:
        return *_barrel(layer.name, layer.barrel), True
    if layer.disk is not None:
        return *_disk(layer.name, layer.disk), False
    assert layer.modules is not None  # one of the three
    _need(bool(layer.modules), f"layer {layer.name}: no modules")
    return *_placed(layer.name, layer.modules), layer.is_barrel


def _barrel(name: str, b: Barrel) -> tuple[F64, F64]:
    _need(b.ladders > 0 and b.modules > 0 and b.pitch_z_cm > 0, f"layer {name}: ladders, modules and pitch_z_cm must be positive")
    _need(b.radius_cm > abs(b.stagger_cm), f"layer {name}: radius {b.radius_cm} cm with a stagger of {b.stagger_cm} cm")
    k = np.repeat(np.arange(b.ladders), b.modules)
    phi = 2 * np.pi * (k + 0.5) / b.ladders
    r = b.radius_cm + np.where(k % 2 == 0, 1.0, -1.0) * b.stagger_cm
    z = b.z_cm + np.tile((np.arange(b.modules) - (b.modules - 1) / 2) * b.pitch_z_cm, b.ladders)
    facing, zero = phi + math.radians(b.tilt_deg), np.zeros_like(phi)
    normal = np.stack([np.cos(facing), np.sin(facing), zero], 1)
    y = np.broadcast_to(np.array([0.0, 0.0, -1.0]), normal.shape)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], 1), np.stack([np.cross(y, normal), y, normal], 1)


def _disk(name: str, d: Disk) -> tuple[F64, F64]:
    _need(bool(d.rings), f"layer {name}: no rings")
    positions, rotations = [], []
    for ring in d.rings:
        _need(ring.modules > 0 and ring.radius_cm > 0, f"layer {name}: modules and radius_cm of a ring must be positive")
        k = np.arange(ring.modules)
        phi = 2 * np.pi * k / ring.modules + math.radians(ring.phi_deg)
        zero = np.zeros_like(phi)
        side = 1.0 if d.z_cm >= 0 else -1.0
        y = np.stack([np.cos(phi), np.sin(phi), zero], 1)
        normal = np.broadcast_to(np.array([0.0, 0.0, side]), y.shape)
        z = d.z_cm + side * d.stagger_cm * (k % 2)
        positions.append(np.stack([ring.radius_cm * np.cos(phi), ring.radius_cm * np.sin(phi), z], 1))
        rotations.append(np.stack([np.cross(y, normal), y, normal], 1))
    return np.concatenate(positions), np.concatenate(rotations)


def _placed(name: str, modules: tuple[Placed, ...]) -> tuple[F64, F64]:
    x, y = (np.array([getattr(m, axis) for m in modules], np.float64) for axis in ("x_axis", "y_axis"))
    normal = np.cross(x, y)
    lengths = [np.linalg.norm(v, axis=1) for v in (x, y, normal)]
    _need(bool((lengths[2] > 0.1 * lengths[0] * lengths[1]).all()), f"layer {name}: x_axis and y_axis of a module are (nearly) parallel")
    x, normal = x / lengths[0][:, None], normal / lengths[2][:, None]
    return np.array([m.centre_cm for m in modules], np.float64), np.stack([x, np.cross(normal, x), normal], 1)


def _modules(d: DetectorFile, layers: tuple[Layer, ...], position: F64, rotation: F64) -> Modules:
    n, s, c = len(position), d.sensor, d.calibration
    _need(bool(np.isfinite(position).all() and np.isfinite(rotation).all()), "a module has a position that is not finite")
    _need(min(s.error_scale_x, s.error_scale_y) > 0, "sensor: error_scale_x and error_scale_y must be positive")
    _need(c.electrons_per_adc > 0, f"calibration: electrons_per_adc {c.electrons_per_adc} must be positive")
    p32, r32 = position.astype(np.float32), rotation.astype(np.float32)
    thickness = np.full(n, s.thickness_cm)
    width_x, width_y = lorentz_drift(rotation[:, :, 2] * d.field_tesla, np.full(n, s.hall_mobility), thickness)
    origin = -np.einsum("nij,nj->ni", r32.astype(np.float64), p32.astype(np.float64))
    _need(bool((np.abs(origin[:, 2]) > 1e-3).all()), "a module's plane goes through the origin: nothing from there can cross it")
    cot = origin[:, :2] / origin[:, 2:]
    wx, wy = width_x.astype(np.float32), width_y.astype(np.float32)
    counts = [layer.count for layer in layers]
    return Modules(
        raw_id=np.arange(n, dtype=np.uint32),
        is_barrel=np.repeat([layer.is_barrel for layer in layers], counts),
        layer=np.repeat(np.arange(len(layers)), counts).astype(np.uint8),
        position=p32,
        rotation=r32,
        thickness=thickness.astype(np.float32),
        shift_x=np.float32(0.5) * wx,
        shift_y=np.float32(0.5) * wy,
        charge_width_x=wx,
        charge_width_y=wy,
        origin=origin.astype(np.float32),
        sigma_x=np.float32(s.error_scale_x) * hit_errors_x(s.pitch_x_cm, np.abs(thickness * cot[:, 0] - width_x)),
        sigma_y=np.float32(s.error_scale_y) * hit_errors_y(s.pitch_y_cm, np.abs(thickness * cot[:, 1] - width_y)),
        electrons_per_vcal=np.ones(n, np.float32),
        electrons_offset=np.zeros(n, np.float32),
        min_cluster_charge=np.full(n, c.min_cluster_charge, np.int32),
    )


def _cabling(d: DetectorFile, t: Topology, n: int) -> Cabling:
    """Each module has links of its own; its chips count row by row. Words carry row and column of the chip."""
    across = t.cols // t.chip_cols
    chips = (t.rows // t.chip_rows) * across
    links = -(-chips // MAX_ROCS)
    rocs = -(-chips // links)
    most = MAX_LINKS // links
    _need(most > 0, f"sensor: {chips} chips a module; a FED can name {MAX_LINKS * MAX_ROCS}")
    per_fed = d.readout.modules_per_fed or most
    _need(1 <= per_fed <= most, f"readout: {per_fed} modules a FED; with {chips} chips a module 1 to {most} are possible")
    n_feds = -(-n // per_fed)
    last = d.readout.first_fed + n_feds - 1
    _need(d.readout.first_fed >= 0 and last <= MAX_FED_ID, f"readout: FEDs {d.readout.first_fed} to {last}; ids go from 0 to {MAX_FED_ID}")
    shape = (n_feds, links * per_fed, rocs)
    module = np.full(shape, NO_MODULE, np.uint16)
    row0, col0 = np.zeros(shape, np.int16), np.zeros(shape, np.int16)
    m, chip = np.repeat(np.arange(n), chips), np.tile(np.arange(chips), n)
    at = (m // per_fed, (m % per_fed) * links + chip // rocs, chip % rocs)
    module[at], row0[at], col0[at] = m, chip // across * t.chip_rows, chip % across * t.chip_cols
    ones = np.ones(shape, np.int8)
    fed_ids = np.arange(d.readout.first_fed, last + 1, dtype=np.uint16)
    return Cabling(fed_ids, module, np.full(shape, WORD_ROW_COL, np.uint8), row0, ones, col0, ones, np.zeros(shape, np.uint8))


def _need(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ConditionsError(otherwise)


def _f32(x: float) -> float:
    return float(np.float32(x))
