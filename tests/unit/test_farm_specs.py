"""The processes that `hltfarm serve` starts, by its settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hltfarm.proto.messages import RunConfig
from hltfarm.service.cli import serve
from hltfarm.service.output.settings import Fsync, OutputSettings
from hltfarm.service.supervisor.leftovers import RuntimeFolder
from hltfarm.service.supervisor.processes import ProcessSpec
from hltfarm.service.supervisor.specs import LocalFarmSettings, process_specs


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RuntimeFolder]:
    folder = RuntimeFolder.create(tmp_path)
    yield folder
    folder.remove()


def specs(folder: RuntimeFolder, **changes: object) -> dict[str, ProcessSpec]:
    given = {
        "workers": 2,
        "backend": "cuda",
        "threads": 8,
        "http": "127.0.0.1:0",
        "clients_url": "tcp://127.0.0.1:7400",
        "config": RunConfig(run=0),
        "data": folder.path,
    }
    return {spec.name: spec for spec in process_specs(LocalFarmSettings(**(given | changes)), folder)}  # type: ignore[arg-type]


def option(spec: ProcessSpec, name: str) -> str:
    return spec.command[spec.command.index(name) + 1]


def test_a_fallback_worker_beside_gpus(folder: RuntimeFolder) -> None:
    farm = specs(folder, fallback=True, batch=64)
    assert list(farm) == ["ingest", "worker-0", "worker-1", "fallback"]
    assert [option(farm[name], "--backend") for name in ("worker-0", "fallback")] == ["cuda", "cpu"]
    assert [option(farm[name], "--threads") for name in ("worker-0", "fallback")] == ["8", "2"]
    assert option(farm["fallback"], "--batch") == "0", "a batch for a GPU is far too large for two threads"
    assert ["--fallback" in spec.command for spec in farm.values()] == [False, False, False, True]
    assert farm["fallback"].role == "worker", "it ends with the workers"
    assert "fallback" not in specs(folder)
    assert option(specs(folder, fallback=True, threads=1)["fallback"], "--threads") == "1"


def test_every_worker_serves_every_ingest(folder: RuntimeFolder) -> None:
    farm = specs(folder, ingests=3, fallback=True, devices=(0, 1))
    for name in ("worker-0", "worker-1", "fallback"):
        assert farm[name].command.count("--ingest") == 3
    assert [option(farm[f"worker-{device}"], "--device") for device in (0, 1)] == ["0", "1"]
    assert "--device" not in farm["fallback"].command
    assert [option(farm[f"ingest-{index}"], "--clients") for index in range(3)] == [f"tcp://127.0.0.1:{7400 + index}" for index in range(3)]


def test_every_ingest_has_an_output_of_its_own(folder: RuntimeFolder) -> None:
    output = OutputSettings(folder=folder.path / "out", url="tcp://127.0.0.1:7410", fsync=Fsync.EVENT)
    farm = specs(folder, ingests=2, output=output)
    assert [option(farm[f"ingest-{index}"], "--output-url") for index in range(2)] == ["tcp://127.0.0.1:7410", "tcp://127.0.0.1:7411"]
    assert [option(farm[f"ingest-{index}"], "--output") for index in range(2)] == [
        f"{folder.path}/out/ingest-{index}" for index in range(2)
    ]
    assert option(farm["ingest-0"], "--fsync") == "event"
    assert not any(part.startswith(("--output", "--fsync")) for part in specs(folder)["ingest"].command)


@pytest.mark.parametrize(
    ("asked", "backend", "cupy", "driver", "wanted"),
    [
        (None, "cuda", True, False, True),
        (None, "cpu", True, True, False),
        (None, "auto", True, True, True),
        (None, "auto", False, True, False),
        (None, "auto", True, False, False),
        (True, "cpu", False, False, True),
        (False, "cuda", True, True, False),
    ],
)
def test_who_gets_a_fallback_worker(
    asked: bool | None, backend: str, cupy: bool, driver: bool, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "NVIDIA", tmp_path if driver else tmp_path / "nothing")
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: object() if cupy and name == "cupy" else None)
    assert serve.fallback_wanted(asked, backend) is wanted
