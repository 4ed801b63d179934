"""One event from generated collisions to raw data and truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.simulation import faults, generator
from hltfarm.loadgen.simulation.config import SimulationConfig
from hltfarm.loadgen.simulation.deposit import deposit
from hltfarm.loadgen.simulation.digitize import Digis, collect, drift, in_first_layer, read_out
from hltfarm.loadgen.simulation.geometry import build
from hltfarm.loadgen.simulation.particles import GENERATOR, OUT_OF_TIME, Crossings, Particles
from hltfarm.loadgen.simulation.propagate import propagate
from hltfarm.loadgen.simulation.secondaries import convert_photons, soft_component
from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import pack_event

PHOTON = 22
#: Events of a luminosity section.
LUMI_EVENTS = 1000
ORBIT_BX = 3564
#: Streams of random numbers that belong to the whole run start here; events use their own number.
RUN_STREAM = 1 << 62

Truth = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class _Interactions:
    """Vertices of an event, cm: the hard scatter first, then pileup, then what is out of time."""

    position: NDArray[np.float64]  # (n, 3)
    in_time: int


class Simulator:
    """Simulates events of one detector, process, pileup and seed; event k is the same whichever others are made, and in what order.

    Keeps the generator blocks in use in memory. Not thread-safe.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        process: str = "ttbar",
        pileup: float = 50.0,
        seed: int = 1,
        config: SimulationConfig | None = None,
        cache: Path | None = None,
        run: int = 1,
    ) -> None:
        """Raises ConfigError for an unknown process, a negative pileup or seed."""
        if process not in generator.PROCESSES:
            raise ConfigError(f"unknown process {process!r}; known: {', '.join(generator.PROCESSES)}")
        if not 0 <= pileup <= 1000:
            raise ConfigError(f"pileup {pileup} is not in 0 .. 1000")
        if not 0 <= seed < 1 << 63:
            raise ConfigError(f"seed {seed} is not in 0 .. 2^63 - 1")
        self.detector, self.process, self.pileup, self.seed, self.run = detector, process, pileup, seed, run
        self.config = config or SimulationConfig()
        self._cache = cache
        self._geometry = build(detector)
        self._blocks: dict[tuple[str, int], generator.Pool] = {}
        chips = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(RUN_STREAM,)))
        self._dead = faults.dead_chips(detector, self.config.faults, chips)

    def blocks_of(self, event: int) -> list[tuple[str, int, int]]:
        """Generator blocks that an event draws from: (process, index, events in the block)."""
        c = self.config.generator
        minbias = ("minbias", (event // c.group_events) % c.minbias_blocks, c.minbias_block)
        return [minbias] if self.process == "minbias" else [(self.process, event // c.hard_block, c.hard_block), minbias]

    def block(self, process: str, index: int, events: int, progress: generator.Progress | None = None) -> generator.Pool:
        """A generator block, from memory, the cache on disk, or made now (seconds)."""
        if (process, index) not in self._blocks:
            for old in [key for key in self._blocks if key[0] == process]:
                del self._blocks[old]
            c = self.config.generator
            self._blocks[process, index] = generator.block(process, self.seed, index, events, c, cache=self._cache, progress=progress)
        return self._blocks[process, index]

    def event(self, k: int) -> tuple[RawEvent, Truth]:
        """Event k (from 0): raw data, and truth tables named as in docs/simulation.md with indices local to the event."""
        c = self.config
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(k,))))
        generated, interactions = self._collide(k, rng)
        photons = generated.take(generated.pdg == PHOTON)
        charged = generated.take(generated.charge != 0)
        pairs = convert_photons(photons, self._geometry, c.tracking, c.secondaries, rng)
        first = Particles.join([charged, pairs])
        crossings, ends = propagate(first, self._geometry, c.tracking, rng)
        soft = soft_component(first, crossings, ends, self._geometry, c.secondaries, rng)
        more, _ = propagate(soft, self._geometry, c.tracking, rng)
        particles = Particles.join([first, soft])
        shifted = more.particle + np.int32(len(first))
        crossings = Crossings.join([crossings, Crossings(shifted, *(getattr(more, f) for f in list(more.__dataclass_fields__)[1:]))])
        digis = self._digitize(particles, crossings, rng)
        bx = int(rng.integers(0, ORBIT_BX))
        payload = pack_event(self.detector, digis.module, digis.row, digis.col, digis.adc, event_number=k, bx=bx)
        if c.faults.error_words > 0:
            payload = faults.with_error_words(payload, int(rng.poisson(c.faults.error_words)), k, bx, rng)
        event = RawEvent(EventId(self.run, 1 + k // LUMI_EVENTS, k, bx), payload)
        return event, _truth(particles, crossings, digis, interactions)

    def _collide(self, k: int, rng: np.random.Generator) -> tuple[Particles, _Interactions]:
        """Draw the interactions, turn and mirror them at random, and put them into the luminous region."""
        c, spot = self.config, self.detector.beam_spot
        blocks = {process: self.block(process, index, events) for process, index, events in self.blocks_of(k)}
        pool = blocks["minbias"]
        n_pileup, n_late = int(rng.poisson(self.pileup)), int(rng.poisson(c.faults.out_of_time_pileup))
        hard = k % c.generator.hard_block if self.process != "minbias" else int(rng.integers(pool.events))
        others = rng.integers(0, pool.events, n_pileup + n_late)
        draws = [(blocks[self.process], hard), *((pool, i) for i in others.tolist())]
        n = len(draws)
        position = np.array([spot.x, spot.y, spot.z]) + rng.standard_normal((n, 3)) * np.array([spot.sigma_x, spot.sigma_y, spot.sigma_z])
        angle, flip = 2 * np.pi * rng.random(n), np.where(rng.random(n) < 0.5, -1.0, 1.0)
        parts = []
        for i, (source, number) in enumerate(draws):
            s = slice(int(source.offsets[number]), int(source.offsets[number + 1]))
            m = s.stop - s.start
            cos, sin = np.cos(angle[i]), np.sin(angle[i])
            turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, flip[i]]])  # row vectors times this
            parts.append(
                Particles(
                    interaction=np.full(m, i, np.int32),
                    pdg=source.pdg[s],
                    charge=source.charge[s],
                    mass=source.mass[s].astype(np.float64),
                    position=source.vertex[s].astype(np.float64) @ turn + position[i],
                    momentum=source.momentum[s].astype(np.float64) @ turn,
                    source=np.full(m, GENERATOR if i <= n_pileup else OUT_OF_TIME, np.int8),
                )
            )
        return Particles.join(parts), _Interactions(position, 1 + n_pileup)

    def _digitize(self, particles: Particles, crossings: Crossings, rng: np.random.Generator) -> Digis:
        """Charge of all crossings that are not lost, collected, read out; faults applied."""
        c, d = self.config, self.detector
        module = crossings.module.astype(np.int64)
        lost = np.where(in_first_layer(module, d), c.sensor.hit_loss_layer1, c.sensor.hit_loss_other)
        late = particles.source[crossings.particle] == OUT_OF_TIME
        seen = np.flatnonzero(rng.random(len(module)) < (1.0 - lost) * np.where(late, c.faults.out_of_time_fraction, 1.0))
        mass = particles.mass[crossings.particle[seen]]
        thickness = d.modules.thickness[module[seen]].astype(np.float64)
        steps = deposit(crossings.local[seen], crossings.slope[seen], thickness, crossings.momentum[seen], mass, c.sensor, rng)
        row, col = drift(steps, module[seen], d, c.sensor, rng)
        key, electrons, hit = collect(steps, module[seen], row, col, d)
        digis = read_out(key, electrons, seen[hit], d, c.sensor, rng)
        if c.faults.noise_pixels > 0:
            digis = faults.with_noise(digis, d, c.faults, c.sensor, rng)
        return faults.without_dead(digis, self._dead, d) if self._dead.any() else digis


def _truth(particles: Particles, crossings: Crossings, digis: Digis, interactions: _Interactions) -> Truth:
    """Truth tables: all charged particles of the generator, and secondaries that cross a sensor. float32, cm, GeV."""
    crosses = np.zeros(len(particles), bool)
    crosses[crossings.particle] = True
    kept = np.flatnonzero(crosses | (particles.source == GENERATOR))
    index = np.full(len(particles), -1, np.int32)
    index[kept] = np.arange(len(kept), dtype=np.int32)
    p = particles.take(kept)
    pt = np.hypot(p.momentum[:, 0], p.momentum[:, 1])
    in_time = p.interaction < interactions.in_time
    f4 = np.float32
    return {
        "part_vtx": np.where(in_time, p.interaction, -1).astype(np.int32),
        "part_pdg": p.pdg,
        "part_q": p.charge,
        "part_pt": pt.astype(f4),
        "part_eta": np.arcsinh(p.momentum[:, 2] / np.maximum(pt, 1e-9)).astype(f4),
        "part_phi": np.arctan2(p.momentum[:, 1], p.momentum[:, 0]).astype(f4),
        "part_vx": p.position[:, 0].astype(f4),
        "part_vy": p.position[:, 1].astype(f4),
        "part_vz": p.position[:, 2].astype(f4),
        "part_hs": (p.interaction == 0) & in_time,
        "part_src": p.source,
        "vtx_xyz": interactions.position[: interactions.in_time].astype(f4),
        "vtx_hs": np.arange(interactions.in_time) == 0,
        "hit_part": index[crossings.particle],
        "hit_module": crossings.module.astype(np.uint16),
        "hit_lx": crossings.local[:, 0].astype(f4),
        "hit_ly": crossings.local[:, 1].astype(f4),
        "hit_cotalpha": crossings.slope[:, 0].astype(f4),
        "hit_cotbeta": crossings.slope[:, 1].astype(f4),
        "hit_gx": crossings.point[:, 0].astype(f4),
        "hit_gy": crossings.point[:, 1].astype(f4),
        "hit_gz": crossings.point[:, 2].astype(f4),
        "hit_pass": crossings.half_turn,
        "digi_module": digis.module.astype(np.uint16),
        "digi_row": digis.row.astype(np.uint16),
        "digi_col": digis.col.astype(np.uint16),
        "digi_adc": digis.adc.astype(np.uint8),
        "digi_hit": digis.hit.astype(np.int32),
    }
