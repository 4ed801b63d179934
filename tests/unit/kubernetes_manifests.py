"""The Kubernetes manifests as the tests read them: as they are written, and as a real kustomize puts them together."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = ("cpu", "single-node-gpu", "many-nodes")
Document = dict[str, Any]


def kustomize() -> list[str]:
    """The command of a kustomize that knows components (4.1), alone or in kubectl. Skips the test without one."""
    if (found := shutil.which("kustomize")) is not None:
        return [found, "build"]
    if (found := shutil.which("kubectl")) is not None:
        version = subprocess.run([found, "version", "--client"], capture_output=True, text=True, timeout=30).stdout
        for line in version.splitlines():
            if line.startswith("Kustomize Version: v") and int(line.removeprefix("Kustomize Version: v").split(".")[0]) >= 5:
                return [found, "kustomize"]
    pytest.skip("neither kustomize nor a kubectl that has kustomize 5 is installed: overlays are not put together here")


@functools.cache
def rendered(overlay: str) -> tuple[Document, ...]:
    """The documents of an overlay. Skips the test where nothing can put them together."""
    done = subprocess.run([*kustomize(), str(FOLDER / "overlays" / overlay)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def written() -> list[tuple[Path, Document]]:
    """Every whole document of base and components; patches and the files of kustomize itself are left out."""
    found = []
    for path in sorted(FOLDER.rglob("kustomization.yaml")):
        for name in yaml.safe_load(path.read_text()).get("resources", ()):
            if (path.parent / name).is_file():
                found += [(path.parent / name, document) for document in yaml.safe_load_all((path.parent / name).read_text())]
    return found


def the(documents: tuple[Document, ...], kind: str, name: str) -> Document:
    """The one document of that kind and name."""
    (found,) = [document for document in documents if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    return found


def pods(documents: tuple[Document, ...]) -> Iterator[tuple[str, Document]]:
    """Name of the owner and the pod's specification."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def containers(documents: tuple[Document, ...]) -> list[Document]:
    """All containers, sidecars too."""
    return [part for _, pod in pods(documents) for part in (*pod.get("initContainers", ()), *pod["containers"])]


def environment(container: Document) -> dict[str, str]:
    """Variables that have a value in the manifest."""
    return {entry["name"]: entry.get("value", "") for entry in container.get("env", ())}
