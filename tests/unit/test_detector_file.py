"""Detector files: what they may say, what the reconstruction makes of it, and that nothing but the file is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hltfarm.loadgen.detector_block import pack_detector, unpack_detector
from hltfarm.loadgen.straight import straight_tracks
from hltfarm.proto.detector import Detector, load_detector, parse_detector, phase1
from hltfarm.proto.errors import ConditionsError, ConfigError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import pack_event, unpack_event
from hltfarm.service.ingest.canary import EMPTY_TABLE, payload_for
from hltfarm.workers.configuration import DEFAULT, PATATRACK_PHASE1, with_models
from hltfarm.workers.detector_cuts import for_detector
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor
from tests.reference.backends import BACKENDS
from tests.reference.detectors import small, troubled

FILE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "my-detector.yaml"


def said() -> dict[str, Any]:
    """The file of the tutorial as plain data, to be changed."""
    return dict(yaml.safe_load(FILE.read_text()))


def detector_of(data: dict[str, Any]) -> Detector:
    return parse_detector(yaml.safe_dump(data))


@pytest.fixture(scope="module")
def mine() -> Detector:
    return load_detector(str(FILE))


def test_the_tutorials_file_is_what_it_says(mine: Detector) -> None:
    assert [layer.count for layer in mine.layers] == [220, 420, 792, 1260]
    assert mine.cabling.module.shape == (113, 24, 12)
    r = mine.modules.rotation.astype(np.float64)
    assert np.abs(np.einsum("nij,nkj->nik", r, r) - np.eye(3)).max() < 1e-6
    assert np.abs(np.linalg.det(r) - 1).max() < 1e-6
    assert mine.digest() == load_detector(str(FILE)).digest() != phase1().digest()


def test_a_sample_carries_it_whole(mine: Detector) -> None:
    again = unpack_detector(pack_detector(mine))
    assert again.digest() == mine.digest()
    assert again.reconstruction == mine.reconstruction != ""


def test_cuts_are_part_of_the_digest_and_their_absence_is_not(mine: Detector) -> None:
    assert replace(mine, reconstruction="").digest() != mine.digest()
    assert phase1().reconstruction == ""
    assert b"reconstruction" not in pack_detector(small())


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_pixel_comes_back_from_the_raw_words(mine: Detector, backend: str) -> None:
    rng = np.random.default_rng(4)
    flat = rng.choice(mine.n_modules * 200 * 300, 5000, replace=False)
    module, rest = np.divmod(flat, 200 * 300)
    row, col = np.divmod(rest, 300)
    payload = pack_event(mine, module, row, col, rng.integers(100, 256, len(flat)))
    expected = set(zip(module.tolist(), row.tolist(), col.tolist(), strict=True))
    plain = unpack_event(mine, payload)
    assert set(zip(plain.module.tolist(), plain.row.tolist(), plain.col.tolist(), strict=True)) == expected
    with Reconstructor(mine, Menu.parse(DEFAULT_MENU), backend=backend, threads=1) as reconstructor:
        digis = reconstructor.run([RawEvent(EventId(1, 1, 1, 1), payload)], keep=True).digis(0)
    assert set(zip(*(digis[name].tolist() for name in ("module", "row", "col")), strict=True)) == expected
    assert ((digis["charge"] >= 95 * 120) & (digis["charge"] <= 250 * 120)).all()


def test_straight_tracks_are_found(mine: Detector) -> None:
    for detector, tracks in ((mine, 100), (phase1(), 80)):
        event = RawEvent(EventId(1, 1, 1, 1), straight_tracks(detector, 100, max_slope=1.0))
        with Reconstructor(detector, Menu.parse(DEFAULT_MENU), backend="cpu", threads=1) as reconstructor:
            assert reconstructor.run([event]).results["tracks"][0] >= tracks
    for detector in (small(), troubled()):  # gaps in the cabling are no obstacle
        assert unpack_event(detector, straight_tracks(detector)).module.size >= 0


def test_the_canary_of_such_a_farm_has_tracks(tmp_path: Path) -> None:
    assert payload_for(str(FILE)) == straight_tracks(load_detector(str(FILE))).tobytes()
    assert payload_for(str(tmp_path / "elsewhere.yaml")) == EMPTY_TABLE


def test_modules_one_by_one_are_those_of_the_formula(mine: Detector) -> None:
    data = said()
    layer = mine.layers[0]
    modules = [
        {
            "centre_cm": mine.modules.position[m].astype(float).tolist(),
            "x_axis": (3 * mine.modules.rotation[m, 0].astype(float)).tolist(),  # of any length
            "y_axis": mine.modules.rotation[m, 1].astype(float).tolist(),
        }
        for m in range(layer.first, layer.first + layer.count)
    ]
    data["layers"][0] = {"name": "L1", "modules": modules}
    placed = detector_of(data)
    assert np.abs(placed.modules.position - mine.modules.position).max() < 1e-5
    assert np.abs(placed.modules.rotation - mine.modules.rotation).max() < 1e-6
    assert placed.layers == mine.layers


def test_disks_face_outwards_on_both_sides() -> None:
    data = said()
    rings = [{"radius_cm": 5.0, "modules": 20}, {"radius_cm": 9.0, "modules": 36, "phi_deg": 5.0}]
    data["layers"] += [
        {"name": f"D{side}", "disk": {"z_cm": z, "stagger_cm": 0.4, "rings": rings}} for side, z in (("+", 36.0), ("-", -36.0))
    ]
    data["reconstruction"]["pairs"].append({"inner": "L1", "outer": "D+"})
    detector = detector_of(data)
    disks = detector.modules.position[~detector.modules.is_barrel]
    assert disks.shape == (112, 3)
    assert np.unique(np.abs(disks[:, 2])) == pytest.approx([36.0, 36.4])
    assert (detector.modules.rotation[~detector.modules.is_barrel][:, 2, 2] * disks[:, 2] > 0).all()
    assert for_detector(DEFAULT, detector).cells.pairs[-1].outer == "D+"


def test_a_configuration_follows_the_detector(mine: Detector) -> None:
    config = for_detector(DEFAULT, mine)
    assert for_detector(config, mine) == config
    assert for_detector(DEFAULT, phase1()) is DEFAULT
    assert config.cells.min_radius_cm == pytest.approx(0.5 / (0.00299792458 * 2.0))
    assert config.cells.max_z0_cm == pytest.approx(9.0)
    assert [p.inner + p.outer for p in config.cells.pairs] == ["L1L2", "L2L3", "L3L4", "L1L3", "L2L4"]
    pair = config.cells.pairs[0]
    assert pair.min_z == pytest.approx(-23, abs=0.1)
    assert pair.max_dr == pytest.approx(6.12 - 2.9 + 0.5, abs=0.02)
    assert for_detector(PATATRACK_PHASE1, mine).fit.field_gev_per_cm is None


def test_shipped_models_are_left_out_unless_they_are_asked_for(mine: Detector) -> None:
    assert for_detector(DEFAULT, mine).selection.model is None
    assert for_detector(DEFAULT, mine).selection.event_model is None
    assert for_detector(with_models(DEFAULT, model="track-mlp"), mine).selection.model == "track-mlp"
    assert for_detector(with_models(DEFAULT, event_model="event-mlp"), mine).selection.event_model == "event-mlp"


def test_cuts_of_the_file_are_taken() -> None:
    data = said()
    data["reconstruction"] |= {"tracks": {"pt_min_gev": 1}, "fit": {"max_tip_cm": 0.2}, "selection": {"hard_min_pt_gev": 3.0}}
    data["reconstruction"]["pairs"][0] |= {"phi_cut_rad": 0.1, "min_z_cm": -10, "max_dr_cm": 4.5, "starts_tracks": False}
    config = for_detector(DEFAULT, detector_of(data))
    assert (config.tracks.pt_min_gev, config.fit.max_tip_cm, config.selection.hard_min_pt_gev) == (1.0, 0.2, 3.0)
    pair = config.cells.pairs[0]
    assert (pair.phi_cut, pair.min_z, pair.max_dr, pair.starts_tracks) == (1043, -10.0, 4.5, False)


FAULTS: list[tuple[str, Any, str]] = [
    ("version", 2, "version 2 is unknown"),
    ("name", "phase1", "built-in detector's"),
    ("field_tesla", 0, "a field of 0"),
    ("layers", [], "no layers"),
    ("sensor.rows", 201, "rows 201 is not a multiple of chip_rows 100"),
    ("sensor.chip_rows", 200, "chip_rows 200; a pixel word can name 1 to 128"),
    ("sensor.pitch_x_cm", 0, "must be positive"),
    ("sensor.pitch_x_cm", "wide", r"Expected `float`.*\$.sensor.pitch_x_cm"),
    ("sensor.pich_x_cm", 1.0, "unknown field `pich_x_cm`"),
    ("sensor.error_scale_x", 0, "error_scale_x"),
    ("calibration.electrons_per_adc", 0, "electrons_per_adc"),
    ("readout.modules_per_fed", 64, "64 modules a FED; with 12 chips a module 1 to 63"),
    ("readout.first_fed", 4000, "FEDs 4000 to 4112; ids go from 0 to 4095"),
    ("layers.1.name", "L1", "two layers have one name"),
    ("layers.0.barrel.ladders", 0, "layer L1: ladders"),
    ("layers.0.disk", {"z_cm": 3, "rings": []}, "layer L1: give one of barrel, disk and modules"),
    ("layers.0", {"name": "L1", "disk": {"z_cm": 3, "rings": []}}, "layer L1: no rings"),
    ("layers.0", {"name": "L1", "modules": [{"centre_cm": [3, 0, 0], "x_axis": [0, 1, 0], "y_axis": [0, 2, 0]}]}, "parallel"),
    ("layers.0", {"name": "L1", "modules": [{"centre_cm": [0, 0, 0], "x_axis": [0, 1, 0], "y_axis": [0, 0, 1]}]}, "origin"),
]


@pytest.mark.parametrize(("place", "value", "message"), FAULTS)
def test_faults_are_told_with_their_place(place: str, value: object, message: str) -> None:
    data: Any = said()
    *path, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
    at = data
    for key in path:
        at = at[key]
    at[last] = value
    with pytest.raises(ConditionsError, match=message) as error:
        detector_of(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reconstruction", "message"),
    [
        ({"pairs": []}, "without layer pairs there are no tracks"),
        ({"tracks": {}}, "without layer pairs"),
        ({"pairs": [{"inner": "L1", "outer": "L9"}]}, "no layer 'L9'; there are L1, L2, L3, L4"),
        ({"pairs": [{"inner": "L1"}]}, "required field `outer`"),
        ({"pears": []}, "pears unknown"),
        ({"tracks": {"pt": 1.0}}, r"reconstruction.tracks: 'pt' unknown; known are theta_cut_barrel"),
        ({"tracks": {"pt_min_gev": "low"}}, "pt_min_gev: 'low' is no float"),
        ({"selection": {"model": "mine"}}, "'model' unknown"),
        ({"fit": 3}, "a mapping of"),
    ],
)
def test_faults_of_the_reconstruction_are_told(reconstruction: dict[str, Any], message: str) -> None:
    data = said()
    pairs = {} if message.startswith("without") else {"pairs": data["reconstruction"]["pairs"]}
    data["reconstruction"] = pairs | reconstruction
    with pytest.raises(ConfigError, match=message):
        for_detector(DEFAULT, detector_of(data))


def test_files_that_are_none(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    with pytest.raises(ConditionsError, match="cannot be read"):
        load_detector(str(bad))
    bad.write_text("a: [1")
    with pytest.raises(ConditionsError, match="not YAML"):
        load_detector(str(bad))
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConditionsError, match="not UTF-8"):
        load_detector(str(bad))
    bad.write_text("just a text")
    with pytest.raises(ConditionsError, match="Expected `object`"):
        load_detector(str(bad))
