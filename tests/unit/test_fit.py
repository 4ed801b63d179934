"""The broken-line fit: a worked example, invariants and toys, for the reference and for the kernel."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hltfarm.workers.backends import codegen
from tests.reference.fit import Circle, Helix, fit_helix, scattering, translate

Floats = NDArray[np.float64]
#: (x, e, field, upstream) -> helix; see tests.reference.fit.fit_helix.
Fit = Callable[[Floats, Floats, float, bool], Helix | None]

ROOT = Path(__file__).resolve().parents[2]
FIELD = 0.01142569724470377
DIAGONAL = [0, 5, 9, 12, 14]

SOURCE = """
#include "views.gen.h"
#include "fit/fit.cuh"
#define FIT(N)                                                                                                     \\
  extern "C" int fit_##N(double const* x, double const* e, double field, int upstream, double* out) {              \\
    hlt::Measurements<N> m;                                                                                        \\
    for (int i = 0; i < N; ++i) {                                                                                  \\
      m.x[i] = x[3 * i], m.y[i] = x[3 * i + 1], m.z[i] = x[3 * i + 2];                                             \\
      for (int j = 0; j < 6; ++j) m.e[i][j] = e[6 * i + j];                                                        \\
    }                                                                                                              \\
    hlt::Helix const h = hlt::fit_helix<N>(m, field, upstream != 0);                                               \\
    double const head[6] = {h.phi, h.tip, h.qpt, h.cot, h.zip, h.chi2};                                            \\
    for (int i = 0; i < 6; ++i) out[i] = head[i];                                                                  \\
    for (int i = 0; i < 15; ++i) out[6 + i] = h.cov[i];                                                            \\
    return h.good;                                                                                                 \\
  }
FIT(3) FIT(4) FIT(5) FIT(6)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """fit_helix of fit.cuh, compiled with the flags of the real build."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "views.gen.h").write_text(codegen.views_header())
    (folder / "fit.cpp").write_text(SOURCE)
    flags = [
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-w",
        "-shared",
        "-fPIC",
        "-I",
        str(ROOT / "workers"),
        "-I",
        str(folder),
    ]
    try:
        subprocess.run(["g++", *flags, str(folder / "fit.cpp"), "-o", str(folder / "fit.so")], check=True)
    except FileNotFoundError:
        pytest.skip("g++ is not installed")
    library = ctypes.CDLL(str(folder / "fit.so"))

    def fit(x: Floats, e: Floats, field: float, upstream: bool) -> Helix | None:
        x, e, out = np.ascontiguousarray(x, np.float64), np.ascontiguousarray(e, np.float64), np.zeros(21)
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, e, out)]
        if not getattr(library, f"fit_{len(x)}")(*pointers[:2], ctypes.c_double(field), int(upstream), pointers[2]):
            return None
        return Helix(out[:5], out[6:], float(out[5]), 1 / abs(float(out[2])), math.asinh(out[3]))

    return fit


@pytest.fixture(params=["reference", "kernel"])
def fit(request: pytest.FixtureRequest) -> Fit:
    chosen: Fit = fit_helix if request.param == "reference" else request.getfixturevalue("kernel")
    return chosen


# --- a worked example --------------------------------------------------------------------------------------------------------------------

X = np.array([[2.2374, 1.9312, 8.4231], [5.0412, 4.5873, 17.6902], [7.9037, 7.5328, 27.5464], [9.7411, 9.5671, 34.1287]])
E = np.array(
    [
        [5.976e-7, -7.095e-7, 8.424e-7, 0, 0, 7.84e-6],
        [5.743e-7, -6.042e-7, 6.357e-7, 0, 0, 5.76e-6],
        [5.501e-7, -6.025e-7, 6.599e-7, 0, 0, 5.76e-6],
        [4.172e-6, 2.514e-6, 4.319e-6, -4.519e-7, 4.389e-7, 2.293e-7],  # a module tilted by 20 degrees
    ]
)
STATE = {
    False: [0.70698765, 0.030828495, -0.91943153, 2.3992785, 1.3307782],
    True: [0.70698760, 0.030929970, -0.91943153, 2.3992785, 1.3307782],
}
CHI2 = {False: 0.047937242, True: 0.047919275}
ENTRIES = [0, 1, 2, 5, 6, 9, 12, 13, 14]
COV = {
    False: [9.1606744e-6, 2.2613034e-5, 1.0171948e-4, 5.9073049e-5, 2.1612655e-4, 1.7827654e-3, 2.2423579e-5, -6.8261900e-5, 2.1538928e-4],
    True: [8.9058022e-6, 2.3804208e-5, 9.9386903e-5, 6.5046348e-5, 2.4246747e-4, 1.7827654e-3, 2.2423581e-5, -6.8261907e-5, 2.1538930e-4],
}
TRIPLET_STATE = [0.70765980, 0.032262425, -0.90783045, 2.3993148, 1.3306667]
TRIPLET_VARIANCES = {
    False: [1.4171267e-5, 8.1509632e-5, 3.3008428e-3, 2.1675685e-5, 2.0884496e-4],
    True: [1.3694331e-5, 9.4338704e-5, 3.3008428e-3, 2.1675685e-5, 2.0884496e-4],
}
DIGITS = 6e-8  # eight digits: half a unit of the last one is up to 5e-8 of the number


def found(helix: Helix | None) -> Helix:
    assert helix is not None
    return helix


@pytest.mark.parametrize("upstream", [False, True])
def test_worked_example(upstream: bool, fit: Fit) -> None:
    h = found(fit(X, E, FIELD, upstream))
    np.testing.assert_allclose(h.state, STATE[upstream], rtol=DIGITS)
    np.testing.assert_allclose(h.chi2, CHI2[upstream], rtol=DIGITS)
    np.testing.assert_allclose(h.cov[ENTRIES], COV[upstream], rtol=DIGITS)
    assert (np.delete(h.cov, ENTRIES) == 0).all()
    np.testing.assert_allclose([h.pt, h.eta], [1.0876286, 1.6091604], rtol=DIGITS)


@pytest.mark.parametrize("upstream", [False, True])
def test_worked_example_of_three_hits(upstream: bool, fit: Fit) -> None:
    h = found(fit(X[:3], E[:3], FIELD, upstream))
    np.testing.assert_allclose(h.state, TRIPLET_STATE, rtol=DIGITS)
    np.testing.assert_allclose(h.chi2, 7.9811240e-4, rtol=DIGITS)
    np.testing.assert_allclose(h.cov[DIAGONAL], TRIPLET_VARIANCES[upstream], rtol=DIGITS)


def test_charge_of_a_stiff_track(fit: Fit) -> None:
    """The circle and the outer pairs of hits bend differently: the right formula goes by the circle; upstream runs backwards."""
    x = np.array([[3.0, 0, 3.0], [6.8, 0.0030, 6.8], [10.9, -0.0010, 10.9], [16.0, 0.0008, 16.0]])
    assert found(fit(x, E, FIELD, False)).state[3] == pytest.approx(1, abs=1e-3)
    assert found(fit(x, E, FIELD, True)).state[3] == pytest.approx(-1, abs=1e-2)


# --- invariants --------------------------------------------------------------------------------------------------------------------------

RADII = {3: [3.0, 6.8, 10.9], 4: [3.0, 6.8, 10.9, 16.0], 5: [3.0, 5.0, 6.8, 10.9, 16.0], 6: [3.0, 5.0, 6.8, 10.9, 13.0, 16.0]}


def helix_point(state: Floats, s: Floats | float) -> Floats:
    """Points at the transverse arc length s from the point of closest approach."""
    phi, tip, qpt, cot, zip_ = state
    k, s = qpt * FIELD, np.asarray(s, np.float64)
    chord, half = np.where(k * s == 0, s, 2 * np.sin(k * s / 2) / k), k * s / 2
    x = tip * np.sin(phi) + chord * np.cos(phi - half)
    y = -tip * np.cos(phi) + chord * np.sin(phi - half)
    return np.stack([x, y, zip_ + cot * s], axis=-1)


def arc_lengths(state: Floats, radii: list[float]) -> Floats:
    """Where the helix crosses the cylinders: r^2 = tip^2 + (1 + k tip) chord^2."""
    tip, k = state[1], state[2] * FIELD
    chord = np.sqrt((np.array(radii) ** 2 - tip**2) / (1 + k * tip))
    return np.asarray(2 / k * np.arcsin(k * chord / 2))


def errors(x: Floats, along: float, across: float) -> Floats:
    """Covariances of hits on cylinders: `across` in azimuth, `along` in z."""
    phi = np.arctan2(x[:, 1], x[:, 0])
    zero = np.zeros(len(x))
    tangent = np.stack([np.sin(phi) ** 2, -np.sin(phi) * np.cos(phi), np.cos(phi) ** 2, zero, zero, zero], axis=1)
    tangent[:, :3] *= across**2
    tangent[:, 5] = along**2
    return tangent


TRUTHS = [
    np.array([0.3, 0.02, 1 / 0.6, 1.3, 4.0]),
    np.array([-2.9, -0.05, -1 / 0.9, -2.7, -8.0]),
    np.array([1.5707, 0.11, 1 / 30.0, 0.0001, 0.3]),
    np.array([3.1, 0.0, -1 / 400.0, 3.3, -0.2]),
]


@pytest.mark.parametrize("n", RADII)
@pytest.mark.parametrize("truth", TRUTHS)
def test_exact_helix(truth: Floats, n: int, fit: Fit) -> None:
    """Points on a helix give the helix, for any number of hits, with chi square 0."""
    x = helix_point(truth, arc_lengths(truth, RADII[n]))
    h = found(fit(x, errors(x, 30e-4, 12e-4), FIELD, False))
    np.testing.assert_allclose(h.state, truth, rtol=1e-9, atol=1e-10)
    assert h.chi2 < 1e-12


def rotated(x: Floats, e: Floats, matrix: Floats) -> tuple[Floats, Floats]:
    """Positions and packed covariances in another frame."""
    full = np.array([[[a, b, d], [b, c, f], [d, f, g]] for a, b, c, d, f, g in e])
    full = matrix @ full @ matrix.T
    return x @ matrix.T, np.stack([full[:, i, j] for i, j in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))], axis=1)


@pytest.mark.parametrize("angle", [0.4, 2.0, -1.9])
def test_rotation(angle: float, fit: Fit) -> None:
    """Phi turns with the detector, nothing else changes."""
    c, s = math.cos(angle), math.sin(angle)
    before = found(fit(X, E, FIELD, False))
    after = found(fit(*rotated(X, E, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])), FIELD, False))
    turn = (after.state[0] - before.state[0] - angle + math.pi) % (2 * math.pi) - math.pi
    assert abs(turn) < 1e-9
    np.testing.assert_allclose(after.state[1:], before.state[1:], rtol=1e-9)
    np.testing.assert_allclose(after.cov, before.cov, rtol=1e-8, atol=1e-20)
    assert after.chi2 == pytest.approx(before.chi2, rel=1e-8)


def test_mirror(fit: Fit) -> None:
    """y -> -y changes the sign of phi, tip and charge; the covariance stays (upstream it does not: see the tilted module)."""
    mirror = np.diag([1.0, -1, 1])
    before, after = found(fit(X, E, FIELD, False)), found(fit(*rotated(X, E, mirror), FIELD, False))
    np.testing.assert_allclose(after.state, before.state * [-1, -1, -1, 1, 1], rtol=1e-9)
    np.testing.assert_allclose(after.cov, before.cov, rtol=1e-8, atol=1e-20)


@pytest.mark.parametrize("direction", [0.2, 1.5707963267948966, -2.5])
@pytest.mark.parametrize("n", [3, 4])
def test_straight_line(n: int, direction: float, fit: Fit) -> None:
    """Hits on a line have no circle; the fit replaces it and restores a curvature of (nearly) 0."""
    s = np.array(RADII[n])
    x = np.stack(
        [s * math.cos(direction) + 0.01 * math.sin(direction), s * math.sin(direction) - 0.01 * math.cos(direction), 1 + 0.5 * s], 1
    )
    h = found(fit(x, errors(x, 30e-4, 12e-4), FIELD, False))
    np.testing.assert_allclose(h.state, [direction, 0.01, 0, 0.5, 1], atol=2e-4)
    assert h.chi2 < 1e-3


def test_impossible(fit: Fit) -> None:
    """Coincident hits have no helix."""
    x = X.copy()
    x[1] = x[0]
    assert fit(x, E, FIELD, False) is None
    assert fit(np.ones((4, 3)), E, FIELD, False) is None
    assert fit(np.full((3, 3), np.nan), E[:3], FIELD, False) is None


def test_translation_and_back() -> None:
    """Parameters and covariance are restored."""
    before = Circle(np.array([0.7, 0.03, -0.0105]), np.array([[9e-6, 2e-5, 1e-6], [2e-5, 6e-5, 2e-6], [1e-6, 2e-6, 3e-7]]))
    after = translate(translate(before, 2.2, -1.7), -2.2, 1.7)
    np.testing.assert_allclose(after.parameters, before.parameters, rtol=1e-11)
    np.testing.assert_allclose(after.cov, before.cov, rtol=1e-9)


def test_kernel_equals_reference(kernel: Fit) -> None:
    """Smeared tracks of all momenta and lengths, both formulas."""
    rng = np.random.default_rng(8)
    for _ in range(150):
        n = int(rng.integers(3, 7))
        truth = np.array(
            [
                rng.uniform(-3, 3),
                rng.normal() * 0.05,
                rng.choice([-1, 1]) / 10 ** rng.uniform(-0.3, 2.5),
                rng.normal() * 2,
                rng.normal() * 4,
            ]
        )
        x = helix_point(truth, arc_lengths(truth, RADII[n])) + rng.normal(size=(n, 3)) * 20e-4
        for upstream in (False, True):
            a, b = found(kernel(x, errors(x, 30e-4, 12e-4), FIELD, upstream)), found(fit_helix(x, errors(x, 30e-4, 12e-4), FIELD, upstream))
            sigma = np.sqrt(b.cov[DIAGONAL])
            np.testing.assert_allclose(a.state, b.state, rtol=1e-8, atol=1e-9)
            scale = np.outer(sigma, sigma)[np.triu_indices(5)]
            np.testing.assert_allclose(a.cov / scale, b.cov / scale, rtol=0, atol=1e-8)
            assert a.chi2 == pytest.approx(b.chi2, rel=1e-7, abs=1e-9)


# --- toys --------------------------------------------------------------------------------------------------------------------------------


def toy(truth: Floats, radii: list[float], rng: np.random.Generator) -> Floats:
    """Measured hits of a track that scatters at each hit, by the fit's own law, as much as in the material on both sides of it."""
    state, pt = truth.copy(), 1 / abs(truth[2])
    lengths = np.diff(arc_lengths(truth, radii)) * math.sqrt(1 + truth[3] ** 2)
    theta2 = np.array([scattering(length, min(20, pt), truth[3]) for length in lengths])
    before, after = np.concatenate([[0], theta2]), np.concatenate([theta2, [0]])
    x = []
    for i, r in enumerate(radii):
        s = arc_lengths(state, [r])[0]
        point = helix_point(state, s)
        x.append(point)
        variance = (before[i] + after[i]) if i > 0 else after[i]
        slope2, k = 1 + state[3] ** 2, state[2] * FIELD
        direction = state[0] - k * s + rng.normal() * math.sqrt(variance * slope2)
        cot = state[3] + rng.normal() * math.sqrt(variance) * slope2
        here = translate(Circle(np.array([direction, 0.0, k]), np.zeros((3, 3))), point[0], point[1]).parameters
        back = (state[3] - cot) * s  # z at the point of closest approach, if the new direction is followed back
        state = np.array([here[0], here[1], state[2], cot, state[4] + back])
    phi = np.arctan2([p[1] for p in x], [p[0] for p in x])
    across, along = rng.normal(size=len(x)) * 12e-4, rng.normal(size=len(x)) * 30e-4
    return np.array(x) + np.stack([-across * np.sin(phi), across * np.cos(phi), along], axis=1)


@pytest.mark.parametrize("pt", [0.6, 3.0, 20.0])
def test_pulls(pt: float, kernel: Fit) -> None:
    """Widths of (found - true) / error of 2000 tracks are 1: the statistical error is 0.016; measured: 0.96 to 1.02."""
    rng, pulls, chi2 = np.random.default_rng(9), [], []
    for _ in range(2000):
        truth = np.array([rng.uniform(-3, 3), rng.normal() * 0.02, rng.choice([-1, 1]) / pt, rng.uniform(-1.5, 1.5), rng.normal() * 4])
        x = toy(truth, RADII[4], rng)
        h = found(kernel(x, errors(x, 30e-4, 12e-4), FIELD, False))
        pulls.append((h.state - truth) / np.sqrt(h.cov[DIAGONAL]))
        chi2.append(3 * h.chi2)
    np.testing.assert_allclose(np.std(pulls, axis=0), 1, atol=0.07)
    np.testing.assert_allclose(np.mean(pulls, axis=0), 0, atol=0.08)
    assert np.mean(chi2) == pytest.approx(3, abs=0.2)
