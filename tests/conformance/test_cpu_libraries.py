"""The CPU kernels for every set of instructions: which one is taken, and that all give the same bits."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.workers import configuration
from hltfarm.workers.backends import cpu_library
from hltfarm.workers.backends.cpu_library import MODULES, VARIABLE, load_library, usable
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import BatchResult, Reconstructor

TABLES = ("digis", "hits", "tracks", "vertices", "features")


def reconstruct(path: Path, config: str) -> BatchResult:
    sample = open_source(path)
    with Reconstructor(
        sample.detector(), Menu.parse(DEFAULT_MENU), backend="cpu", threads=1, config=configuration.configuration(config)
    ) as reconstructor:
        assert reconstructor.device == f"cpu:1 {load_library().name}"
        return reconstructor.run([sample[i] for i in range(len(sample))], keep=True)


@pytest.mark.parametrize("config", ["default", "patatrack-phase1"])
@pytest.mark.parametrize("name", [name for name in MODULES if name != "baseline"])
def test_every_column_has_the_bits_of_the_baseline(demo_sample: Path, monkeypatch: pytest.MonkeyPatch, name: str, config: str) -> None:
    if name not in usable():
        pytest.skip(f"no kernels for {name} here: this processor lacks the instructions, or they were not built")
    monkeypatch.setenv(VARIABLE, "baseline")
    expected = reconstruct(demo_sample, config)
    monkeypatch.setenv(VARIABLE, name)
    found = reconstruct(demo_sample, config)
    assert found.results.tobytes() == expected.results.tobytes()
    for i in range(len(expected.results)):
        for table in TABLES if config == "default" else TABLES[:-1]:
            ours, theirs = getattr(found, table)(i), getattr(expected, table)(i)
            assert ours.keys() == theirs.keys()
            for column in ours:
                assert ours[column].tobytes() == theirs[column].tobytes(), (i, table, column)


def test_the_best_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert load_library().name == usable()[0]
    assert usable()[-1] == "baseline"
    assert set(usable()) <= set(cpu_library.built()) <= set(MODULES)


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sparc")
    with pytest.raises(ConfigError, match=r"HLTFARM_CPU=sparc: there are no such CPU kernels; use one of .*baseline"):
        load_library()
    with monkeypatch.context() as poor:
        poor.setattr(cpu_library, "built", lambda: tuple(MODULES))
        poor.setattr(cpu_library, "usable", lambda: ("baseline",))
        poor.setenv(VARIABLE, "x86-64-v3")
        with pytest.raises(BackendError, match="this processor cannot run those CPU kernels; use one of baseline"):
            load_library()
    monkeypatch.setattr(cpu_library, "_file", lambda module: ctypes.util.find_library("c"))
    with pytest.raises(BackendError, match="older than the sources"):
        load_library()
    monkeypatch.setattr(cpu_library, "_file", lambda module: None)
    with pytest.raises(BackendError, match="the CPU kernels are not built"):
        load_library()
