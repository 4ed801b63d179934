"""Writes the conditions files of pixeltrack-standalone (layouts: patatrack.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import phase1, rawid
from hltfarm.proto.detector.description import NO_MODULE, BeamSpot, Detector
from hltfarm.proto.detector.patatrack import (
    BEAM_SPOT_RECORD,
    CABLING_RECORD,
    CPE_RECORD,
    FIRST_FED,
    GAIN_RECORD,
    LINKS,
    MAX_FEDS,
    N_LADDERS,
    N_MODULES,
    NONE,
    ROCS,
    ROW_BLOCKS,
    SLOTS,
)
from hltfarm.proto.errors import ConditionsError


def write_patatrack(detector: Detector, directory: str | Path) -> None:
    """Write the five conditions files of a Phase-1 detector, for `read_patatrack` (same tables) and the original programs.

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
    record = np.zeros(1, CABLING_RECORD)

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
    put("bad", 1, used, c.disabled[used] & 1)
    put("skip", 1, used, c.disabled[used] >> 1 & 1)
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
    return np.asarray(np.argmax(same, axis=1), np.int64)


def _gain_bytes(detector: Detector) -> bytes:
    g = detector.gains
    cols = detector.topology.cols
    per_module = cols * ROW_BLOCKS * 2
    if g.codes.shape != (N_MODULES, 416, ROW_BLOCKS, 2) or g.rows_per_block != 80:
        raise ConditionsError(
            f"detector {detector.name}: gain table {g.codes.shape} cannot be written, expected {(N_MODULES, 416, ROW_BLOCKS, 2)}"
        )
    head = np.zeros(1, GAIN_RECORD)
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
    record = np.zeros(1, CPE_RECORD)
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
    ladders = m.position[: 8 * N_LADDERS].reshape(N_LADDERS, 8, 3).astype(np.float64)
    half_length = float(t.edge_y[-1]) * t.pitch_y / 2
    x, y, z = ladders[..., 0], ladders[..., 1], ladders[..., 2]
    means = [z.mean(1), x.mean(1), y.mean(1), np.hypot(x, y).mean(1), z.min(1) - half_length, z.max(1) + half_length]
    record["ladders"][0] = np.stack(means)
    record["endcap_z"][0] = [
        m.position[layer.first : layer.first + layer.count, 2].mean() for layer in (detector.layers[4], detector.layers[7])
    ]
    record["layer_start"][0] = [x.first for x in detector.layers] + [N_MODULES]
    record["layer_of_16"][0] = m.layer[::16]
    return record.tobytes()


def _beam_spot_bytes(b: BeamSpot) -> bytes:
    return np.array([b.x, b.y, b.z, b.sigma_z, b.sigma_x, b.sigma_y, 0, 0, 0, 0, 0], BEAM_SPOT_RECORD).tobytes()
