"""Energy of charged particles in silicon, step by step along their path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation.config import SensorConfig
from hltfarm.loadgen.simulation.material import kinetic
from hltfarm.loadgen.simulation.particles import ELECTRON_MASS

Floats = NDArray[np.float64]

#: Silicon: xi = XI_PER_CM * path / beta^2, mean excitation energy, plasma correction (Sternheimer, Berger, Seltzer, ADNDT 30 (1984) 261).
XI_PER_CM_GEV = 0.5 * 0.307075e-3 * 0.49848 * 2.329
EXCITATION_GEV = 173e-9
STERNHEIMER = (4.4351, 0.2014, 2.8715, 0.14921, 3.2546)  # C, x0, x1, a, k
EULER = 0.5772156649015329
#: Energy of a delta electron from which its range matters on the scale of a pixel, GeV.
DELTA_VISIBLE_GEV = 20e-6
SILICON_DENSITY = 2.329


@dataclass(frozen=True, eq=False)
class Steps:
    """n steps; charge in electrons at a point of a sensor's local frame."""

    crossing: NDArray[np.int64]  # (n,)
    x: Floats
    y: Floats
    z: Floats
    electrons: Floats


def landau(n: int, rng: np.random.Generator) -> Floats:
    """Landau's variable lambda (mode -0.223): a stable law with alpha = 1, beta = 1, by the method of Chambers, Mallows and Stuck."""
    u = np.pi * (rng.random(n) - 0.5)
    w = rng.standard_exponential(n)
    a = 0.5 * np.pi + u
    out: Floats = a * np.tan(u) - np.log(w * np.cos(u) / a)
    return out


def density_effect(beta_gamma: Floats) -> Floats:
    """Density correction delta of silicon."""
    c, x0, x1, a, k = STERNHEIMER
    x = np.log10(np.maximum(beta_gamma, 1e-6))
    full = 2.0 * np.log(10.0) * x - c
    return np.where(x < x0, 0.0, full + np.where(x < x1, a * np.maximum(x1 - x, 0.0) ** k, 0.0))


def deposit(
    local: Floats, slope: Floats, thickness: Floats, momentum: Floats, mass: Floats, config: SensorConfig, rng: np.random.Generator
) -> Steps:
    """Charge along the straight paths of particles through sensors.

    `local` and `slope` are (n, 2): where and how the particle crosses the mid-plane. Each path is cut in equal steps; the energy of a step
    follows Landau's law for its own length, so that the sum follows it for the whole path (the shift -ln(steps) is in ln(xi) of a step).
    Delta electrons carry the tail of the law away by their range. The sum never exceeds the particle's kinetic energy.
    """
    along = np.abs(slope) * thickness[:, None]
    steps = np.ceil(np.maximum(along[:, 0] / config.step_x_cm, along[:, 1] / config.step_y_cm)).astype(np.int64)
    steps = np.clip(steps, config.min_steps, config.max_steps)
    i = np.repeat(np.arange(len(steps)), steps)
    k = np.arange(len(i)) - np.repeat(np.cumsum(steps) - steps, steps)
    z = thickness[i] * ((k + 0.5) / steps[i] - 0.5)

    beta_gamma = np.maximum(momentum / mass, 1e-3)
    beta2 = beta_gamma**2 / (1.0 + beta_gamma**2)
    step_cm = thickness * np.sqrt(1.0 + (slope**2).sum(axis=1)) / steps
    xi = XI_PER_CM_GEV * step_cm / beta2
    t_max = 2.0 * ELECTRON_MASS * beta_gamma**2
    shift = np.log(t_max * xi / EXCITATION_GEV**2) + 1.0 - EULER - beta2 - density_effect(beta_gamma)
    core = xi * np.maximum(shift, 1.0)
    tail = np.minimum(xi[i] * landau(len(i), rng), np.minimum(t_max, config.delta_cut_gev)[i])
    energy = np.maximum(core[i] + tail, 0.0)

    total = np.bincount(i, energy, minlength=len(steps))
    energy *= np.minimum(1.0, kinetic(momentum, mass) / np.maximum(total, 1e-15))[i]
    x, y = local[i, 0] + slope[i, 0] * z, local[i, 1] + slope[i, 1] * z
    far = np.flatnonzero(tail > DELTA_VISIBLE_GEV)
    turn = 2 * np.pi * rng.random(len(far))
    reach = 0.5 * electron_range(tail[far]) * rng.random(len(far))
    x[far] += reach * np.cos(turn)
    y[far] += reach * np.sin(turn)
    return Steps(i, x, y, z, energy / config.pair_energy_gev)


def electron_range(energy_gev: Floats) -> Floats:
    """Range of an electron in silicon in cm (Katz and Penfold, 0.01 to 3 MeV)."""
    mev = energy_gev * 1e3
    out: Floats = 0.412 * mev ** (1.265 - 0.0954 * np.log(mev)) / SILICON_DENSITY
    return out
