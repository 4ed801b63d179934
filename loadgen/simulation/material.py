"""Energy loss, multiple scattering and absorption in a layer of material."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation.config import TrackingConfig
from hltfarm.loadgen.simulation.particles import ELECTRON_MASS

Floats = NDArray[np.float64]

#: Exponent of the range-energy relation of slow particles, range ~ T^RANGE_POWER (Bragg-Kleeman rule).
RANGE_POWER = 1.77


def relative_loss(beta_gamma: Floats) -> Floats:
    """Mean ionisation loss relative to a minimum-ionising particle.

    A fit of the shape of the Bethe formula: beta^(-5/3) below the minimum (PDG review, passage of particles through matter),
    a logarithmic rise that saturates 12 % above it.
    """
    beta2 = beta_gamma**2 / (1.0 + beta_gamma**2)
    rise = np.clip(0.03 * np.log(np.maximum(beta_gamma, 1e-3) / 3.5), 0.0, 0.12)
    out: Floats = np.maximum(beta2 ** (-5.0 / 6.0) * 0.935, 1.0) + rise
    return out


def kinetic(momentum: Floats, mass: Floats) -> Floats:
    """Kinetic energy in GeV; exact for slow particles too."""
    return momentum**2 / (np.sqrt(momentum**2 + mass**2) + mass)


def momentum_of(kinetic_gev: Floats, mass: Floats) -> Floats:
    """Momentum in GeV of a kinetic energy."""
    return np.sqrt(kinetic_gev * (kinetic_gev + 2.0 * mass))


def ionise(momentum: Floats, mass: Floats, x0: Floats, config: TrackingConfig) -> Floats:
    """Momentum after x0 radiation lengths; 0 for particles that stop.

    Fast particles lose the mean; slow ones follow the range-energy relation, T1^k = T0^k - k T0^(k - 1) dE, which ends at the range.
    """
    t0 = kinetic(momentum, mass)
    loss = relative_loss(momentum / mass) * config.loss_per_x0_gev * x0
    fraction = np.minimum(loss / np.maximum(t0, 1e-12), 1e3)
    left = np.where(fraction < 0.05, 1.0 - fraction, np.maximum(1.0 - RANGE_POWER * fraction, 0.0) ** (1.0 / RANGE_POWER))
    return momentum_of(t0 * left, mass)


def radiate(momentum: Floats, electron: NDArray[np.bool_], x0: Floats, rng: np.random.Generator) -> Floats:
    """Momentum of electrons after bremsstrahlung: ln(E0 / E1) follows a gamma law of shape x0 / ln 2 (Bethe and Heitler)."""
    i = np.flatnonzero(electron)
    out = momentum.copy()
    out[i] *= np.exp(-rng.standard_gamma(x0[i] / np.log(2.0)))
    return out


def scattering_angle(momentum: Floats, mass: Floats, x0: Floats) -> Floats:
    """Projected rms angle of multiple scattering (Highland's formula, PDG review), at most 0.5 rad."""
    beta = momentum / np.sqrt(momentum**2 + mass**2)
    theta = 0.0136 / (beta * np.maximum(momentum, 1e-6)) * np.sqrt(x0) * np.maximum(1.0 + 0.038 * np.log(x0), 0.3)
    return np.minimum(theta, 0.5)


def deflect(phi: Floats, tan_lambda: Floats, theta: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Directions after two independent small rotations of rms theta."""
    a, b = rng.standard_normal((2, len(phi))) * theta
    cos_lambda = 1.0 / np.sqrt(1.0 + tan_lambda**2)
    lam = np.arctan(tan_lambda) + b
    return phi + a / np.maximum(cos_lambda, 0.05), np.tan(np.clip(lam, -1.55, 1.55))


def is_electron(mass: Floats) -> NDArray[np.bool_]:
    """Electrons and positrons, told by their mass."""
    return mass < 2 * ELECTRON_MASS


def is_hadron(mass: Floats) -> NDArray[np.bool_]:
    """Neither electron nor muon."""
    return mass > 0.12
