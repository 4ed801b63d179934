"""Conditions files of pixeltrack-standalone: fedIds.bin, cablingMap.bin, gain.bin, cpefast.bin, beamspot.bin.

Little-endian memory dumps without magic or version, so sizes and cross-references are all that can be checked; every doubt is a
ConditionsError that names the file. Floats are taken as they are: a detector read here computes the same bits as the original programs.
Writing: patatrack_writer.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

CABLING_RECORD = np.dtype(
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
GAIN_RECORD = np.dtype(
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
MODULE_RECORD = np.dtype(
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
N_LADDERS = 148
CPE_RECORD = np.dtype(
    [
        ("thickness_barrel", "<f4"),
        ("thickness_disk", "<f4"),
        ("pitch_x", "<f4"),
        ("pitch_y", "<f4"),
        ("n", "<u4"),
        ("modules", MODULE_RECORD, N_MODULES),
        ("ladders", "<f4", (6, N_LADDERS)),  # mean z, x, y, r, least z, largest z
        ("endcap_z", "<f4", 2),
        ("layer_start", "<u4", 11),
        ("layer_of_16", "u1", 116),
    ]
)
BEAM_SPOT_RECORD = np.dtype("<f4")
_FILES_HINT = "the directory needs fedIds.bin, cablingMap.bin, gain.bin, cpefast.bin and beamspot.bin of pixeltrack-standalone"


def read_patatrack(directory: str | Path) -> Detector:
    """The detector that the five conditions files in `directory` describe.

    Raises ConditionsError if a file is missing, has another size than the Phase-1 layout, or contradicts itself or another file.
    """
    path = Path(directory)
    cpe = _record(path / "cpefast.bin", CPE_RECORD)
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
    return np.asarray(ids, np.uint16)


def _read_cabling(directory: Path, modules: Modules) -> Cabling:
    path = directory / "cablingMap.bin"
    fed_ids = _read_fed_ids(directory / "fedIds.bin")
    record = _record(path, CABLING_RECORD)
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
    out: list[NDArray[Any]] = [np.zeros(module.shape, t) for t in (np.int16, np.int8, np.int16, np.int8)]
    for k, values in enumerate(phase1.chip_orientation(modules.raw_id)):
        out[k][used] = values[m, d]
    numbers = np.full(module.shape, NO_MODULE, np.uint16)
    numbers[used] = m
    formats = np.zeros(module.shape, np.uint8)
    formats[used] = phase1.word_formats(modules.raw_id)[m]
    disabled = ((table("bad") == 1) * 1 + (table("skip") == 1) * 2).astype(np.uint8)
    disabled[~used] = 0
    row0, row_step, col0, col_step = out
    return Cabling(fed_ids, numbers, formats, row0, row_step, col0, col_step, disabled)


def _read_gains(path: Path) -> GainCalibration:
    data = _bytes(path)
    cols, per_module = 416, 416 * ROW_BLOCKS * 2
    expected = GAIN_RECORD.itemsize + N_MODULES * per_module
    if len(data) != expected:
        raise ConditionsError(f"{path}: {len(data)} bytes, expected {expected}: truncated or not a Phase-1 file; copy it again")
    head = np.frombuffer(data, GAIN_RECORD, 1)[0]
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
    gain_min, gain_precision, ped_min, ped_precision = (float(head[x]) for x in ("gain_min", "gain_precision", "ped_min", "ped_precision"))
    if not np.isfinite([gain_min, gain_precision, ped_min, ped_precision]).all():
        raise ConditionsError(f"{path}: gain or pedestal range is not finite; copy the file again")
    codes = np.frombuffer(data, np.uint8, offset=GAIN_RECORD.itemsize).reshape(N_MODULES, cols, ROW_BLOCKS, 2)
    return GainCalibration(
        codes=codes,
        rows_per_block=int(head["rows_averaged"]),
        gain_min=gain_min,
        gain_precision=gain_precision,
        pedestal_min=ped_min,
        pedestal_precision=ped_precision,
        dead=int(head["dead"]),
        noisy=int(head["noisy"]),
    )


def _read_beam_spot(path: Path) -> BeamSpot:
    data = _bytes(path)
    if len(data) != 44:
        raise ConditionsError(f"{path}: {len(data)} bytes, expected 44: truncated; copy it again")
    x, y, z, sigma_z, sigma_x, sigma_y = (float(v) for v in np.frombuffer(data, BEAM_SPOT_RECORD)[:6])
    if not np.isfinite([x, y, z]).all():
        raise ConditionsError(f"{path}: position is not finite; copy the file again")
    return BeamSpot(x, y, z, sigma_x, sigma_y, sigma_z)
