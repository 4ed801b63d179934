"""The repository's own promises: package list, lock files, folders, links, imports under one name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent.parent
ROOTS = ("proto", "service", "workers", "loadgen")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
MERMAID_LINK = re.compile(r'^\s*click \w+ (?:href )?"([^"]+)"', re.MULTILINE)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).exists()]


def locked(name: str) -> dict[str, str]:
    """Pins of a lock file, those that it includes with them."""
    pins: dict[str, str] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("-r "):
            pins |= locked(line.removeprefix("-r ").strip())
        elif line and not line.startswith("#"):
            package, separator, version = line.partition("==")
            assert separator, f"{name}: {line!r} is not an exact pin"
            pins[canonicalize_name(package)] = version
    return pins


def package_list() -> list[str]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    (value,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES")
    names: list[str] = ast.literal_eval(value)
    return names


def test_top_folders_have_no_init() -> None:
    """A bare `import proto` must go on finding proto-plus where it is installed."""
    assert [root for root in ROOTS if (ROOT / root / "__init__.py").exists()] == []


def test_package_list_matches_the_folders() -> None:
    folders = {f"hltfarm.{root}" for root in ROOTS}
    for root in ROOTS:
        for path in (ROOT / root).rglob("*.py"):
            folders.add("hltfarm." + ".".join(path.parent.relative_to(ROOT).parts))
    names = package_list()
    assert len(names) == len(set(names))
    assert set(names) == folders


def test_every_subfolder_with_python_has_an_init() -> None:
    """A folder without `__init__.py` works in an editable install and is missing in the wheel."""
    without = {
        path.parent.relative_to(ROOT)
        for root in ROOTS
        for path in (ROOT / root).rglob("*.py")
        if path.parent != ROOT / root and not (path.parent / "__init__.py").exists()
    }
    assert without == set()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-cuda.lock"])
def test_lock_satisfies_the_project(lock: str) -> None:
    pins = locked(lock)
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"], *extras["sim"], *extras["validate"]]
    wanted += [*extras["data"], *extras["test"], *extras["lint"], *extras["docs"]]
    if "cuda" in lock:
        wanted += extras["cuda"]
    for requirement in map(Requirement, wanted):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} lacks {requirement.name}: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), f"{lock} has {requirement.name}=={version}, not {requirement}"


def test_lock_holds_the_versions_that_install_quickly() -> None:
    pins = locked("requirements.lock")
    assert pins["torch"] == "2.13.0"
    assert pins["pythia8mc"] == "8.317.2"


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in tracked("*.md")])
def test_links_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [*LINK.findall(text), *MERMAID_LINK.findall(text)]
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    broken = [target for target in local if not ((ROOT / page).parent / target).exists()]
    assert broken == []


def test_readme_names_commands_that_exist() -> None:
    from hltfarm.service.cli import COMMANDS

    text = (ROOT / "README.md").read_text()
    assert set(re.findall(r"`hltfarm ([a-z]+)", text)) <= set(COMMANDS)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_the_page_about_installing_has_every_extra_of_users() -> None:
    page = (ROOT / "docs" / "installing.md").read_text()
    ours = {"test", "fuzz", "lint", "docs"}
    assert re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE) != []
    assert set(re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE)) == set(PROJECT["project"]["optional-dependencies"]) - ours
    assert f"hltfarm-{PROJECT['project']['version']}-" in page


@pytest.mark.parametrize("workflow", ["ci.yml", "wheels.yml"])
def test_workflows_run_the_commands_of_developers(workflow: str) -> None:
    """Actions are held to a version, nothing but reading is permitted, no secret is needed; make targets exist."""
    text = (ROOT / ".github" / "workflows" / workflow).read_text()
    described = yaml.safe_load(text)
    assert described["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    steps = [step for job in described["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert [name for name in used if not re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", name)] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    ran = [step["run"] for step in steps if "run" in step]
    assert {command.split()[1] for command in ran if command.startswith("make ")} <= targets
    scripts = [command.split()[-1] for command in ran if ".ci/" in command]
    assert all((ROOT / script).is_file() for script in scripts)
    assert scripts or "make wheel" in ran


def test_only_hltfarm_names_are_imported() -> None:
    """`import workers.x` would work in a checkout and nowhere else; ruff forbids it, this test says why."""
    offenders = []
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            offenders += [f"{path.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] in ROOTS]
    assert offenders == []


#: Module -> distribution, where the names differ.
DISTRIBUTIONS = {
    "dns": "dnspython",
    "cuda": "cuda-bindings",
    "cupy": "cupy-cuda13x",
    "cupyx": "cupy-cuda13x",
    "hdrh": "hdrhistogram",
    "opentelemetry": "opentelemetry-sdk",
    "starlette": "fastapi",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(ROOTS, ("cuda", "sim", "validate", "data", "torch", "train", "otel")), (("tests",), ("cuda", "sim", "validate", "test", "fuzz"))],
)
def test_every_import_is_a_declared_dependency(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    """What somebody installed by hand is not there on a new machine."""
    optional = PROJECT["project"]["optional-dependencies"]
    requirements = [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in optional[extra])]
    declared = {canonicalize_name(Requirement(text).name) for text in requirements}
    missing = set()
    for path in tracked(*(f"{folder}/*.py" for folder in folders)):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"hltfarm", "tests", "deploy"}:
                if canonicalize_name(DISTRIBUTIONS.get(top, top)) not in declared:
                    missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert missing == set()


def test_contracts_import_neither_sockets_nor_devices() -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        "package = importlib.import_module('hltfarm.proto')\n"
        "for info in pkgutil.walk_packages(package.__path__, 'hltfarm.proto.'):\n"
        "    importlib.import_module(info.name)\n"
        "print([name for name in ('zmq', 'cupy', 'torch') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_the_control_plane_imports_no_device() -> None:
    """Also not what shows events: that is reconstructed in a process of its own."""
    code = (
        "import importlib, pkgutil, sys\n"
        "package = importlib.import_module('hltfarm.service.control')\n"
        "for info in pkgutil.walk_packages(package.__path__, 'hltfarm.service.control.'):\n"
        "    importlib.import_module(info.name)\n"
        "print([name for name in ('cupy', 'torch', 'hltfarm.workers.reconstructor', 'hltfarm.workers.pipeline') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
