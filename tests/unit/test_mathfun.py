"""The elementary functions of the kernels against correctly rounded values: errors in units of the last place of the exact result."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hltfarm.workers.backends.cpu_library import usable

Floats = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[2]
N = 120_000

SOURCE = """
#include "backends/mathfun.cuh"
#define EACH(name, result) \\
  extern "C" void name(double const* x, double const* y, double* out, long n) { for (long i = 0; i < n; ++i) out[i] = result; (void)y; }
EACH(log_of, hlt::log_of(x[i]))
EACH(atan2_of, hlt::atan2_of(y[i], x[i]))
EACH(sin_of, hlt::sin_cos_of(x[i]).sin)
EACH(cos_of, hlt::sin_cos_of(x[i]).cos)
EACH(asinh_of, hlt::asinh_of(x[i]))
EACH(exp_of, hlt::exp_of(x[i]))
"""


#: The same functions on vectors.
LANES_SOURCE = """
#include "backends/mathfun.cuh"
#define EACH(name, result) \\
  extern "C" void name(double const* x, double const* y, double* out, long n) { \\
    for (long i = 0; i < n; i += hlt::LANES) { \\
      auto const at = [&](double const* from) { \\
        return hlt::lanes([&](uint32_t l) { return i + l < n ? from[i + l] : 0.; }); \\
      }; \\
      hlt::Reals const value = result; \\
      for (long l = 0; l < hlt::LANES && i + l < n; ++l) out[i + l] = hlt::lane(value, l); \\
    } \\
    (void)y; \\
  }
EACH(log_of, hlt::log_of(at(x)))
EACH(atan2_of, hlt::atan2_of(at(y), at(x)))
EACH(asinh_of, hlt::asinh_of(at(x)))
EACH(root, hlt::square_root(at(x)))
"""


def compiled(folder: Path, source: str, *options: str) -> ctypes.CDLL:
    """mathfun.cuh with the flags of the real build."""
    (folder / "mathfun.cpp").write_text(source)
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-I", str(ROOT / "workers"), *options]
    try:
        subprocess.run(["g++", *flags, str(folder / "mathfun.cpp"), "-o", str(folder / "mathfun.so")], check=True)
    except FileNotFoundError:
        pytest.skip("g++ is not installed")
    return ctypes.CDLL(str(folder / "mathfun.so"))


@pytest.fixture(scope="module")
def mathfun(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(tmp_path_factory.mktemp("mathfun"), SOURCE)


def call(library: ctypes.CDLL, name: str, x: Floats, y: Floats | None = None) -> Floats:
    out = np.empty_like(x)
    pointers = [np.ascontiguousarray(a).ctypes.data_as(ctypes.c_void_p) for a in (x, x if y is None else y, out)]
    getattr(library, name)(*pointers, ctypes.c_long(len(x)))
    return out


def error(exact: Callable[..., NDArray[np.longdouble]], found: Floats, *arguments: Floats) -> float:
    """Largest error in units of the last place of the exact result. NumPy's 64-bit mantissa is good to about 0.001 units."""
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("long double is no wider than double here")
    true = exact(*(a.astype(np.longdouble) for a in arguments))
    return float((np.abs(found - true) / np.spacing(np.maximum(np.abs(true.astype(np.float64)), 2.3e-308))).max())


RNG = np.random.default_rng(5)
SIGN = RNG.choice([-1.0, 1.0], N)
SMALL = SIGN * 10 ** RNG.uniform(-18, 0, N)
UNIT = RNG.uniform(0.5, 2, N)


# Largest errors on a million arguments of each kind are in the comments.
@pytest.mark.parametrize(
    "x",
    [
        pytest.param(np.exp(RNG.uniform(-700, 700, N)), id="all magnitudes"),  # 1.19
        pytest.param(RNG.uniform(0.7, 1.5, N), id="around 1"),  # 1.18
        pytest.param(1 + SIGN * 10 ** RNG.uniform(-16, -1, N), id="close to 1"),  # 0.58
        pytest.param(2.0 ** np.arange(-1022, 1024), id="powers of two"),
    ],
)
def test_log(x: Floats, mathfun: ctypes.CDLL) -> None:
    assert error(np.log, call(mathfun, "log_of", x), x) < 1.5


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param(RNG.normal(size=N), RNG.normal(size=N), id="all directions"),  # 2.83
        pytest.param(UNIT, SMALL, id="along x"),  # 2.32
        pytest.param(-UNIT, SMALL, id="against x"),  # 1.03
        pytest.param(SMALL, UNIT, id="along y"),  # 1.50
        pytest.param(SIGN * 10 ** RNG.uniform(-150, 150, N), 10 ** RNG.uniform(-150, 150, N), id="all magnitudes"),  # 1.60
    ],
)
def test_atan2(x: Floats, y: Floats, mathfun: ctypes.CDLL) -> None:
    assert error(np.arctan2, call(mathfun, "atan2_of", x, y), y, x) < 3


QUARTERS = RNG.integers(-600, 600, N) * (np.pi / 2)


@pytest.mark.parametrize(
    ("x", "bound"),
    [
        pytest.param(RNG.uniform(-np.pi, np.pi, N), 1.6, id="one turn"),  # 1.31, 1.42
        pytest.param(RNG.uniform(-1000, 1000, N), 1.6, id="to 1000"),  # 1.50, 1.47
        pytest.param(RNG.uniform(-1e5, 1e5, N), 2.5, id="to 1e5"),  # 2.45, 2.28
        pytest.param(SMALL, 1.6, id="small"),  # 1.23, 1.00
        pytest.param(
            QUARTERS + RNG.normal(size=N) * 10 ** RNG.uniform(-16, -1, N), 2.5, id="near multiples of a quarter turn"
        ),  # 1.69, 2.04
    ],
)
def test_sin_cos(x: Floats, bound: float, mathfun: ctypes.CDLL) -> None:
    assert error(np.sin, call(mathfun, "sin_of", x), x) < bound
    assert error(np.cos, call(mathfun, "cos_of", x), x) < bound


def test_asinh(mathfun: ctypes.CDLL) -> None:
    """By the logarithm: 2.4 units from |x| = 1 on; below, the error is absolute (2.8e-16)."""
    large = SIGN * 10 ** RNG.uniform(0, 150, N)
    assert error(np.arcsinh, call(mathfun, "asinh_of", large), large) < 2.5
    exact = np.arcsinh(SMALL.astype(np.longdouble))
    assert float(np.abs(call(mathfun, "asinh_of", SMALL) - exact).max()) < 3e-16


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(RNG.uniform(-708, 709, N), id="all magnitudes"),
        pytest.param(RNG.uniform(-30, 30, N), id="of a sigmoid"),
        pytest.param(SMALL, id="small"),
    ],
)
def test_exp(x: Floats, mathfun: ctypes.CDLL) -> None:
    assert error(np.exp, call(mathfun, "exp_of", x), x) < 1


def test_special_arguments(mathfun: ctypes.CDLL) -> None:
    """Zeros, infinities, axes: as the header says."""
    inf, nan, pi = np.inf, np.nan, np.pi
    x = np.array([1.0, 0.0, -0.0, 1e-310, -1.0, inf, nan])
    np.testing.assert_array_equal(call(mathfun, "log_of", x), [0, -inf, -inf, -inf, nan, inf, nan])
    x, y = np.array([0.0, 1.0, -1.0, 0.0, 0.0, 1.0, -1.0, -1.0]), np.array([0.0, 0.0, 0.0, 1.0, -1.0, 1.0, 1.0, -1.0])
    np.testing.assert_array_equal(call(mathfun, "atan2_of", x, y), [0, 0, pi, pi / 2, -pi / 2, pi / 4, 3 * pi / 4, -3 * pi / 4])
    np.testing.assert_array_equal(call(mathfun, "sin_of", np.zeros(1)), [0])
    np.testing.assert_array_equal(call(mathfun, "cos_of", np.zeros(1)), [1])
    values = np.array([0.0, 0.3, 5.0, 1e6])
    np.testing.assert_array_equal(call(mathfun, "asinh_of", -values), -call(mathfun, "asinh_of", values))
    x = np.array([0.0, -0.0, -inf, -710.0, inf, 710.0, nan])
    np.testing.assert_array_equal(call(mathfun, "exp_of", x), [1, 1, 0, 0, inf, inf, nan])


@pytest.mark.parametrize("instructions", usable())
def test_every_lane_has_the_bits_of_a_number_alone(instructions: str, mathfun: ctypes.CDLL, tmp_path: Path) -> None:
    vectors = compiled(tmp_path, LANES_SOURCE, *([] if instructions == "baseline" else [f"-march={instructions}"]))
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-310, -1e-310, 2.2250738585072014e-308, 1e300, -1e300])
    pairs = np.array(np.meshgrid(special, special)).reshape(2, -1)
    magnitudes = SIGN * 10 ** RNG.uniform(-300, 300, N)
    x, y = np.concatenate([pairs[0], magnitudes, SMALL, UNIT]), np.concatenate([pairs[1], UNIT, magnitudes, SMALL])
    for name in ("log_of", "atan2_of", "asinh_of"):
        np.testing.assert_array_equal(call(vectors, name, x, y), call(mathfun, name, x, y), name)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(call(vectors, "root", x), np.sqrt(x))
