"""The generator pool and the command function of the simulation, with real collisions (few)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.simulate import run
from hltfarm.loadgen.simulation import generator
from hltfarm.loadgen.simulation.config import FaultConfig, GeneratorConfig, SimulationConfig
from hltfarm.loadgen.source import open_source
from hltfarm.proto.errors import ConfigError, SampleError

try:
    generator.generator_version()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

SMALL = SimulationConfig(generator=GeneratorConfig(minbias_block=40, hard_block=3))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the tests of this file share."""
    return tmp_path_factory.mktemp("pool")


def simulate(out: Path, pool: Path, **options: object) -> bytes:
    arguments: dict[str, object] = {"events": 2, "pileup": 5.0, "seed": 3, "config": SMALL, "progress": False} | options
    run(out=out, cache=pool, **arguments)  # type: ignore[arg-type]
    return out.read_bytes() if out.is_file() else b""


def test_same_seed_same_bytes(tmp_path: Path, pool: Path) -> None:
    first = simulate(tmp_path / "a.hlt", pool)
    assert first == simulate(tmp_path / "b.hlt", pool)
    assert first != simulate(tmp_path / "c.hlt", pool, pileup=6.0)
    sample = Sample(tmp_path / "a.hlt")
    sample.verify()
    meta = sample.metadata
    assert (meta["process"], meta["pileup"], meta["seed"], meta["events"]) == ("ttbar", 5.0, 3, 2)
    assert [e.id.event for e in sample] == [0, 1]
    truth = sample.truth(1)
    assert truth is not None
    assert (np.abs(truth["part_pdg"]) != 22).all()


def test_more_events_begin_with_the_same(tmp_path: Path, pool: Path) -> None:
    simulate(tmp_path / "few.hlt", pool)
    simulate(tmp_path / "more.hlt", pool, events=4)  # needs a second block of hard collisions
    few, more = Sample(tmp_path / "few.hlt"), Sample(tmp_path / "more.hlt")
    assert len(more) == 4
    assert all(few[k].payload.tobytes() == more[k].payload.tobytes() for k in range(2))


def test_processes_change_nothing(tmp_path: Path, pool: Path) -> None:
    assert simulate(tmp_path / "one.hlt", pool) == simulate(tmp_path / "two.hlt", pool, processes=2)


def test_directory_holds_the_same_events(tmp_path: Path, pool: Path) -> None:
    simulate(tmp_path / "a.hlt", pool)
    simulate(tmp_path / "dir", pool, format="patatrack")
    file, directory = open_source(tmp_path / "a.hlt"), open_source(tmp_path / "dir")
    assert len(directory) == 2
    for k in range(2):
        assert directory[k].payload.nbytes == file[k].payload.nbytes
        a, b = file.truth(k), directory.truth(k)
        assert a is not None
        assert b is not None
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_directory_keeps_nothing_of_earlier_events(tmp_path: Path, pool: Path) -> None:
    simulate(tmp_path, pool, format="patatrack")
    (tmp_path / "tracks.bin").write_bytes(b"1234")
    simulate(tmp_path, pool, format="patatrack", truth=False)
    assert not (tmp_path / "tracks.bin").exists()
    assert open_source(tmp_path).truth(0) is None


def test_output_that_cannot_be_written(tmp_path: Path, pool: Path) -> None:
    with pytest.raises(SampleError, match="nowhere"):
        simulate(tmp_path / "nowhere" / "a.hlt", pool)


def test_damaged_cache_is_generated_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = SMALL.generator
    first = generator.block("ttbar", 5, 0, 2, settings, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    for damage in (b"", file.read_bytes()[:-200], b"x" * 1000, bytes(b ^ (i == 4000) for i, b in enumerate(file.read_bytes()))):
        file.write_bytes(damage)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            again = generator.block("ttbar", 5, 0, 2, settings, cache=tmp_path)
        assert "unusable" in caplog.text
        assert np.array_equal(first.momentum, again.momentum)
        assert np.array_equal(first.offsets, again.offsets)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        generator.block("ttbar", 5, 0, 2, settings, cache=tmp_path)
    assert caplog.text == ""
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


def test_cache_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert generator.block("ttbar", 5, 0, 1, SMALL.generator, cache=tmp_path / "file" / "pool").events == 1
    assert "cannot be written" in caplog.text


def test_pool_depends_on_seed_and_block() -> None:
    identity = [generator.settings(p, SMALL.generator) for p in generator.PROCESSES]
    assert identity[0] != identity[1]
    assert any("decay" in line.lower() for line in identity[0])


def test_long_lived_particles_are_kept(pool: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "a.hlt", pool)
    block = generator.block("ttbar", 3, 0, SMALL.generator.hard_block, SMALL.generator, cache=pool)
    pdg = set(np.abs(block.pdg).tolist())
    assert {11, 22, 211, 321, 2212} <= pdg
    assert not pdg & {111, 310, 3122, 2112, 130}  # decayed or neutral
    assert np.hypot(block.vertex[:, 0], block.vertex[:, 1]).max() <= 17.0 + 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"events": 0},
        {"process": "higgs"},
        {"format": "root"},
        {"processes": 0},
        {"pileup": -2.0},
        {"format": "patatrack", "compress": True},
    ],
)
def test_bad_arguments(tmp_path: Path, pool: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        simulate(tmp_path / "x.hlt", pool, **options)
    assert list(tmp_path.iterdir()) == []


def test_options_are_recorded(tmp_path: Path, pool: Path) -> None:
    simulate(tmp_path / "x.hlt", pool, config=SimulationConfig(generator=SMALL.generator, faults=FaultConfig(dead_modules=0.1)))
    assert Sample(tmp_path / "x.hlt").metadata["config"]["faults"]["dead_modules"] == 0.1
