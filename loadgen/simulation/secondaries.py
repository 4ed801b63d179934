"""The soft component: conversions, products of nuclear interactions, delta electrons and slow hadrons.

Simple shapes with tuned rates; docs/simulation.md says what each stands for and how the rates were found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation.config import SecondaryConfig, TrackingConfig
from hltfarm.loadgen.simulation.geometry import Geometry
from hltfarm.loadgen.simulation.material import momentum_of
from hltfarm.loadgen.simulation.particles import (
    CONVERSION,
    ELECTRON_MASS,
    PION_MASS,
    PROTON_MASS,
    SECONDARY,
    Crossings,
    Interactions,
    Particles,
)

Floats = NDArray[np.float64]

#: Secondaries start this far behind the plane they are made in, cm: outside the sensor, inside its support.
BEHIND_CM = 0.02


def convert_photons(
    photons: Particles, geometry: Geometry, tracking: TrackingConfig, config: SecondaryConfig, rng: np.random.Generator
) -> Particles:
    """Electron-positron pairs of photons that convert in the beam pipe, a barrel layer or a disk.

    Straight lines to the reference surfaces; the energy is shared uniformly (close to the Bethe-Heitler spectrum above 100 MeV).
    """
    p = np.linalg.norm(photons.momentum, axis=1)
    u = photons.momentum / np.maximum(p, 1e-12)[:, None]
    paths, depths = _photon_surfaces(photons.position, u, geometry, tracking)
    order = np.argsort(paths, axis=1)
    paths, depths = np.take_along_axis(paths, order, axis=1), np.take_along_axis(depths, order, axis=1)
    absorbed = 1.0 - np.exp(-np.cumsum(depths, axis=1) * config.conversion_per_x0)
    draw = rng.random(len(photons))
    at = (absorbed < draw[:, None]).sum(axis=1)
    share = rng.random(len(photons))
    i = np.flatnonzero(at < paths.shape[1])
    point = photons.position[i] + u[i] * paths[i, at[i]][:, None]
    pairs = []
    for charge, fraction in ((-1, share[i]), (1, 1.0 - share[i])):
        momentum = p[i] * fraction
        keep = np.flatnonzero(momentum > config.conversion_p_min_gev)
        pairs.append(
            Particles(
                interaction=photons.interaction[i][keep],
                pdg=np.full(len(keep), -11 * charge, np.int32),
                charge=np.full(len(keep), charge, np.int8),
                mass=np.full(len(keep), ELECTRON_MASS),
                position=point[keep],
                momentum=u[i][keep] * momentum[keep, None],
                source=np.where(photons.source[i][keep] == 0, CONVERSION, photons.source[i][keep]).astype(np.int8),
            )
        )
    return Particles.join(pairs)


def _photon_surfaces(start: Floats, u: Floats, geometry: Geometry, tracking: TrackingConfig) -> tuple[Floats, Floats]:
    """Path to each surface (inf: not met) and radiation lengths there, both (n, surfaces)."""
    paths, depths = [], []
    a = np.maximum(u[:, 0] ** 2 + u[:, 1] ** 2, 1e-12)
    b = start[:, 0] * u[:, 0] + start[:, 1] * u[:, 1]
    c = start[:, 0] ** 2 + start[:, 1] ** 2
    barrel = np.flatnonzero(geometry.is_barrel)
    cylinders = [(tracking.pipe_radius_cm, -300.0, 300.0, tracking.x0_pipe)]
    cylinders += [(float(geometry.where[i]), float(geometry.t_low[i]), float(geometry.t_high[i]), tracking.x0_barrel) for i in barrel]
    for r, z0, z1, x0 in cylinders:
        root = b**2 - a * (c - r**2)
        s = (-b + np.sqrt(np.maximum(root, 0.0))) / a
        z = start[:, 2] + s * u[:, 2]
        ok = (root > 0) & (s > 0) & (z > z0) & (z < z1)
        paths.append(np.where(ok, s, np.inf))
        depths.append(np.where(ok, x0 / np.maximum(np.sqrt(a), 0.1), 0.0))
    for i in np.flatnonzero(~geometry.is_barrel):
        s = (geometry.where[i] - start[:, 2]) / np.where(np.abs(u[:, 2]) < 1e-9, 1e-9, u[:, 2])
        r = np.hypot(start[:, 0] + s * u[:, 0], start[:, 1] + s * u[:, 1])
        ok = (s > 0) & (r > geometry.r_low[i]) & (r < geometry.r_high[i])
        paths.append(np.where(ok, s, np.inf))
        depths.append(np.where(ok, tracking.x0_disk / np.maximum(np.abs(u[:, 2]), 0.1), 0.0))
    return np.stack(paths, axis=1), np.stack(depths, axis=1)


def soft_component(
    parents: Particles, crossings: Crossings, ends: Interactions, geometry: Geometry, config: SecondaryConfig, rng: np.random.Generator
) -> Particles:
    """Charged secondaries made where particles crossed sensors or ended."""
    return Particles.join(
        [
            _nuclear(parents, ends, config, rng),
            _delta_electrons(parents, crossings, geometry, config, rng),
            _slow_hadrons(parents, crossings, geometry, config, rng),
        ]
    )


def _nuclear(parents: Particles, ends: Interactions, config: SecondaryConfig, rng: np.random.Generator) -> Particles:
    """Products of nuclear interactions: pions along the hadron's direction, slower protons, energy growing with the hadron's momentum."""
    n = rng.poisson(config.nuclear_multiplicity, len(ends))
    i = np.repeat(np.arange(len(ends)), n)
    proton = rng.random(len(i)) < 0.4
    mean = np.where(proton, 0.060, np.minimum(0.060 + 0.08 * ends.momentum[i], 0.5))
    energy = np.minimum(rng.exponential(mean), 0.7 * ends.momentum[i])
    direction = _unit(ends.direction[i] * np.where(proton, 0.4, 1.2)[:, None] + _isotropic(len(i), rng))
    return _make(parents, ends.particle[i], ends.point[i], direction, energy, proton, rng)


def _delta_electrons(
    parents: Particles, crossings: Crossings, geometry: Geometry, config: SecondaryConfig, rng: np.random.Generator
) -> Particles:
    """Electrons knocked out of a layer: spectrum 1/T^2, angle cos^2 = T / (T + 2 m) to the particle."""
    i = _chosen(crossings, config.delta_per_crossing, rng)
    low, high = 1.0 / config.delta_t_min_gev, 1.0 / config.delta_t_max_gev
    energy = 1.0 / (high + (low - high) * rng.random(len(i)))
    cosine = np.sqrt(energy / (energy + 2 * ELECTRON_MASS))[:, None]
    ahead = crossings.direction[i]
    aside = _isotropic(len(i), rng)
    aside = _unit(aside - ahead * np.einsum("ij,ij->i", aside, ahead)[:, None])
    direction = ahead * cosine + aside * np.sqrt(1.0 - cosine**2)
    parent = crossings.particle[i]
    return Particles(
        interaction=parents.interaction[parent],
        pdg=np.full(len(i), 11, np.int32),
        charge=np.full(len(i), -1, np.int8),
        mass=np.full(len(i), ELECTRON_MASS),
        position=_behind(crossings, i, geometry),
        momentum=direction * momentum_of(energy, np.full(len(i), ELECTRON_MASS))[:, None],
        source=_source(parents, parent),
    )


def _slow_hadrons(
    parents: Particles, crossings: Crossings, geometry: Geometry, config: SecondaryConfig, rng: np.random.Generator
) -> Particles:
    """Slow pions and protons in all directions, exponential in kinetic energy: albedo, evaporation, neutron-induced."""
    i = _chosen(crossings, config.slow_per_crossing, rng)
    proton = rng.random(len(i)) < config.slow_proton_fraction
    energy = rng.exponential(np.where(proton, config.slow_proton_t_gev, config.slow_pion_t_gev))
    return _make(parents, crossings.particle[i], _behind(crossings, i, geometry), _isotropic(len(i), rng), energy, proton, rng)


def _chosen(crossings: Crossings, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Crossings (repeated) at which something is made: Poisson, proportional to the path in the layer, first pass only."""
    slant = np.minimum(np.sqrt(1.0 + (crossings.slope**2).sum(axis=1)), 5.0)
    return np.repeat(np.arange(len(crossings)), rng.poisson(np.where(crossings.half_turn == 0, rate * slant, 0.0)))


def _behind(crossings: Crossings, i: NDArray[np.int64], geometry: Geometry) -> Floats:
    """Points just behind the sensor, as seen by the particle."""
    normal = geometry.rotation[crossings.module[i], 2]
    side = np.sign(np.einsum("ij,ij->i", normal, crossings.direction[i]))
    out: Floats = crossings.point[i] + normal * (BEHIND_CM * side)[:, None]
    return out


def _make(
    parents: Particles,
    parent: NDArray[np.int32],
    point: Floats,
    direction: Floats,
    energy: Floats,
    proton: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Particles:
    """Protons, and pions of either charge."""
    charge = np.where(proton, 1, np.where(rng.random(len(proton)) < 0.5, 1, -1)).astype(np.int8)
    mass = np.where(proton, PROTON_MASS, PION_MASS)
    return Particles(
        interaction=parents.interaction[parent],
        pdg=np.where(proton, 2212, 211 * charge.astype(np.int32)).astype(np.int32),
        charge=charge,
        mass=mass,
        position=point,
        momentum=direction * momentum_of(energy, mass)[:, None],
        source=_source(parents, parent),
    )


def _source(parents: Particles, parent: NDArray[np.int32]) -> NDArray[np.int8]:
    """Secondaries of this crossing's particles are SECONDARY; those of out-of-time particles stay out of time."""
    out: NDArray[np.int8] = np.maximum(parents.source[parent], SECONDARY)
    return out


def _isotropic(n: int, rng: np.random.Generator) -> Floats:
    return _unit(rng.standard_normal((n, 3)))


def _unit(v: Floats) -> Floats:
    out: Floats = v / np.maximum(np.linalg.norm(v, axis=1), 1e-12)[:, None]
    return out
