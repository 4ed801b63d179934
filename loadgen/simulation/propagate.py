"""Particles through the detector: from surface to surface along helices, through the module planes near each one.

A visit takes every particle still on its way to its next reference surface (cylinder of a barrel layer, plane of a disk), finds the modules
nearby by lookup, intersects their planes by Newton's method, records what lies inside a sensor and applies the layer's material once.
One visit is a handful of NumPy calls over all particles; the loop over visits is the only one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation import material
from hltfarm.loadgen.simulation.config import TrackingConfig
from hltfarm.loadgen.simulation.geometry import Geometry
from hltfarm.loadgen.simulation.helix import Floats, Orbit, States, advance, cross_planes, curvature, orbit
from hltfarm.loadgen.simulation.particles import Crossings, Interactions, Particles

#: A surface nearer than this along the path is the one the particle stands on, cm.
STANDING_CM = 1e-4
#: Modules farther than this from their reference surface, along the transverse path, are not part of the visit, cm.
VISIT_CM = 6.0
#: The same as an angle in rad, for orbits smaller than the layer is thick.
VISIT_TURN = 2.0
#: The beam pipe lies within this part of the radius of the innermost sensor, whatever the configuration says.
PIPE_WITHIN = 0.95
#: Half of the sensor's thickness times the slope, at most: how far outside its edge a mid-plane crossing may lie, cm.
EDGE_CM = 0.3


@dataclass(eq=False)
class _Travellers:
    """Particles on their way (n)."""

    index: NDArray[np.int32]
    state: States
    momentum: Floats
    mass: Floats
    charge: Floats
    half_turn: NDArray[np.int64]

    def take(self, i: NDArray[np.int64]) -> _Travellers:
        return _Travellers(self.index[i], self.state.take(i), self.momentum[i], self.mass[i], self.charge[i], self.half_turn[i])


def propagate(particles: Particles, geometry: Geometry, config: TrackingConfig, rng: np.random.Generator) -> tuple[Crossings, Interactions]:
    """Crossings of sensor planes and nuclear interactions of all particles.

    Particles must be charged. Ends: out of the detector, stopped, absorbed, or `max_half_turns` done.
    """
    p = np.linalg.norm(particles.momentum, axis=1)
    pt = np.maximum(np.hypot(particles.momentum[:, 0], particles.momentum[:, 1]), 1e-4)
    charge = particles.charge.astype(np.float64)
    state = States(
        x=particles.position[:, 0].copy(),
        y=particles.position[:, 1].copy(),
        z=particles.position[:, 2].copy(),
        phi=np.arctan2(particles.momentum[:, 1], particles.momentum[:, 0]),
        tan_lambda=particles.momentum[:, 2] / pt,
        h=curvature(charge, pt, geometry.field_tesla),
    )
    n = len(particles)
    who = _Travellers(np.arange(n, dtype=np.int32), state, p, particles.mass, charge, np.zeros(n, np.int64))
    who = _through_pipe(who, geometry, config, rng)
    crossings: list[Crossings] = [_no_crossings()]
    ends: list[Interactions] = [_no_interactions()]
    for _ in range(config.max_visits):
        if len(who.index) == 0:
            break
        who, found, ended = _visit(who, geometry, config, rng)
        crossings.append(found)
        ends.append(ended)
    return Crossings.join(crossings), Interactions.join(ends)


def _through_pipe(who: _Travellers, geometry: Geometry, config: TrackingConfig, rng: np.random.Generator) -> _Travellers:
    """Particles made inside the beam pipe are taken to it and pass its wall; those that never reach it are dropped."""
    circle = orbit(who.state)
    pipe = min(config.pipe_radius_cm, PIPE_WITHIN * float(geometry.r_low.min()))
    inside = np.hypot(who.state.x, who.state.y) < pipe
    reaches = circle.farthest > pipe
    turn = circle.turn_at(np.full(len(who.index), pipe))
    s = np.where(inside, np.maximum(turn - circle.turn, 0.0) * circle.radius, 0.0)
    keep = np.flatnonzero(~inside | reaches)
    who, s, inside = who.take(keep), s[keep], inside[keep]
    who.state = advance(who.state, s)
    slant = np.sqrt(1.0 + who.state.tan_lambda**2)
    return _material(who, np.where(inside, config.x0_pipe * np.minimum(slant, 10.0), 0.0), geometry, rng, config)


def _material(who: _Travellers, x0: Floats, geometry: Geometry, rng: np.random.Generator, config: TrackingConfig) -> _Travellers:
    """Lose energy and scatter in x0 radiation lengths; particles that stop are dropped."""
    x = np.maximum(x0, 1e-9)
    p = material.radiate(who.momentum, material.is_electron(who.mass), x, rng)
    p = np.where(x0 > 0, material.ionise(p, who.mass, x, config), who.momentum)
    theta = np.where(x0 > 0, material.scattering_angle(np.maximum(p, 1e-4), who.mass, x), 0.0)
    phi, tan_lambda = material.deflect(who.state.phi, who.state.tan_lambda, theta, rng)
    pt = p / np.sqrt(1.0 + tan_lambda**2)
    state = replace(who.state, phi=phi, tan_lambda=tan_lambda, h=curvature(who.charge, np.maximum(pt, 1e-6), geometry.field_tesla))
    moved = replace(who, state=state, momentum=p)
    return moved.take(np.flatnonzero(pt > 5e-4))


def _next_surface(state: States, circle: Orbit, geometry: Geometry) -> tuple[NDArray[np.int64], Floats]:
    """Layer of the next reference surface of each particle and the transverse path to it (inf: none)."""
    n, barrel = len(state.x), np.flatnonzero(geometry.is_barrel)
    disks = np.flatnonzero(~geometry.is_barrel)
    radius, turn = circle.radius[:, None], circle.turn[:, None]
    wide = Orbit(radius, circle.closest[:, None], circle.product[:, None], turn)
    at = wide.turn_at(geometry.where[barrel][None, :])
    delta = np.concatenate([at - turn, -at - turn], axis=1) % (2 * np.pi)
    delta[delta * radius < STANDING_CM] += 2 * np.pi
    s_barrel = delta * radius
    reached = (wide.farthest > geometry.r_low[barrel]) & (wide.closest < geometry.r_high[barrel])
    z = state.z[:, None] + s_barrel * state.tan_lambda[:, None]
    ok = np.concatenate([reached, reached], axis=1)
    ok &= (z > np.tile(geometry.t_low[barrel], 2)) & (z < np.tile(geometry.t_high[barrel], 2))
    s_barrel[~ok] = np.inf

    slope = np.where(np.abs(state.tan_lambda) < 1e-9, 1e-9, state.tan_lambda)[:, None]
    s_disk = (geometry.where[disks][None, :] - state.z[:, None]) / slope
    ahead = (s_disk > STANDING_CM) & (np.abs(geometry.where[disks][None, :] - state.z[:, None]) > STANDING_CM)
    r = wide.radius_at(turn + np.where(ahead, s_disk, 0.0) / radius)
    ok = ahead & (r > geometry.t_low[disks]) & (r < geometry.t_high[disks])
    s_disk[~ok] = np.inf

    layers = np.concatenate([barrel, barrel, disks])
    s = np.concatenate([s_barrel, s_disk], axis=1)
    best = np.argmin(s, axis=1)
    return layers[best], s[np.arange(n), best]


def _outer_tracker(who: _Travellers, circle: Orbit, s: Floats, config: TrackingConfig) -> tuple[Floats, NDArray[np.bool_]]:
    """Radiation lengths of outer layers crossed on the path s, and whether the particle comes back at all."""
    over_apogee = (circle.turn < np.pi) & (circle.turn + s / circle.radius > np.pi)
    layers = np.searchsorted(np.array(config.outer_radii_cm), circle.farthest)
    z = who.state.z + who.state.tan_lambda * circle.radius * (np.pi - circle.turn)
    lost = over_apogee & ((layers == len(config.outer_radii_cm)) | (np.abs(z) > config.outer_half_length_cm))
    slant = np.sqrt(1.0 + who.state.tan_lambda**2)
    return np.where(over_apogee, 2.0 * layers * config.x0_outer * np.minimum(slant, 8.0), 0.0), ~lost


def _visit(
    who: _Travellers, geometry: Geometry, config: TrackingConfig, rng: np.random.Generator
) -> tuple[_Travellers, Crossings, Interactions]:
    """Take every particle to its next reference surface and through the modules near it."""
    circle = orbit(who.state)
    layer, s = _next_surface(who.state, circle, geometry)
    keep = np.isfinite(s)
    s = np.where(keep, s, 0.0)
    outer, returns = _outer_tracker(who, circle, s, config)
    turns = who.half_turn + _turning_points(circle.turn, circle.turn + s / circle.radius)
    going = np.flatnonzero(keep & returns & (turns < config.max_half_turns))
    who, layer, s, outer = who.take(going), layer[going], s[going], outer[going]
    turn, radius = circle.turn[going], circle.radius[going]

    at = advance(who.state, s)
    t = np.where(geometry.is_barrel[layer], at.z, np.hypot(at.x, at.y))
    near = geometry.modules_near(layer, np.arctan2(at.y, at.x), t)
    row, slot = np.nonzero(near >= 0)
    found, reach = _crossings(who, row, near[row, slot].astype(np.int64), s, turn, radius, geometry)
    found = found.take(np.flatnonzero(found.half_turn < config.max_half_turns))

    s = np.maximum(s, reach)
    who.half_turn = who.half_turn + _turning_points(turn, turn + s / radius)
    who.state = advance(who.state, s)
    # Keep angles small: they grow by 2 pi per turn.
    who.state.phi = (who.state.phi + np.pi) % (2 * np.pi) - np.pi
    tan = who.state.tan_lambda
    r = np.maximum(np.hypot(who.state.x, who.state.y), 1e-6)
    radial = np.abs(who.state.x * np.cos(who.state.phi) + who.state.y * np.sin(who.state.phi)) / r
    cosine = np.where(geometry.is_barrel[layer], radial, np.abs(tan)) / np.sqrt(1.0 + tan**2)
    thickness = np.where(geometry.is_barrel[layer], config.x0_barrel, config.x0_disk)
    x0 = np.where((near >= 0).any(axis=1), thickness / np.maximum(cosine, 0.12), 0.0) + outer

    absorbed = material.is_hadron(who.mass) & (rng.random(len(x0)) < 1.0 - np.exp(-x0 * config.lambda_per_x0))
    # What happens in the outer tracker makes no secondaries here.
    visible = np.flatnonzero(absorbed & (outer == 0))
    ended = Interactions(
        particle=who.index[visible],
        point=np.stack([who.state.x[visible], who.state.y[visible], who.state.z[visible]], axis=1),
        direction=_direction(who.state.phi[visible], tan[visible]),
        momentum=who.momentum[visible],
    )
    alive = np.flatnonzero(~absorbed)
    return _material(who.take(alive), x0[alive], geometry, rng, config), found, ended


def _crossings(
    who: _Travellers, row: NDArray[np.int64], module: NDArray[np.int64], s: Floats, turn: Floats, radius: Floats, geometry: Geometry
) -> tuple[Crossings, Floats]:
    """Crossings of candidate modules (row: traveller of each), ordered by (row, path), and the farthest path of each traveller."""
    reach = np.zeros(len(s))
    path, ok = cross_planes(who.state.take(row), s[row], module, geometry)
    nearby = np.abs(path - s[row]) < np.minimum(VISIT_CM, VISIT_TURN * radius[row])
    i = np.flatnonzero(ok & (path > STANDING_CM) & nearby)
    row, module, path = row[i], module[i], path[i]
    at = advance(who.state.take(row), path)
    point = np.stack([at.x, at.y, at.z], axis=1)
    rotation = geometry.rotation[module]
    local = np.einsum("nij,nj->ni", rotation[:, :2], point - geometry.position[module])
    direction = _direction(at.phi, at.tan_lambda)
    ahead = np.einsum("nij,nj->ni", rotation, direction)
    normal = np.where(np.abs(ahead[:, 2]) < 1e-3, np.copysign(1e-3, ahead[:, 2]), ahead[:, 2])
    slope = ahead[:, :2] / normal[:, None]
    margin = np.minimum(0.5 * geometry.thickness[module][:, None] * np.abs(slope), EDGE_CM)
    inside = np.all(np.abs(local) < np.array([geometry.half_x, geometry.half_y]) + margin, axis=1)
    i = np.flatnonzero(inside)
    i = i[np.lexsort((path[i], row[i]))]
    np.maximum.at(reach, row[i], path[i])
    turns = who.half_turn[row[i]] + _turning_points(turn[row[i]], turn[row[i]] + path[i] / radius[row[i]])
    return Crossings(
        particle=who.index[row[i]],
        module=module[i].astype(np.int32),
        local=local[i],
        slope=slope[i],
        point=point[i],
        direction=direction[i],
        momentum=who.momentum[row[i]],
        half_turn=turns.astype(np.int8),
    ), reach


def _turning_points(before: Floats, after: Floats) -> NDArray[np.int64]:
    """Apogees and perigees passed between two turn angles."""
    return (np.floor(after / np.pi) - np.floor(before / np.pi)).astype(np.int64)


def _direction(phi: Floats, tan_lambda: Floats) -> Floats:
    """Unit vectors, shape (n, 3)."""
    cos_lambda = 1.0 / np.sqrt(1.0 + tan_lambda**2)
    return np.stack([np.cos(phi) * cos_lambda, np.sin(phi) * cos_lambda, tan_lambda * cos_lambda], axis=1)


def _no_crossings() -> Crossings:
    f = np.zeros((0, 3))
    i = np.zeros(0, np.int32)
    return Crossings(i, i, f[:, :2], f[:, :2], f, f, f[:, 0], np.zeros(0, np.int8))


def _no_interactions() -> Interactions:
    f = np.zeros((0, 3))
    return Interactions(np.zeros(0, np.int32), f, f, f[:, 0])
