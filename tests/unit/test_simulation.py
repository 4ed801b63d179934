"""Detector simulation: helices, charge, read-out, truth. Collisions come from a particle gun; Pythia is in test_simulate.py."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.simulation import deposit as deposition
from hltfarm.loadgen.simulation import geometry, helix, material
from hltfarm.loadgen.simulation.config import FaultConfig, SecondaryConfig, SensorConfig, SimulationConfig, TrackingConfig
from hltfarm.loadgen.simulation.deposit import Steps, deposit, landau
from hltfarm.loadgen.simulation.digitize import adc_of, collect, drift
from hltfarm.loadgen.simulation.event import Simulator
from hltfarm.loadgen.simulation.generator import Pool, Progress
from hltfarm.loadgen.simulation.particles import ELECTRON_MASS, PION_MASS, PROTON_MASS, Crossings, Particles
from hltfarm.loadgen.simulation.propagate import propagate
from hltfarm.proto.detector import Detector, phase1
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.raw import ROC_FIRST_ERROR, split_payload, unpack_event

VACUUM = TrackingConfig(x0_pipe=0, x0_barrel=0, x0_disk=0, x0_outer=0)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return phase1()


@pytest.fixture(scope="module")
def planes(detector: Detector) -> geometry.Geometry:
    return geometry.build(detector)


def gun(n: int, pt: tuple[float, float], eta: float, *, mass: float = PION_MASS, pdg: int = 211, seed: int = 1) -> Particles:
    """Charged particles from the luminous region."""
    rng = np.random.default_rng(seed)
    charge = np.where(rng.random(n) < 0.5, 1, -1)
    value, phi, eta_ = rng.uniform(*pt, n), rng.uniform(-np.pi, np.pi, n), rng.uniform(-eta, eta, n)
    momentum = value[:, None] * np.stack([np.cos(phi), np.sin(phi), np.sinh(eta_)], axis=1)
    position = rng.standard_normal((n, 3)) * [0.002, 0.002, 4.0]
    return Particles(
        np.zeros(n, np.int32),
        (pdg * charge).astype(np.int32),
        charge.astype(np.int8),
        np.full(n, mass),
        position,
        momentum,
        np.zeros(n, np.int8),
    )


def run_gun(particles: Particles, planes: geometry.Geometry, config: TrackingConfig = VACUUM, seed: int = 1) -> Crossings:
    return propagate(particles, planes, config, np.random.default_rng(seed))[0]


class GunSimulator(Simulator):
    """A simulator whose collisions are made by the gun: no generator needed."""

    def block(self, process: str, index: int, events: int, progress: Progress | None = None) -> Pool:
        p = gun(events * 12, (0.1, 3.0), 2.5, seed=index + 100 * (process == "ttbar"))
        pdg = p.pdg.copy()
        pdg[::3] = 22
        charge = np.where(pdg == 22, 0, p.charge).astype(np.int8)
        vertex = np.zeros((len(p), 3), np.float32)
        mass = p.mass.astype(np.float32) * (charge != 0)
        return Pool(np.arange(events + 1) * 12, pdg, charge, mass, p.momentum.astype(np.float32), vertex)


# --- helices and planes


@pytest.mark.parametrize("pt", [(0.06, 0.3), (0.5, 2.0), (50.0, 500.0)])
def test_crossings_lie_on_plane_and_helix(planes: geometry.Geometry, pt: tuple[float, float]) -> None:
    particles = gun(300, pt, 2.4)
    c = run_gun(particles, planes)
    assert len(c) > 300
    normal = planes.rotation[c.module, 2]
    assert np.abs(np.einsum("ij,ij->i", normal, c.point - planes.position[c.module])).max() < 1e-6
    m, start = particles.momentum[c.particle], particles.position[c.particle]
    p_t = np.hypot(m[:, 0], m[:, 1])
    radius = p_t / (helix.LIGHT * planes.field_tesla)
    turn = -np.sign(particles.charge[c.particle])  # positive: clockwise
    centre = start[:, :2] + (turn * radius / p_t)[:, None] * np.stack([-m[:, 1], m[:, 0]], axis=1)
    assert np.abs(np.linalg.norm(c.point[:, :2] - centre, axis=1) - radius).max() < 1e-6
    a = np.arctan2(*(start[:, :2] - centre).T[::-1])
    b = np.arctan2(*(c.point[:, :2] - centre).T[::-1])
    turns = (c.point[:, 2] - start[:, 2]) / (m[:, 2] / p_t * radius) * turn - (b - a)
    assert np.abs(turns - 2 * np.pi * np.round(turns / (2 * np.pi))).max() < 1e-6  # z advances with the angle


@pytest.mark.parametrize(("pt", "least"), [((0.15, 0.4), 0.995), ((1.0, 20.0), 1.0)])
def test_every_module_on_the_way_out_is_found(planes: geometry.Geometry, pt: tuple[float, float], least: float) -> None:
    """Against the slow way: every module's plane, sign changes along a finely sampled helix."""
    particles = gun(60, pt, 2.4, seed=3)
    c = run_gun(particles, planes)
    expected = found = 0
    for i in range(len(particles)):
        m, start = particles.momentum[i], particles.position[i]
        p_t = float(np.hypot(m[0], m[1]))
        h = float(-particles.charge[i] * helix.LIGHT * planes.field_tesla / p_t)
        s = np.arange(0.0, min(60.0, 0.98 * np.pi / abs(h)), 0.05)
        phi = np.arctan2(m[1], m[0]) + h * s
        x = start[0] + (np.sin(phi) - np.sin(phi[0])) / h
        y = start[1] - (np.cos(phi) - np.cos(phi[0])) / h
        points = np.stack([x, y, start[2] + s * m[2] / p_t], axis=1)
        height = points @ planes.rotation[:, 2].T - np.einsum("ij,ij->i", planes.rotation[:, 2], planes.position)
        step, module = np.nonzero(height[:-1] * height[1:] < 0)
        f = height[step, module] / (height[step, module] - height[step + 1, module])
        at = points[step] * (1 - f)[:, None] + points[step + 1] * f[:, None]
        local = np.einsum("nij,nj->ni", planes.rotation[module, :2], at - planes.position[module])
        inside = (np.abs(local) < np.array([planes.half_x, planes.half_y]) - 0.002).all(axis=1)
        mine = set(c.module[(c.particle == i)].tolist())
        truth = set(module[inside].tolist())
        expected += len(truth)
        found += len(truth & mine)
    assert expected > 150
    assert found / expected >= least


def test_positive_charge_turns_clockwise() -> None:
    h = helix.curvature(np.array([1.0, -1.0]), np.array([1.0, 1.0]), 3.8112)
    assert h[0] < 0 < h[1]
    assert 1 / h[1] == pytest.approx(87.52, abs=0.01)


def test_loopers_turn_until_they_stop(planes: geometry.Geometry) -> None:
    particles = gun(200, (0.12, 0.16), 0.3)
    limit = TrackingConfig().max_half_turns
    empty, real = run_gun(particles, planes), run_gun(particles, planes, TrackingConfig())
    assert empty.half_turn.max() == limit - 1
    assert real.half_turn.max() < limit
    assert 1.5 * len(particles) < len(real) < 0.8 * len(empty)
    fast = run_gun(gun(200, (5.0, 6.0), 0.3), planes, TrackingConfig())
    assert fast.half_turn.max() == 0


def test_slow_protons_stop(planes: geometry.Geometry) -> None:
    slow = run_gun(gun(200, (0.10, 0.12), 0.3, mass=PROTON_MASS, pdg=2212), planes, TrackingConfig())
    fast = run_gun(gun(200, (1.0, 1.2), 0.3, mass=PROTON_MASS, pdg=2212), planes, TrackingConfig())
    assert len(slow) < 0.5 * len(fast)


def test_energy_loss() -> None:
    mass = np.full(3, PROTON_MASS)
    p = np.array([0.2, 0.5, 5.0])
    after = material.ionise(p, mass, np.full(3, 0.02), TrackingConfig())
    assert (after < p).all()
    assert (np.diff((p - after) / p) < 0).all()  # slow ones lose more
    assert material.kinetic(p[2:], mass[2:]) - material.kinetic(after[2:], mass[2:]) == pytest.approx(0.001, rel=0.2)
    assert material.ionise(np.array([0.05]), mass[:1], np.array([0.5]), TrackingConfig())[0] == 0.0
    assert material.scattering_angle(np.array([1.0]), np.array([PION_MASS]), np.array([0.02]))[0] == pytest.approx(1.65e-3, rel=0.05)


def test_central_tracks_cross_four_layers(detector: Detector, planes: geometry.Geometry) -> None:
    """Gaps between sensors cost 3.3 % a layer: 87 - 88 % of central tracks cross four."""
    particles = gun(2000, (2.0, 5.0), 0.8)
    c = run_gun(particles, planes)
    crossed = np.zeros((len(particles), len(detector.layers)), bool)
    crossed[c.particle, detector.modules.layer[c.module]] = True
    assert crossed[:, :4].all(axis=1).mean() == pytest.approx(0.875, abs=0.03)


# --- charge and read-out


def test_landau_is_landau() -> None:
    """Median and quartiles of Landau's law, lambda scale (Kolbig and Schorr, 1984)."""
    q = np.percentile(landau(400_000, np.random.default_rng(1)), [25, 50, 75])
    assert q == pytest.approx([-0.204, 1.356, 4.458], abs=0.04)


def test_charge_of_a_minimum_ionising_particle() -> None:
    n, config = 4000, SensorConfig()
    zero = np.zeros((n, 2))
    thick, mass, rng = np.full(n, 0.0285), np.full(n, PION_MASS), np.random.default_rng(1)
    steps = deposit(zero, zero, thick, np.full(n, 0.5), mass, config, rng)
    charge = np.bincount(steps.crossing, steps.electrons, minlength=n)
    counts, edges = np.histogram(charge, np.arange(14_000, 40_000, 1000))
    assert edges[np.argmax(counts)] == pytest.approx(21_500, abs=2500)  # 76 e-h pairs per um are typical
    slow = deposit(zero, zero, thick, np.full(n, 0.002), np.full(n, ELECTRON_MASS), config, rng)
    total = np.bincount(slow.crossing, slow.electrons, minlength=n)
    assert total.max() * config.pair_energy_gev <= material.kinetic(np.array([0.002]), np.array([ELECTRON_MASS]))[0] * (1 + 1e-9)
    assert 2e-3 < deposition.electron_range(np.array([1e-4]))[0] < 2e-2


def test_charge_is_conserved(detector: Detector) -> None:
    rng = np.random.default_rng(2)
    n = 500
    module = rng.integers(0, detector.n_modules, n)
    local = rng.uniform(-1, 1, (n, 2)) * [0.7, 3.0]
    thickness = detector.modules.thickness[module].astype(np.float64)
    steps = deposit(local, rng.normal(0, 1, (n, 2)), thickness, np.full(n, 1.0), np.full(n, PION_MASS), SensorConfig(), rng)
    row, col = drift(steps, module, detector, SensorConfig(), rng)
    key, electrons, hit = collect(steps, module, row, col, detector)
    inside = (row >= 0) & (col >= 0)
    assert electrons.sum() == pytest.approx(steps.electrons[inside].sum(), rel=1e-12)
    assert inside.mean() > 0.99
    assert (np.diff(key) > 0).all()
    assert (module[hit] == key // (detector.topology.rows * detector.topology.cols)).all()


def test_pixel_belongs_to_the_particle_that_gave_most(detector: Detector) -> None:
    z = np.zeros(3)
    steps = Steps(np.array([0, 1, 1]), z, z, z, np.array([500.0, 300.0, 300.0]))
    same = np.full(3, 7)
    _, electrons, hit = collect(steps, np.array([4, 4]), same, same, detector)
    assert electrons.tolist() == [1100.0]
    assert hit.tolist() == [1]


def test_drift_is_undone_by_the_lorentz_shift(detector: Detector) -> None:
    """Charge centroid + shift = position of the particle, for every kind of module."""
    config = SensorConfig(diffusion_cm=0.0)
    for module in (0, 200, 1000, 1200, 1500, 1800):
        n = 2000
        depth = np.linspace(-0.5, 0.5, n) * float(detector.modules.thickness[module])
        rng = np.random.default_rng(module)
        x0, y0 = rng.uniform(-0.6, 0.6, n), rng.uniform(-3, 3, n)
        steps = Steps(np.zeros(n, np.int64), x0, y0, depth, np.ones(n))
        row, col = drift(steps, np.array([module]), detector, config, rng)
        top = detector.topology
        centre_x = (0.5 * (top.edge_x[row] + top.edge_x[row + 1]) - top.centre_x) * top.pitch_x
        centre_y = (0.5 * (top.edge_y[col] + top.edge_y[col + 1]) - top.centre_y) * top.pitch_y
        assert np.mean(centre_x - x0) + detector.modules.shift_x[module] == pytest.approx(0, abs=4e-4)
        assert np.mean(centre_y - y0) + detector.modules.shift_y[module] == pytest.approx(0, abs=6e-4)


def test_adc_is_the_inverse_of_the_calibration(detector: Detector) -> None:
    rng = np.random.default_rng(4)
    n, top, g, m = 5000, detector.topology, detector.gains, detector.modules
    module, row, col = (rng.integers(0, k, n) for k in (detector.n_modules, top.rows, top.cols))
    electrons = rng.uniform(2500, 25_000, n)
    adc, works = adc_of(electrons, module, row, col, detector, 255)
    code = g.codes[module, col, row // g.rows_per_block].astype(np.float64)
    gain, pedestal = code[:, 0] * g.gain_precision + g.gain_min, code[:, 1] * g.pedestal_precision + g.pedestal_min
    back = (adc - pedestal) * gain * m.electrons_per_vcal[module] + m.electrons_offset[module]
    ok = works & (adc < 255)
    assert ok.mean() > 0.9
    assert (np.abs(back - electrons)[ok] <= 0.5001 * (gain * m.electrons_per_vcal[module])[ok]).all()


# --- whole events


def test_events_depend_on_seed_and_number_only(detector: Detector) -> None:
    a, b = (GunSimulator(detector, pileup=5, seed=11) for _ in range(2))
    first = [a.event(k) for k in (0, 1, 2)]
    again = [b.event(k) for k in (2, 0)]
    for (x, truth_x), (y, truth_y) in ((first[2], again[0]), (first[0], again[1])):
        assert x.id == y.id
        assert x.payload.tobytes() == y.payload.tobytes()
        assert all(np.array_equal(truth_x[name], truth_y[name]) for name in truth_x)
    other = GunSimulator(detector, pileup=5, seed=12).event(0)[0]
    assert other.payload.tobytes() != first[0][0].payload.tobytes()


def test_truth_is_consistent(detector: Detector) -> None:
    event, t = GunSimulator(detector, pileup=10, seed=1).event(7)
    assert event.id.event == 7
    n = {name: len(t[column]) for name, column in (("part", "part_pt"), ("vtx", "vtx_hs"), ("hit", "hit_part"), ("digi", "digi_hit"))}
    assert min(n.values()) > 0
    for name, values in t.items():
        assert len(values) == n[name.split("_")[0]], name
    for column, table in (("part_vtx", "vtx"), ("hit_part", "part"), ("digi_hit", "hit")):
        assert t[column].min() >= 0
        assert t[column].max() < n[table], column
    assert t["vtx_hs"].sum() == 1
    assert (t["part_hs"] == t["vtx_hs"][t["part_vtx"]]).all()
    assert (t["hit_module"][t["digi_hit"]] == t["digi_module"]).all()
    assert set(t["part_src"].tolist()) == {0, 1, 2}
    # A pixel lies near the crossing that it is assigned to.
    top = detector.topology
    x = (top.edge_x[t["digi_row"]] - top.centre_x) * top.pitch_x
    steep = np.abs(t["hit_cotalpha"][t["digi_hit"]]) < 1
    assert np.abs(x - t["hit_lx"][t["digi_hit"]])[steep].max() < 0.2


def test_payload_holds_the_digis(detector: Detector) -> None:
    event, t = GunSimulator(detector, pileup=10, seed=1).event(0)
    words = unpack_event(detector, event.payload)
    order = np.lexsort((words.row, words.col, words.module))
    for name in ("module", "row", "col", "adc"):
        assert np.array_equal(getattr(words, name)[order], t[f"digi_{name}"]), name


def test_faults(detector: Detector) -> None:
    base = SimulationConfig()
    plain = GunSimulator(detector, pileup=10, seed=1).event(0)[1]

    def with_faults(**options: float) -> Simulator:
        return GunSimulator(detector, pileup=10, seed=1, config=replace(base, faults=FaultConfig(**options)))

    assert len(with_faults(dead_modules=1.0).event(0)[1]["digi_hit"]) == 0
    some = with_faults(dead_chips=0.3).event(0)[1]
    assert 0.5 < len(some["digi_hit"]) / len(plain["digi_hit"]) < 0.9
    noisy = with_faults(noise_pixels=200.0).event(0)[1]
    assert 140 < (noisy["digi_hit"] < 0).sum() < 260
    late = with_faults(out_of_time_pileup=20.0).event(0)[1]
    assert ((late["part_src"] == 3) == (late["part_vtx"] < 0)).all()
    assert (late["part_src"] == 3).any()
    event, truth = with_faults(error_words=30.0).event(0)
    kinds = np.concatenate([(f.view("<u4")[2:-2] >> 21) & 31 for _, f in split_payload(event.payload)])
    assert (kinds >= ROC_FIRST_ERROR).sum() > 10
    assert len(unpack_event(detector, event.payload).row) == len(truth["digi_row"])


def test_no_secondaries_without_rates(detector: Detector) -> None:
    none = SecondaryConfig(conversion_per_x0=0, nuclear_multiplicity=0, delta_per_crossing=0, slow_per_crossing=0)
    truth = GunSimulator(detector, pileup=5, seed=1, config=SimulationConfig(secondaries=none)).event(0)[1]
    assert set(truth["part_src"].tolist()) == {0}


@pytest.mark.parametrize("options", [{"process": "higgs"}, {"pileup": -1.0}, {"seed": -1}])
def test_bad_arguments(detector: Detector, options: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Simulator(detector, cache=tmp_path, **options)  # type: ignore[arg-type]


def test_demo_sample(demo_sample: Path, detector: Detector) -> None:
    """The committed sample is the one that docs/simulation.md says how to make, by this version of the parameters and of the detector."""
    assert demo_sample.stat().st_size < 2_000_000
    sample = Sample(demo_sample)
    sample.verify()
    meta = sample.metadata
    assert (meta["process"], meta["pileup"], meta["seed"], meta["events"]) == ("ttbar", 15.0, 1, 6)
    assert len(sample) == 6
    assert meta["config"] == json.loads(json.dumps(asdict(SimulationConfig()))), (
        "parameters changed: make the sample again (docs/simulation.md)"
    )
    assert sample.detector().digest() == detector.digest()
    truth = sample.truth(0)
    assert truth is not None
    assert len(unpack_event(detector, sample[0].payload).row) == len(truth["digi_row"])
