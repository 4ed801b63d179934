"""Conditions files of pixeltrack-standalone: fedIds.bin, cablingMap.bin, gain.bin, cpefast.bin, beamspot.bin.

Little-endian memory dumps without magic or version, so sizes and cross-references are all that can be checked; every doubt is a
ConditionsError that names the file. Floats are taken as they are, so that a detector read here computes the same bits as the original programs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import phase1, rawid
from hltfarm.proto.detector.description import (
    NO_MODULE,
    BeamSpot,
    Cabling,
    Detector,
    GainCalibration,
    Modules,
)
from hltfarm.proto.errors import ConditionsError

FIRST_FED, MAX_FEDS, LINKS, ROCS = 1200, 150, 48, 8
TRACKER_TEST_FED = 40  # listed by some files, carries no pixels
SLOTS = MAX_FEDS * LINKS * ROCS
NONE = 9999
N_MODULES = 1856
GAIN_SLOTS = 2000
ROW_BLOCKS = 2

_CABLING = np.dtype(
    [
        ("fed", "<u4", SLOTS),
        ("link", "<u4", SLOTS),
        ("roc", "<u4", SLOTS),
        ("raw_id", "<u4", SLOTS),
        ("roc_in_module", "<u4", SLOTS),
        ("module", "<u4", SLOTS),
        ("bad", "u1", SLOTS),
        ("size", "<u4"),
        ("pad", "u1", 124),
        ("n_unpack", "<u4"),
        ("skip", "u1", SLOTS),
    ]
)
_GAIN = np.dtype(
    [
        ("pointer", "<u8"),
        ("ranges", [("begin", "<u4"), ("end", "<u4"), ("cols", "<i4")], GAIN_SLOTS),
        ("ped_min", "<f4"),
        ("ped_max", "<f4"),
        ("gain_min", "<f4"),
        ("gain_max", "<f4"),
        ("ped_precision", "<f4"),
        ("gain_precision", "<f4"),
        ("rows_averaged", "<u4"),
        ("bins", "<u4"),
        ("dead", "<u4"),
        ("noisy", "<u4"),
        ("n_bytes", "<u4"),
    ]
)
_MODULE = np.dtype(
    [
        ("is_barrel", "u1"),
        ("is_positive_z", "u1"),
        ("layer", "<u2"),
        ("index", "<u2"),
        ("pad", "<u2"),
        ("raw_id", "<u4"),
        ("shift", "<f4", 2),
        ("charge_width", "<f4", 2),
        ("origin", "<f4", 3),
        ("sigma_x", "<f4", 3),
        ("sigma_y", "<f4", 3),
        ("position", "<f4", 3),
        ("rotation", "<f4", (3, 3)),
    ]
)
_LADDERS = 148
_CPE = np.dtype(
    [
        ("thickness_barrel", "<f4"),
        ("thickness_disk", "<f4"),
        ("pitch_x", "<f4"),
        ("pitch_y", "<f4"),
        ("n", "<u4"),
        ("modules", _MODULE, N_MODULES),
        ("ladders", "<f4", (6, _LADDERS)),  # mean z, x, y, r, least z, largest z
        ("endcap_z", "<f4", 2),
        ("layer_start", "<u4", 11),
        ("layer_of_16", "u1", 116),
    ]
)
_BEAM_SPOT = np.dtype("<f4")
_FILES_HINT = "the directory needs fedIds.bin, cablingMap.bin, gain.bin, cpefast.bin and beamspot.bin of pixeltrack-standalone"


def read_patatrack(directory: str | Path) -> Detector:
    """The detector that the five conditions files in `directory` describe.

    Raises ConditionsError if a file is missing, has another size than the Phase-1 layout, or contradicts itself or another file.
    """
    path = Path(directory)
    cpe = _record(path / "cpefast.bin", _CPE)
    modules, pitch = _read_modules(path / "cpefast.bin", cpe)
    detector = Detector(
        name="patatrack",
        topology=phase1.topology(*pitch),
        modules=modules,
        layers=phase1.phase1_layers(),
        cabling=_read_cabling(path, modules),
        gains=_read_gains(path / "gain.bin"),
        beam_spot=_read_beam_spot(path / "beamspot.bin"),
    )
    detector.validate()
    return detector


def write_patatrack(detector: Detector, directory: str | Path) -> None:
    """Write the five conditions files of a Phase-1 detector; `read_patatrack` gives the same tables back, and the original programs read them.

    Raises ConditionsError if the detector does not fit the format (other modules, chips or calibration blocks than Phase 1).
    """
    if detector.n_modules != N_MODULES or detector.layers != phase1.phase1_layers():
        raise ConditionsError(
            f"detector {detector.name}: {detector.n_modules} modules in {len(detector.layers)} layers cannot be written, "
            f"the format holds the {N_MODULES} modules of Phase 1 in their own order"
        )
    files = {
        "fedIds.bin": np.concatenate(([len(detector.cabling.fed_ids)], detector.cabling.fed_ids)).astype("<u4").tobytes(),
        "cablingMap.bin": _cabling_bytes(detector),
        "gain.bin": _gain_bytes(detector),
        "cpefast.bin": _cpe_bytes(detector),
        "beamspot.bin": _beam_spot_bytes(detector.beam_spot),
    }
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ConditionsError(f"{path}: cannot be read ({e.strerror}); {_FILES_HINT}") from e


def _record(path: Path, dtype: np.dtype[np.void]) -> np.void:
    """The one record that fills the file."""
    data = _bytes(path)
    if len(data) != dtype.itemsize:
        raise ConditionsError(f"{path}: {len(data)} bytes, expected {dtype.itemsize}: truncated or not a Phase-1 file; copy it again")
    record: np.void = np.frombuffer(data, dtype)[0]
    return record


def _read_modules(path: Path, cpe: np.void) -> tuple[Modules, tuple[float, float]]:
    if int(cpe["n"]) != N_MODULES:
        raise ConditionsError(f"{path}: {int(cpe['n'])} modules, expected {N_MODULES}: not a Phase-1 file")
    m = cpe["modules"]
    starts = [x.first for x in phase1.phase1_layers()] + [N_MODULES]
    if not np.array_equal(m["index"], np.arange(N_MODULES)) or list(cpe["layer_start"]) != starts:
        raise ConditionsError(f"{path}: modules are not in Phase-1 order; take the file from pixeltrack-standalone")
    for name in ("shift", "charge_width", "origin", "sigma_x", "sigma_y", "position", "rotation"):
        if not np.isfinite(m[name]).all():
            bad = int(np.argwhere(~np.isfinite(m[name]))[0][0])
            raise ConditionsError(f"{path}: module {bad} has a {name} that is not finite; copy the file again")
    raw_id = m["raw_id"].astype(np.uint32)
    barrel = m["is_barrel"] != 0
    if not np.array_equal(barrel, rawid.is_barrel(raw_id)):
        raise ConditionsError(f"{path}: barrel flags contradict the module identifiers; copy the file again")
    layers = phase1.phase1_layers()
    epv, offset, cut = phase1.calibration_constants(raw_id)
    modules = Modules(
        raw_id=raw_id,
        is_barrel=barrel,
        layer=np.repeat(np.arange(len(layers)), [x.count for x in layers]).astype(np.uint8),
        position=_f32(m["position"]),
        rotation=_f32(m["rotation"]),
        thickness=_f32(np.where(barrel, cpe["thickness_barrel"], cpe["thickness_disk"])),
        shift_x=_f32(m["shift"][:, 0]),
        shift_y=_f32(m["shift"][:, 1]),
        charge_width_x=_f32(m["charge_width"][:, 0]),
        charge_width_y=_f32(m["charge_width"][:, 1]),
        origin=_f32(m["origin"]),
        sigma_x=_f32(m["sigma_x"]),
        sigma_y=_f32(m["sigma_y"]),
        electrons_per_vcal=epv,
        electrons_offset=offset,
        min_cluster_charge=cut,
    )
    return modules, (float(cpe["pitch_x"]), float(cpe["pitch_y"]))


def _f32(x: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.ascontiguousarray(x, np.float32)


def _read_fed_ids(path: Path) -> NDArray[np.uint16]:
    data = _bytes(path)
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
    if len(data) < 4 or len(data) != 4 + 4 * int(words[0]):
        expected = 4 + 4 * int(words[0]) if len(words) else 4
        raise ConditionsError(f"{path}: {len(data)} bytes, expected {expected} (a count, then as many ids): truncated; copy it again")
    ids = words[1:][words[1:] != TRACKER_TEST_FED]
    bad = ids[(ids < FIRST_FED) | (ids >= FIRST_FED + MAX_FEDS)]
    if len(bad):
        raise ConditionsError(f"{path}: FED {int(bad[0])} is outside {FIRST_FED}..{FIRST_FED + MAX_FEDS - 1}, the range of cablingMap.bin")
    if len(np.unique(ids)) != len(ids):
        raise ConditionsError(f"{path}: FED ids repeat; every FED may be listed once")
    return ids.astype(np.uint16)


def _read_cabling(directory: Path, modules: Modules) -> Cabling:
    path = directory / "cablingMap.bin"
    fed_ids = _read_fed_ids(directory / "fedIds.bin")
    record = _record(path, _CABLING)
    if int(record["n_unpack"]) != SLOTS:
        raise ConditionsError(f"{path}: unpacking table of {int(record['n_unpack'])} entries, expected {SLOTS}; copy the file again")

    def table(name: str) -> NDArray[np.uint32]:
        """(n_feds, links, rocs); entry 0 of the file is unused, so the last ROC of the last FED has none."""
        shifted = np.append(record[name][1:], np.uint32(NONE if record[name].dtype != np.uint8 else 0))
        return np.asarray(shifted.reshape(MAX_FEDS, LINKS, ROCS)[fed_ids - FIRST_FED], np.uint32)

    module, chip, raw_id = table("module"), table("roc_in_module"), table("raw_id")
    used = (module != NONE) & (chip != NONE) & (raw_id != NONE)
    if used.any() and (int(module[used].max()) >= N_MODULES or int(chip[used].max()) >= phase1.CHIPS):
        raise ConditionsError(f"{path}: a module above {N_MODULES - 1} or a chip above {phase1.CHIPS - 1}; copy the file again")
    m, d = module[used], chip[used]
    if not np.array_equal(modules.raw_id[m], raw_id[used]):
        at = int(m[np.argmax(modules.raw_id[m] != raw_id[used])])
        raise ConditionsError(f"{path}: module {at} has another identifier than in cpefast.bin; take both files from the same set")
    out = [np.zeros(module.shape, t) for t in (np.int16, np.int8, np.int16, np.int8)]
    for array, values in zip(out, phase1.chip_orientation(modules.raw_id), strict=True):
        array[used] = values[m, d]
    numbers = np.full(module.shape, NO_MODULE, np.uint16)
    numbers[used] = m
    formats = np.zeros(module.shape, np.uint8)
    formats[used] = phase1.word_formats(modules.raw_id)[m]
    disabled = np.where(table("bad") == 1, 1, np.where(table("skip") == 1, 2, 0)).astype(np.uint8)
    disabled[~used] = 0
    row0, row_step, col0, col_step = out
    return Cabling(fed_ids, numbers, formats, row0, row_step, col0, col_step, disabled)


def _read_gains(path: Path) -> GainCalibration:
    data = _bytes(path)
    cols, per_module = 416, 416 * ROW_BLOCKS * 2
    expected = _GAIN.itemsize + N_MODULES * per_module
    if len(data) != expected:
        raise ConditionsError(f"{path}: {len(data)} bytes, expected {expected}: truncated or not a Phase-1 file; copy it again")
    head = np.frombuffer(data, _GAIN, 1)[0]
    ranges = head["ranges"][:N_MODULES]
    regular = np.arange(N_MODULES, dtype=np.uint32) * per_module
    if (
        int(head["n_bytes"]) != N_MODULES * per_module
        or int(head["rows_averaged"]) != 80
        or not np.array_equal(ranges["begin"], regular)
        or not np.array_equal(ranges["end"], regular + per_module)
        or not (ranges["cols"] == cols).all()
    ):
        raise ConditionsError(f"{path}: not {cols} columns of {ROW_BLOCKS} x 80 rows for each of {N_MODULES} modules; not a Phase-1 file")
    numbers = [float(head[name]) for name in ("gain_min", "gain_precision", "ped_min", "ped_precision")]
    if not np.isfinite(numbers).all():
        raise ConditionsError(f"{path}: gain or pedestal range is not finite; copy the file again")
    codes = np.frombuffer(data, np.uint8, offset=_GAIN.itemsize).reshape(N_MODULES, cols, ROW_BLOCKS, 2)
    return GainCalibration(codes, int(head["rows_averaged"]), *numbers, dead=int(head["dead"]), noisy=int(head["noisy"]))


def _read_beam_spot(path: Path) -> BeamSpot:
    data = _bytes(path)
    if len(data) != 44:
        raise ConditionsError(f"{path}: {len(data)} bytes, expected 44: truncated; copy it again")
    x, y, z, sigma_z, sigma_x, sigma_y = (float(v) for v in np.frombuffer(data, _BEAM_SPOT)[:6])
    if not np.isfinite([x, y, z]).all():
        raise ConditionsError(f"{path}: position is not finite; copy the file again")
    return BeamSpot(x, y, z, sigma_x, sigma_y, sigma_z)


def _cabling_bytes(detector: Detector) -> bytes:
    c = detector.cabling
    shape = (MAX_FEDS, LINKS, ROCS)
    ids = c.fed_ids.astype(np.int64)
    if c.module.shape[1:] != shape[1:] or (len(ids) and (ids.min() < FIRST_FED or ids.max() >= FIRST_FED + MAX_FEDS)):
        raise ConditionsError(
            f"detector {detector.name}: cabling of {c.links} links x {c.rocs} ROCs, FEDs {ids.min()}..{ids.max()}; "
            f"the format holds {LINKS} x {ROCS} and FEDs {FIRST_FED}..{FIRST_FED + MAX_FEDS - 1}"
        )
    used = c.module != NO_MODULE
    if used.any() and FIRST_FED + MAX_FEDS - 1 in ids and used[np.argmax(ids), -1, -1]:
        raise ConditionsError(f"detector {detector.name}: the format has no entry for the last ROC of FED {FIRST_FED + MAX_FEDS - 1}")
    m = c.module[used].astype(np.int64)
    raw = detector.modules.raw_id[m]
    chip = _chips(detector, used, raw)
    record = np.zeros(1, _CABLING)

    def put(name: str, empty: int, mask: NDArray[np.bool_], values: NDArray[np.generic]) -> None:
        table = np.full(shape, empty, np.uint32)
        sub = np.full(c.module.shape, empty, np.uint32)
        sub[mask] = values
        table[ids - FIRST_FED] = sub
        record[name][0, 1:] = table.ravel()[:-1]
        record[name][0, 0] = empty

    put("module", NONE, used, m)
    put("raw_id", NONE, used, raw)
    put("roc_in_module", NONE, used, chip)
    put("bad", 1, used, c.disabled[used] == 1)
    put("skip", 1, used, c.disabled[used] == 2)
    fed, link, roc = np.indices(shape)
    for name, values in (("fed", fed + FIRST_FED), ("link", link + 1), ("roc", roc + 1)):
        record[name][0, 1:] = values.ravel()[:-1]
    record["size"] = (int(ids.max()) - FIRST_FED + 1) * LINKS * ROCS if len(ids) else 0
    record["n_unpack"] = SLOTS
    return record.tobytes()


def _chips(detector: Detector, used: NDArray[np.bool_], raw: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Chip number in the module of every connected ROC, from its affine map."""
    c = detector.cabling
    mine = np.stack([t[used].astype(np.int64) for t in (c.row0, c.row_step, c.col0, c.col_step)], 1)
    known = np.stack([t.astype(np.int64) for t in phase1.chip_orientation(raw)], 2)  # (entries, 16, 4)
    same = (known == mine[:, None, :]).all(axis=2)
    if not same.any(axis=1).all():
        at = int(c.module[used][np.argmin(same.any(axis=1))])
        raise ConditionsError(f"detector {detector.name}: a chip of module {at} is turned in a way that Phase-1 modules are not")
    if not np.array_equal(c.word_format[used], phase1.word_formats(raw)):
        raise ConditionsError(f"detector {detector.name}: word formats differ from Phase 1 (row and column in barrel layer 1 only)")
    return np.argmax(same, axis=1)


def _gain_bytes(detector: Detector) -> bytes:
    g = detector.gains
    cols = detector.topology.cols
    per_module = cols * ROW_BLOCKS * 2
    if g.codes.shape != (N_MODULES, 416, ROW_BLOCKS, 2) or g.rows_per_block != 80:
        raise ConditionsError(f"detector {detector.name}: gain table {g.codes.shape} cannot be written, expected {(N_MODULES, 416, ROW_BLOCKS, 2)}")
    head = np.zeros(1, _GAIN)
    begin = np.arange(N_MODULES, dtype=np.uint32) * per_module
    ranges = head["ranges"][0]
    ranges["begin"][:N_MODULES], ranges["end"][:N_MODULES], ranges["cols"][:N_MODULES] = begin, begin + per_module, cols
    bins = 253
    values = {
        "ped_min": g.pedestal_min,
        "ped_max": g.pedestal_min + bins * g.pedestal_precision,
        "gain_min": g.gain_min,
        "gain_max": g.gain_min + bins * g.gain_precision,
        "ped_precision": g.pedestal_precision,
        "gain_precision": g.gain_precision,
        "rows_averaged": g.rows_per_block,
        "bins": bins,
        "dead": g.dead,
        "noisy": g.noisy,
        "n_bytes": N_MODULES * per_module,
    }
    for name, value in values.items():
        head[name] = value
    return head.tobytes() + np.ascontiguousarray(g.codes, np.uint8).tobytes()


def _cpe_bytes(detector: Detector) -> bytes:
    m, t = detector.modules, detector.topology
    record = np.zeros(1, _CPE)
    for name, mask in (("thickness_barrel", m.is_barrel), ("thickness_disk", ~m.is_barrel)):
        values = np.unique(m.thickness[mask])
        if len(values) != 1:
            raise ConditionsError(f"detector {detector.name}: {len(values)} values of {name}, the format holds one")
        record[name] = values[0]
    record["pitch_x"], record["pitch_y"], record["n"] = t.pitch_x, t.pitch_y, N_MODULES
    out = record["modules"][0]
    out["is_barrel"], out["is_positive_z"] = m.is_barrel, m.position[:, 2] > 0
    out["layer"] = np.where(m.is_barrel, rawid.barrel_layer(m.raw_id), rawid.disk_number(m.raw_id))
    out["index"] = np.arange(N_MODULES)
    out["shift"] = np.stack([m.shift_x, m.shift_y], 1)
    out["charge_width"] = np.stack([m.charge_width_x, m.charge_width_y], 1)
    for name in ("raw_id", "origin", "sigma_x", "sigma_y", "position", "rotation"):
        out[name] = getattr(m, name)
    ladders = m.position[: 8 * _LADDERS].reshape(_LADDERS, 8, 3).astype(np.float64)
    half_length = float(t.edge_y[-1]) * t.pitch_y / 2
    x, y, z = ladders[..., 0], ladders[..., 1], ladders[..., 2]
    means = [z.mean(1), x.mean(1), y.mean(1), np.hypot(x, y).mean(1), z.min(1) - half_length, z.max(1) + half_length]
    record["ladders"][0] = np.stack(means)
    record["endcap_z"][0] = [m.position[layer.first : layer.first + layer.count, 2].mean() for layer in (detector.layers[4], detector.layers[7])]
    record["layer_start"][0] = [x.first for x in detector.layers] + [N_MODULES]
    record["layer_of_16"][0] = m.layer[::16]
    return record.tobytes()


def _beam_spot_bytes(b: BeamSpot) -> bytes:
    return np.array([b.x, b.y, b.z, b.sigma_z, b.sigma_x, b.sigma_y, 0, 0, 0, 0, 0], _BEAM_SPOT).tobytes()
