"""Collisions from Pythia 8, kept in blocks that are generated once and cached on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from hltfarm.loadgen.simulation.config import GeneratorConfig
from hltfarm.proto.errors import ConfigError

PROCESSES = ("ttbar", "minbias")
FORMAT = 1  # of the cache files
#: Failures of the generator in a row after which it is given up (single ones are normal, below 1 in 1000 events).
MAX_FAILURES = 100

log = logging.getLogger(__name__)

#: progress(done, total) of the events of a block
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Pool:
    """Generated events, one after the other; event i holds the particles offsets[i] .. offsets[i + 1].

    Charged particles and photons that are stable inside the pixel volume. Positions in cm relative to the interaction, momenta in GeV.
    """

    offsets: NDArray[np.int64]  # (events + 1,)
    pdg: NDArray[np.int32]  # (n,)
    charge: NDArray[np.int8]  # (n,)
    mass: NDArray[np.float32]  # (n,)
    momentum: NDArray[np.float32]  # (n, 3)
    vertex: NDArray[np.float32]  # (n, 3)

    @property
    def events(self) -> int:
        return len(self.offsets) - 1


def generator_version() -> str:
    """Version of the installed generator; ConfigError if there is none."""
    try:
        return version("pythia8mc")
    except PackageNotFoundError:
        raise ConfigError("the simulation needs Pythia 8, which is not installed; try: pip install 'hltfarm[sim]'") from None


def settings(process: str, config: GeneratorConfig) -> tuple[str, ...]:
    """Pythia settings of a process; ConfigError if the process is unknown."""
    common = (
        "Print:quiet = on",
        "Beams:idA = 2212",
        "Beams:idB = 2212",
        f"Beams:eCM = {config.ecm_gev:g}",
        "ParticleDecays:limitTau0 = off",
        "ParticleDecays:limitCylinder = on",
        f"ParticleDecays:xyMax = {config.decay_radius_mm:g}",
        f"ParticleDecays:zMax = {config.decay_half_length_mm:g}",
        # Tracked through the detector: a decay in flight would take the hits of the parent away.
        *(f"{pdg}:mayDecay = off" for pdg in (13, 211, 321, 130, 2112)),
    )
    if process == "minbias":
        return (*common, "SoftQCD:inelastic = on")
    if process == "ttbar":
        return (*common, "Top:gg2ttbar = on", "Top:qqbar2ttbar = on")
    raise ConfigError(f"unknown process {process!r}; known: {', '.join(PROCESSES)}")


def cache_dir() -> Path:
    """Where blocks are kept: $XDG_CACHE_HOME/hltfarm, by default ~/.cache/hltfarm."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hltfarm"


def block(
    process: str,
    seed: int,
    index: int,
    events: int,
    config: GeneratorConfig,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Pool:
    """Block `index` of a process: the same content whether read from the cache or generated.

    A cache file that cannot be read is replaced, with a warning; a cache folder that cannot be written costs a warning, not the run.
    """
    identity = repr((FORMAT, generator_version(), settings(process, config), sorted(asdict(config).items()), seed, index, events))
    path = (cache or cache_dir()) / f"{process}-{hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()}.npz"
    if path.exists():
        try:
            pool = _read(path)
            if pool.events != events:
                raise ValueError(f"{pool.events} events instead of {events}")
            return pool
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            log.warning("generator cache %s is unusable (%s: %s); generating it again", path, type(error).__name__, error)
    pool = _generate(process, seed, index, events, config, progress)
    try:
        _write(path, pool)
    except OSError as error:
        log.warning("generator cache %s cannot be written (%s); the next run generates it again", path, error)
    return pool


def _read(path: Path) -> Pool:
    with path.open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        if not isinstance(stored, NpzFile):
            raise ValueError("not an archive of arrays")
        pool = Pool(**{name: stored[name] for name in Pool.__dataclass_fields__})
    n = int(pool.offsets[-1])
    if any(len(getattr(pool, name)) != n for name in Pool.__dataclass_fields__ if name != "offsets"):
        raise ValueError("tables of different length")
    return pool


def _write(path: Path, pool: Pool) -> None:
    """Write to a temporary file in the same folder and rename: readers see a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as f:
            np.savez(f, **{field: getattr(pool, field) for field in Pool.__dataclass_fields__})
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _generate(process: str, seed: int, index: int, events: int, config: GeneratorConfig, progress: Progress | None) -> Pool:
    import pythia8mc  # an optional dependency, and slow to import

    state = np.random.SeedSequence((seed, PROCESSES.index(process), index)).generate_state(1)
    pythia = pythia8mc.Pythia("", False)
    for line in (*settings(process, config), "Random:setSeed = on", f"Random:seed = {int(state[0]) % 900_000_000 + 1}"):
        if not pythia.readString(line):
            raise ConfigError(f"Pythia refuses the setting {line!r}")
    if not pythia.init():
        raise ConfigError(f"Pythia cannot start with {config}")
    offsets = [0]
    ids: list[tuple[int, float]] = []
    values: list[tuple[float, ...]] = []
    sinh_max = float(np.sinh(config.eta_max))
    failures = 0
    while len(offsets) <= events:
        if not pythia.next():
            failures += 1
            if failures > MAX_FAILURES:
                raise ConfigError(f"Pythia failed {failures} times in a row on {process}; check the settings in {config}")
            continue
        failures = 0
        for p in pythia.event:
            if not p.isFinal():
                continue
            charged, photon = p.isCharged(), p.id() == 22
            if not (charged or photon):
                continue
            pt = p.pT()
            if pt < config.pt_min_gev or abs(p.pz()) > pt * sinh_max or (photon and p.e() < config.photon_e_min_gev):
                continue
            ids.append((p.id(), p.charge()))
            values.append((p.m(), p.px(), p.py(), p.pz(), p.xProd() * 0.1, p.yProd() * 0.1, p.zProd() * 0.1))
        offsets.append(len(ids))
        if progress is not None:
            progress(len(offsets) - 1, events)
    pdg_charge = np.array(ids, np.float64).reshape(-1, 2)
    table = np.array(values, np.float32).reshape(-1, 7)
    return Pool(
        offsets=np.array(offsets, np.int64),
        pdg=pdg_charge[:, 0].astype(np.int32),
        charge=np.rint(pdg_charge[:, 1]).astype(np.int8),
        mass=np.maximum(table[:, 0], 0.0),
        momentum=np.ascontiguousarray(table[:, 1:4]),
        vertex=np.ascontiguousarray(table[:, 4:7]),
    )
