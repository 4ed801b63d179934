"""Truth matching and validation on hand-made events whose numbers are known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from hltfarm.loadgen.validation import Cuts, EventReco, Geometry, Study
from hltfarm.loadgen.validation.binned import Spread
from hltfarm.loadgen.validation.binomial import wilson
from hltfarm.loadgen.validation.definitions import Axis
from hltfarm.loadgen.validation.helix import perigee
from hltfarm.loadgen.validation.matching import Links, duplicates, match_tracks
from hltfarm.loadgen.validation.vertices import pair
from hltfarm.proto.errors import SampleError

Arrays = dict[str, np.ndarray[Any, Any]]
LAYERS = 4
FIELD = 3.8112
#: One module per layer, all barrel; the beam spot is off the origin so that nobody forgets it.
GEOMETRY = Geometry(np.arange(LAYERS), np.ones(LAYERS, np.bool_), ("L1", "L2", "L3", "L4"), (0.1, -0.2, 0.5), FIELD)


def truth_of(particles: int, **changed: np.ndarray[Any, Any]) -> Arrays:
    """Particles of 2 GeV from one collision at the beam spot, each crossing the four layers; one pixel per crossing (row = particle)."""
    n, crossings = particles, particles * LAYERS
    x, y, z = GEOMETRY.beam_spot
    truth = {
        "vtx_xyz": np.array([[x, y, z]]),
        "vtx_hs": np.array([True]),
        "part_vtx": np.zeros(n, np.int32),
        "part_q": np.where(np.arange(n) % 2, -1, 1).astype(np.int8),
        "part_pt": np.full(n, 2.0),
        "part_eta": np.linspace(-1, 1, n),
        "part_phi": np.linspace(-3, 3, n),
        "part_vx": np.full(n, x),
        "part_vy": np.full(n, y),
        "part_vz": np.full(n, z),
        "part_src": np.zeros(n, np.int8),
        "hit_part": np.repeat(np.arange(n), LAYERS).astype(np.int32),
        "hit_module": np.tile(np.arange(LAYERS), n).astype(np.uint16),
        "hit_lx": np.zeros(crossings),
        "hit_ly": np.zeros(crossings),
        "hit_pass": np.zeros(crossings, np.int8),
        "digi_module": np.tile(np.arange(LAYERS), n).astype(np.uint16),
        "digi_row": np.repeat(np.arange(n), LAYERS).astype(np.uint16),
        "digi_col": np.zeros(crossings, np.uint16),
        "digi_hit": np.arange(crossings, dtype=np.int32),
    }
    return truth | changed


def reco_of(truth: Arrays, tracks: list[list[int]], vertices: list[float] | None = None, **columns: ArrayLike) -> EventReco:
    """A hit for every pixel of the truth, 10 um and -20 um off; tracks of these hits with the parameters of particles at the beam spot."""
    n, count = len(truth["digi_hit"]), len(tracks)
    hits = {"module": truth["digi_module"], "x_local": np.full(n, 1e-3), "y_local": np.full(n, -2e-3)}
    digis = {name: truth[f"digi_{name}"] for name in ("module", "row", "col")} | {"hit": np.arange(n)}
    padded = np.full((count, 5), -1)
    for i, mine in enumerate(tracks):
        padded[i, : len(mine)] = mine
    values: Arrays = {name: np.zeros(count) for name in ("eta", "phi", "tip", "zip", "chi2")}
    values |= {"pt": np.full(count, 2.0), "charge": np.ones(count), "quality": np.full(count, 2)}
    values |= {"n_hits": np.array([len(t) for t in tracks]), "hits": padded}
    values |= {name: np.array(v) for name, v in columns.items()}
    found = None
    if vertices is not None:
        v = len(vertices)
        found = {
            "z": np.array(vertices),
            "ndof": np.full(v, 5),
            "chi2": np.ones(v),
            "error": np.full(v, 0.005),
            "sum_pt2": np.arange(v, 0, -1.0),
        }
    return EventReco.of(hits, digis, values, found)


def of_particle(k: int, n: int = LAYERS) -> list[int]:
    return list(range(k * LAYERS, k * LAYERS + n))


def document_of(truth: Arrays, reco: EventReco, cuts: Cuts | None = None) -> Any:
    study = Study(GEOMETRY, cuts)
    study.add(reco, truth)
    return json.loads(json.dumps(study.document(), allow_nan=False))


def test_wilson_has_the_ends_of_its_definition() -> None:
    """Both ends p solve |k/n - p| = sqrt(p (1 - p) / n)."""
    k, n = np.array([0, 1, 5, 10]), np.full(4, 10)
    low, high = wilson(k, n)
    assert (low[0], high[3]) == (0.0, 1.0)
    for ends, some in ((low, slice(1, None)), (high, slice(None, 3))):
        p = ends[some]
        np.testing.assert_allclose(np.abs(k / n - ends)[some], np.sqrt(p * (1 - p) / 10), rtol=1e-12)
    assert [float(x) for x in wilson(0, 0)] == [0.0, 1.0]
    with pytest.raises(ValueError, match="count"):
        wilson(3, 2)


def test_wilson_covers() -> None:
    """The mean coverage over p is that of one standard deviation."""
    n, p = 40, np.linspace(0.02, 0.98, 97)
    k = np.arange(n + 1)
    low, high = wilson(k, np.full(n + 1, n))
    weights = np.array([[math.comb(n, int(i)) * q**i * (1 - q) ** (n - i) for i in k] for q in p])
    coverage = (weights * ((low <= p[:, None]) & (p[:, None] <= high))).sum(axis=1)
    assert coverage.mean() == pytest.approx(0.683, abs=0.02)


def test_axis_ends() -> None:
    axis = Axis("v", "v", (0.0, 1.0, 2.0))
    assert axis.index([-1, 0, 1, 2, np.nan]).tolist() == [-1, 0, 1, -1, -1]
    opened = Axis("v", "v", (0.0, 1.0, 2.0), open_low=True, open_high=True)
    assert opened.index([-1, 0, 1, 2, np.nan]).tolist() == [0, 0, 1, 1, -1]


@pytest.mark.parametrize(("centre", "sigma"), [(0.0, 13e-4), (5e-4, 21e-4), (0.0, 0.03)])
def test_spread_finds_median_and_width(centre: float, sigma: float) -> None:
    """Of 200 000 normal residuals: half a percent is about two standard deviations of the estimate."""
    spread = Spread(2, 1e-4, 1.0)
    residual = np.random.default_rng(1).normal(centre, sigma, 200_000)
    spread.add(np.zeros(len(residual), np.int64), residual)
    summary = spread.summary(0)
    assert summary["entries"] == 200_000
    assert summary["median"] == pytest.approx(np.median(residual), abs=0.002 * sigma)
    assert summary["sigma_core"] == pytest.approx(sigma, rel=0.01)
    assert summary["sigma_68"] == pytest.approx(sigma, rel=0.01)
    assert spread.summary(1) == {"entries": 0, "median": None, "sigma_core": None, "sigma_68": None}
    assert sum(spread.histogram(0, 8 * sigma)["entries"]) == pytest.approx(200_000, rel=1e-6)


def test_match_needs_three_quarters() -> None:
    """Hits 0..3 stem from particle 7, hit 4 from 7 and 9, hits 5..8 from 9, hit 9 is noise."""
    links = Links(np.array([0, 1, 2, 3, 4, 4, 5, 6, 7, 8]), np.array([7, 7, 7, 7, 7, 9, 9, 9, 9, 9]), 10)
    hits = [[0, 1, 2, 3], [0, 1, 2, 9], [0, 1, 5, 6], [0, 1, 4], [0, 1, 9], [4, 5, 6, 7], [0, 1, 2, 3, 5], [0, 1, 2, 5, 6], [9, 9, 9], []]
    padded = np.array([h + [-1] * (5 - len(h)) for h in hits])
    match = match_tracks(padded, links, 0.75)
    assert match.particle.tolist() == [7, 7, -1, 7, -1, 9, 7, -1, -1, -1]
    assert match.shared.tolist() == [4, 3, 2, 3, 2, 4, 4, 3, 0, 0]
    again = duplicates(match, np.ones(10, np.bool_), np.array([len(h) for h in hits]), np.arange(10.0))
    assert again.tolist() == [True, True, False, True, False, False, False, False, False, False]  # the one with five hits stays


def test_perigee_of_known_helices() -> None:
    """A particle from (beam spot + 1 cm in x) flying along y: straight, its closest approach is 1 cm right of the flight direction."""
    x, y, z = GEOMETRY.beam_spot
    ones = np.ones(3)
    truth = {
        "part_vx": x + np.array([1.0, 1.0, 0.0]),
        "part_vy": y * ones,
        "part_vz": z + 2 * ones,
        "part_pt": np.array([1e7, 1.0, 1.0]),
        "part_eta": ones,
        "part_phi": np.array([np.pi / 2, np.pi / 2, 0.3]),
        "part_q": np.array([1, -1, 1]),
    }
    p = perigee(truth, np.arange(3), GEOMETRY)
    np.testing.assert_allclose(p.tip, [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(p.phi, [np.pi / 2, np.pi / 2, 0.3], atol=1e-6)
    np.testing.assert_allclose(p.zip, 2, atol=1e-6)
    np.testing.assert_allclose(p.cot_theta, np.sinh(1))


@pytest.mark.parametrize("charge", [-1, 1])
@pytest.mark.parametrize("turn", [-0.4, 0.7])
def test_perigee_does_not_depend_on_the_point_of_the_helix(charge: int, turn: float) -> None:
    """Start at the closest approach, follow the circle by an angle, and come back. Positive charges turn clockwise."""
    x, y, z = GEOMETRY.beam_spot
    pt, phi0, tip, cot = 1.3, 2.1, 0.2, 0.8
    radius = charge * pt / GEOMETRY.gev_per_cm
    centre = (tip + radius) * np.array([np.sin(phi0), -np.cos(phi0)])
    phi = phi0 - charge * turn  # follows the direction of flight by |R| turn
    place = centre - radius * np.array([np.sin(phi), -np.cos(phi)])
    at = {"part_vx": x + place[0], "part_vy": y + place[1], "part_vz": z - 3 + abs(radius) * turn * cot}
    at |= {"part_pt": pt, "part_eta": np.arcsinh(cot), "part_phi": phi, "part_q": charge}
    p = perigee({k: np.array([v]) for k, v in at.items()}, np.array([0]), GEOMETRY)
    np.testing.assert_allclose([p.phi[0], p.tip[0], p.cot_theta[0], p.zip[0]], [phi0, tip, cot, -3], rtol=1e-9)
    assert p.q_over_pt[0] == pytest.approx(charge / pt)


def test_efficiency_fakes_and_duplicates_of_a_small_event() -> None:
    """10 particles: 0..4 found by quadruplets, 5 by a triplet, 5 more not counted or not found; one fake, one duplicate, one bad track."""
    pt = np.full(10, 2.0)
    pt[6] = 0.5  # found, below the cut
    eta = np.linspace(-1, 1, 10)
    truth = truth_of(10, part_pt=pt, part_eta=eta)
    truth["part_vx"][7] += 2.0  # found, produced far out
    truth["part_q"][8] = 0
    good = [of_particle(k) for k in (0, 1, 2, 3, 4, 6, 7)]
    tracks = [*good, of_particle(5, 3), [0, 5, 10, 15], of_particle(0, 3), of_particle(9)]
    document = document_of(truth, reco_of(truth, tracks, quality=[2] * 10 + [1]))["tracks"]
    loose = document["efficiency"]["loose"]["layers4"]
    assert (loose["passed"], loose["total"]) == (6, 7)  # 0..5 of 0..5 and 9
    assert document["efficiency"]["quadruplets"]["layers4"]["passed"] == 5
    totals = document["totals"]["loose"]
    assert (totals["fake_rate"]["passed"], totals["fake_rate"]["total"]) == (1, 10)
    assert totals["duplicate_rate"]["passed"] == 1
    assert document["totals"]["quadruplets"]["duplicate_rate"]["passed"] == 0
    assert document["totals"]["triplets"]["fake_rate"] | {"low": 0, "high": 0} == {
        "passed": 0,
        "total": 2,
        "rate": 0.0,
        "low": 0,
        "high": 0,
    }
    assert "high_purity" not in document["selections"]
    # The cut on a variable does not hold on its own axis.
    against = document["efficiency_against"]["loose"]["layers4"]
    assert {axis: (sum(c["passed"]), sum(c["total"])) for axis, c in against.items()} == {
        "pt": (7, 8),
        "eta": (6, 7),
        "phi": (6, 7),
        "radius": (7, 8),
        "pileup": (6, 7),
    }


def test_layers_count_on_the_first_half_turn_only() -> None:
    truth = truth_of(2)
    truth["hit_pass"][[3, 6, 7]] = 1
    document = document_of(truth, reco_of(truth, []))["tracks"]
    assert {d: r["total"] for d, r in document["efficiency"]["loose"].items()} == {"all": 2, "layers3": 1, "layers4": 0}


def test_hits_of_a_small_event() -> None:
    """Residuals 10 and -20 um; one hit of two particles, one lost crossing, one noise hit."""
    truth = truth_of(4)
    reco = reco_of(truth, [])
    hit = reco.digis.hit
    hit[4] = 0  # the pixel of particle 1 in the first layer joins the hit of particle 0
    hit[9] = -1
    truth["digi_hit"][15] = -1
    h = document_of(truth, reco)["hits"]
    assert {k: r["passed"] for k, r in h["kinds"].items()} == {"one_crossing": 12, "same_particle": 0, "merged": 1, "noise": 3}
    assert (h["efficiency"]["all"]["total"]["passed"], h["efficiency"]["all"]["total"]["total"]) == (14, 16)
    assert h["efficiency"]["primary"]["layers"]["L2"]["passed"] == 3
    assert h["residuals"]["barrel"]["x"]["entries"] == 12
    assert h["residuals"]["barrel"]["x"]["median"] == pytest.approx(1e-3, rel=0.03)
    assert h["residuals"]["barrel"]["y"]["median"] == pytest.approx(-2e-3, rel=0.03)
    assert h["residuals"]["disks"]["x"]["entries"] == 0
    assert (h["pixels"]["noise"]["passed"], h["pixels"]["in_hits"]["passed"]) == (1, 15)


def test_pulls_and_resolutions() -> None:
    """Parameters smeared by known errors: pulls of width 1, resolutions as put in (500 tracks: 6 % on a width)."""
    n = 500
    random = np.random.default_rng(2)
    truth = truth_of(n, part_eta=np.full(n, 0.5))
    sigma = {"phi": 1e-3, "tip": 5e-3, "q_over_pt": 0.02, "cot_theta": 2e-3, "zip": 1e-2}
    charge = truth["part_q"].astype(float)
    off = {name: random.normal(0, s, n) for name, s in sigma.items()}
    curvature = charge / 2.0 + off["q_over_pt"]
    cov = np.zeros((n, 15))
    for name, place in (("phi", 0), ("tip", 5), ("q_over_pt", 9), ("cot_theta", 12), ("zip", 14)):
        cov[:, place] = sigma[name] ** 2
    columns = {
        "phi": truth["part_phi"] + off["phi"],
        "tip": off["tip"],
        "pt": 1 / np.abs(curvature),
        "charge": np.sign(curvature),
        "eta": np.arcsinh(np.sinh(0.5) + off["cot_theta"]),
        "zip": off["zip"],
        "cov": cov,
    }
    reco = reco_of(truth, [of_particle(k) for k in range(n)], **columns)
    document = document_of(truth, reco)["tracks"]
    for name in sigma:
        pull = document["pulls"]["quadruplets"][name]["barrel"]
        assert pull["entries"] == n
        assert pull["sigma_68"] == pytest.approx(1, abs=0.18), name
        assert abs(pull["median"]) < 0.2, name
    table = document["resolutions"]["quadruplets"]
    assert table["zip"]["barrel"][1]["sigma_68"] == pytest.approx(1e-2, rel=0.18)
    assert table["q_over_pt"]["barrel"][1]["sigma_68"] == pytest.approx(0.04, rel=0.18)
    assert document["totals"]["loose"]["wrong_charge"]["passed"] == 0


def test_vertices_are_paired_one_to_one() -> None:
    match = pair(np.array([0.0, 0.02, 5.0, 1.04]), np.array([0.01, 0.03, 1.0, 9.0]), 0.05)
    assert match.collision.tolist() == [0, 1, -1, 2]
    assert match.vertex.tolist() == [0, 1, 3, -1]
    assert match.nearest[2] == pytest.approx(4.0)


def test_vertices_of_a_small_event() -> None:
    """Collisions at 0 (hard), 0.03 (merged into its vertex), 2 (lost), 4 (found; it has one particle, so it is not visible)."""
    z = GEOMETRY.beam_spot[2] + np.array([0.0, 0.03, 2.0, 4.0])
    truth = truth_of(7, vtx_xyz=np.stack([0 * z, 0 * z, z], axis=1), vtx_hs=np.array([True, False, False, False]))
    truth["part_vtx"] = np.array([0, 0, 1, 1, 2, 2, 3])
    v = document_of(truth, reco_of(truth, [], [0.01, 4.01, 4.04, 8.0]))["vertices"]
    assert (v["collisions_per_event"], v["visible_per_event"], v["vertices_per_event"], v["fakes_per_event"]) == (4, 3, 4, 1)
    assert (v["efficiency"]["passed"], v["merge_rate"]["passed"], v["efficiency"]["total"]) == (1, 1, 3)
    assert v["split_rate"]["passed"] == 1
    assert v["hard_scatter"]["leading"]["rate"] == 1.0
    assert v["resolution"]["entries"] == 2
    assert v["pull"]["median"] == pytest.approx(2, rel=0.03)
    assert v["resolution_hard_scatter"]["median"] == pytest.approx(0.01, rel=0.03)
    far = document_of(truth, reco_of(truth, [], [4.01, 0.01]))["vertices"]["hard_scatter"]
    assert (far["found"]["rate"], far["leading"]["rate"]) == (1.0, 0.0)


def test_events_with_nothing_in_them() -> None:
    truth = truth_of(0)
    truth |= {name: values[:0] for name, values in truth.items()}
    document = document_of(truth, reco_of(truth, [], []))
    assert document["tracks"]["totals"]["loose"]["fake_rate"]["rate"] is None
    assert document["vertices"]["efficiency"]["rate"] is None


def test_truth_that_is_missing_is_said() -> None:
    study, truth = Study(GEOMETRY), truth_of(1)
    reco = reco_of(truth, [])
    with pytest.raises(SampleError, match="no truth"):
        study.add(reco, None, "x")
    with pytest.raises(SampleError, match="without digi_hit"):
        study.add(reco, {k: v for k, v in truth.items() if k != "digi_hit"}, "x")
    with pytest.raises(SampleError, match="part_"):
        study.add(reco, truth | {"part_pt": np.zeros(5)}, "x")
