"""Dockerfile and compose files name what exists: options, images, versions, targets, files. No Docker engine is needed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from hltfarm.service.cli import build_app

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = sorted((ROOT / "deploy").glob("compose*.yml"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
OURS = ("control", "ingest", "worker-cpu", "worker-cuda", "loadgen")


@pytest.fixture(scope="module")
def variables() -> set[str]:
    """Environment variables that options of the command line have."""
    found: set[str] = set()

    def walk(command: Any) -> None:
        for parameter in command.params:
            names = parameter.envvar or ()
            found.update([names] if isinstance(names, str) else names)
        for child in getattr(command, "commands", {}).values():
            walk(child)

    walk(get_command(build_app()))
    return found


def services(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text())["services"])


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_files_set_options_that_exist(file: Path, variables: set[str]) -> None:
    for name, service in services(file).items():
        if not name.startswith(("prometheus", "grafana")):
            assert set(service.get("environment", ())) <= variables, name


def test_the_images_set_options_that_exist(variables: set[str]) -> None:
    named = set(re.findall(r"\b(HLTFARM_[A-Z_]+)=", DOCKERFILE))
    assert "HLTFARM_INGEST_RING" in named
    assert named <= variables


def test_every_image_is_built_from_a_target_and_has_the_version_of_the_distribution() -> None:
    targets = re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE
    found = services(ROOT / "deploy" / "compose.yml")
    assert set(OURS) <= set(found)
    for name in OURS:
        assert found[name]["image"] == f"hltfarm/{name}:${{HLTFARM_VERSION:-{VERSION}}}"
        assert found[name]["build"]["target"] == name
        assert name in targets


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_what_is_mounted_is_there(file: Path) -> None:
    for service in services(file).values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (file.parent / source).is_dir(), source


def test_a_stop_may_take_longer_than_a_drain() -> None:
    found = services(ROOT / "deploy" / "compose.yml")
    drain_s = found["ingest"]["environment"]["HLTFARM_INGEST_STOP_TIMEOUT_S"]
    for name in OURS:
        assert int(found[name]["stop_grace_period"].removesuffix("s")) >= drain_s + 15


def test_the_python_of_the_images_is_one_that_the_distribution_takes() -> None:
    python = re.search(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert python is not None
    assert python[1] in ("3.11", "3.12")


def test_requirements_are_those_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def printed(*options: str) -> list[str]:
        command = [sys.executable, str(ROOT / "docker" / "requirements.py"), *options]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()

    assert printed() == project["dependencies"]
    assert printed("--extra", "otel") == [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    assert printed("--only-extra", "cuda") == project["optional-dependencies"]["cuda"]
    assert not any(name.startswith("torch") for name in printed())
