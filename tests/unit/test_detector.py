"""The built-in detector, and the conditions files of pixeltrack-standalone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hltfarm.proto.detector import NO_MODULE, WORD_ROW_COL, BeamSpot, load_detector, phase1, read_patatrack, write_patatrack
from hltfarm.proto.detector.phase1 import phase1_layers, topology
from hltfarm.proto.errors import ConditionsError
from tests.reference.detectors import small, troubled

FILES = {"fedIds.bin": 560, "cablingMap.bin": 1497732, "gain.bin": 3112436, "cpefast.bin": 211612, "beamspot.bin": 44}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conditions")
    write_patatrack(phase1(), path)
    return path


def test_phase1_has_the_published_numbers() -> None:
    d = phase1()
    assert d.n_modules == 1856
    assert [layer.count for layer in d.layers] == [96, 224, 352, 512] + [112] * 6
    assert d.cabling.module.shape == (139, 48, 8)
    assert int((d.cabling.module != NO_MODULE).sum()) == 1856 * 16
    assert (d.topology.rows, d.topology.cols) == (160, 416)
    assert phase1() is d


def test_phase1_does_not_change_unnoticed() -> None:
    """Samples and golden numbers refer to this digest; whoever changes the detector changes it here and makes new samples."""
    assert phase1().digest() == "c057ef77c267d09b"


def test_phase1_is_fast_to_build() -> None:
    begin = time.perf_counter()
    phase1.__wrapped__()
    assert time.perf_counter() - begin < 3.0  # 0.15 s on an idle core


def test_rotations_are_proper_and_half_of_the_modules_are_flipped() -> None:
    m = phase1().modules
    r = m.rotation.astype(np.float64)
    assert np.abs(np.einsum("nij,nkj->nik", r, r) - np.eye(3)).max() < 1e-6
    assert np.abs(np.linalg.det(r) - 1).max() < 1e-6
    outward = np.einsum("ni,ni->n", r[:, 2], m.position)
    assert (outward[m.is_barrel] > 0).mean() == 0.5
    assert ((r[:, 2, 2] * m.position[:, 2])[~m.is_barrel] > 0).mean() == 0.5


def test_modules_lie_where_the_layers_are() -> None:
    d = phase1()
    p = d.modules.position
    radius = np.hypot(p[:, 0], p[:, 1])
    for layer, mean in zip(d.layers[:4], (2.9, 6.8, 10.9, 16.0), strict=True):
        mine = radius[layer.first : layer.first + layer.count]
        assert mine.mean() == pytest.approx(mean, abs=0.01)
        assert np.ptp(mine) == pytest.approx(0.32, abs=0.01)
    for layer in d.layers[4:]:
        z = p[layer.first : layer.first + layer.count, 2]
        assert np.abs(z).min() > 29.5
        assert np.abs(z).max() < 51.5
        assert (np.sign(z) == (1 if "+" in layer.name else -1)).all()


def test_barrel_ladders_overlap_in_phi() -> None:
    """A straight line from the beam crosses every layer, whatever its azimuth."""
    d = phase1()
    half = d.topology.pitch_x * d.topology.centre_x
    for layer in d.layers[:4]:
        p = d.modules.position[layer.first : layer.first + layer.count : 8]
        centre, reach = np.arctan2(p[:, 1], p[:, 0]), np.arctan(half / np.hypot(p[:, 0], p[:, 1]))
        phi = np.linspace(-np.pi, np.pi, 2000)
        distance = np.abs((phi[:, None] - centre + np.pi) % (2 * np.pi) - np.pi)
        assert (distance < reach).any(axis=1).all()


def test_origin_is_the_detector_centre_in_the_local_frame() -> None:
    m = phase1().modules
    back = np.einsum("nji,nj->ni", m.rotation.astype(np.float64), m.origin.astype(np.float64)) + m.position
    assert np.abs(back).max() < 1e-5


def test_lorentz_drift_and_errors_are_of_realistic_size() -> None:
    m = phase1().modules
    assert np.array_equal(m.shift_x * 2, m.charge_width_x)
    width = np.abs(m.charge_width_x[m.is_barrel]) * 1e4
    assert (width.min(), width.max()) == pytest.approx((70.6, 108.6), abs=0.5)
    assert np.abs(m.charge_width_y[m.is_barrel]).max() < 1e-8
    assert np.abs(m.charge_width_y[~m.is_barrel]).min() > 15e-4
    for sigma, pitch in ((m.sigma_x, 0.01), (m.sigma_y, 0.015)):
        assert sigma.min() >= 3e-4
        assert (sigma[:, 1] <= pitch / 12**0.5 * 1.0001).all()
        assert (sigma[:, 2] <= 2 * pitch / 12**0.5 * 1.0001).all()


def test_double_pixels() -> None:
    t = topology()
    assert np.flatnonzero(np.diff(t.edge_x) == 2).tolist() == [79, 80]
    assert np.flatnonzero(np.diff(t.edge_y) == 2).tolist() == sorted([52 * k for k in range(8)] + [52 * k + 51 for k in range(8)])
    assert (t.edge_x[-1], t.edge_y[-1], t.centre_x, t.centre_y) == (162, 432, 81, 216)


def test_chips_tile_every_module() -> None:
    d = phase1()
    c = d.cabling
    used = c.module != NO_MODULE
    hits = np.zeros((d.n_modules, 160, 416), np.uint8)
    r, col = np.arange(80), np.arange(52)
    for fed, link, roc in np.argwhere(used)[::7]:  # every seventh: enough to meet all chips and orientations
        at = (fed, link, roc)
        rows, cols = c.row0[at] + c.row_step[at] * r, c.col0[at] + c.col_step[at] * col
        hits[c.module[at]][np.ix_(rows, cols)] += 1
    assert hits.max() == 1
    assert (c.word_format[used] == WORD_ROW_COL).sum() == 96 * 16


def test_written_files_have_the_documented_sizes(written: Path) -> None:
    assert {p.name: p.stat().st_size for p in written.iterdir()} == FILES


def test_round_trip_through_files(written: Path) -> None:
    assert replace(read_patatrack(written), name="phase1").digest() == phase1().digest()


def test_round_trip_keeps_disabled_and_unconnected_chips(tmp_path: Path) -> None:
    base = phase1()
    c = base.cabling
    rng = np.random.default_rng(5)
    module, disabled = c.module.copy(), (rng.integers(0, 4, c.module.shape) * (c.module != NO_MODULE)).astype(np.uint8)
    tables = {n: getattr(c, n).copy() for n in ("word_format", "row0", "row_step", "col0", "col_step")}
    gone = rng.random(module.shape) < 0.1
    module[gone] = NO_MODULE
    for table in (*tables.values(), disabled):
        table[gone] = 0
    d = replace(base, name="patatrack", cabling=replace(c, module=module, disabled=disabled, **tables), beam_spot=BeamSpot(0.5, -0.25, 1.0))
    d = replace(d, beam_spot=replace(d.beam_spot, sigma_x=0.5, sigma_y=0.25))
    write_patatrack(d, tmp_path)
    assert read_patatrack(tmp_path).digest() == d.digest()


def test_real_files_survive_byte_by_byte(pixel_sample: Path, tmp_path: Path) -> None:
    write_patatrack(read_patatrack(pixel_sample), tmp_path)
    for name, size in FILES.items():
        mine, theirs = (tmp_path / name).read_bytes(), (pixel_sample / name).read_bytes()
        checked = 20 + 1856 * 112 if name == "cpefast.bin" else size  # then come averages that only unused code reads
        assert mine[:checked] == theirs[:checked], name
        assert len(mine) == len(theirs)


def test_built_in_detector_resembles_the_real_one(pixel_sample: Path) -> None:
    mine, real = phase1(), read_patatrack(pixel_sample)
    assert np.array_equal(mine.modules.raw_id, real.modules.raw_id)
    assert np.linalg.norm(mine.modules.position - real.modules.position, axis=1).max() < 0.3
    cosines = np.einsum("nij,nij->ni", mine.modules.rotation, real.modules.rotation)
    assert cosines.min() > 0.999
    for name in ("charge_width_x", "charge_width_y"):
        assert np.abs(getattr(mine.modules, name) - getattr(real.modules, name)).max() < 0.1e-4
    for name in ("module", "row0", "row_step", "col0", "col_step", "word_format"):
        assert np.array_equal(getattr(mine.cabling, name), getattr(real.cabling, name))


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(written: Path, tmp_path: Path, name: str) -> None:
    for other in FILES:
        if other != name:
            (tmp_path / other).write_bytes((written / other).read_bytes())
    with pytest.raises(ConditionsError, match=f"{name}: cannot be read"):
        read_patatrack(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [-1, -40, 4])
def test_wrong_size_is_told(written: Path, tmp_path: Path, name: str, change: int) -> None:
    for other in FILES:
        data = (written / other).read_bytes()
        if other == name:
            data = data[:change] if change < 0 else data + bytes(change)
        (tmp_path / other).write_bytes(data)
    with pytest.raises(ConditionsError, match=rf"{name}: {FILES[name] + change} bytes, expected {FILES[name]}") as error:
        read_patatrack(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "offset", "value", "message"),
    [
        ("fedIds.bin", 4, 1100, "FED 1100 is outside"),
        ("fedIds.bin", 8, 1200, "repeat"),
        ("cablingMap.bin", 691200 + 4, 0x12101008, "module 0 has another identifier"),
        ("cablingMap.bin", 1152000 + 4, 5000, "a module above 1855"),
        ("cablingMap.bin", 921600 + 4, 16, "a chip above 15"),
        ("cablingMap.bin", 1440128, 7, "unpacking table of 7 entries"),
        ("gain.bin", 8, 4, "not 416 columns"),
        ("gain.bin", 24028, 0x7FC00000, "not finite"),
        ("cpefast.bin", 16, 1855, "1855 modules, expected 1856"),
        ("cpefast.bin", 20 + 64, 0x7FC00000, "module 0 has a position that is not finite"),
        ("cpefast.bin", 20 + 4, 9, "not in Phase-1 order"),
        ("beamspot.bin", 8, 0x7F800000, "not finite"),
    ],
)
def test_inconsistent_files_are_told(written: Path, tmp_path: Path, name: str, offset: int, value: int, message: str) -> None:
    for other in FILES:
        data = bytearray((written / other).read_bytes())
        if other == name:
            data[offset : offset + 4] = value.to_bytes(4, "little")
        (tmp_path / other).write_bytes(data)
    with pytest.raises(ConditionsError, match=message) as error:
        read_patatrack(tmp_path)
    assert name in str(error.value)


def test_detectors_that_the_format_cannot_hold(tmp_path: Path) -> None:
    base = phase1()
    turned = replace(base.cabling, row_step=-base.cabling.row_step)
    wrong_words = replace(base.cabling, word_format=np.zeros_like(base.cabling.word_format))
    other_feds = replace(base.cabling, fed_ids=base.cabling.fed_ids + np.uint16(300))
    for detector, message in (
        (small(), "cannot be written"),
        (replace(base, cabling=turned), "turned in a way"),
        (replace(base, cabling=wrong_words), "word formats differ"),
        (replace(base, cabling=other_feds), "FEDs 1500..1638"),
    ):
        with pytest.raises(ConditionsError, match=message):
            write_patatrack(detector, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_load_detector(written: Path, tmp_path: Path) -> None:
    assert load_detector("phase1") is phase1()
    assert load_detector(str(written)).n_modules == 1856
    for nothing in ("nothing", "n" * 300, "no\0thing"):
        with pytest.raises(ConditionsError, match="neither 'phase1' nor a detector file"):
            load_detector(str(tmp_path / nothing))


def test_digest_sees_every_table() -> None:
    base = phase1()
    assert troubled().digest() != base.digest()
    assert replace(base, field_tesla=0.0).digest() != base.digest()
    assert base.layers == phase1_layers()
