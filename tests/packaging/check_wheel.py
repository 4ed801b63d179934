"""Build the wheel, install it with its locked dependencies in a fresh environment, import every module. Run by `make wheel`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROOTS = ("proto", "service", "workers", "loadgen")
DATA_SUFFIXES = (".py", ".cuh", ".h", ".hlt", ".yaml", ".html", ".css", ".js", ".json", ".safetensors", ".typed")

#: Runs in the fresh environment, away from the source tree. Only the CUDA backend may lack a module: cupy, an extra of its own.
IMPORT_ALL = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("error")
optional = {"hltfarm.workers.backends.cuda": "cupy", "hltfarm.workers.backends.cuda_torch": "cupy"}
names = []
for root in ("proto", "service", "workers", "loadgen"):
    package = importlib.import_module(f"hltfarm.{root}")
    assert all("site-packages" in path for path in package.__path__), package.__path__
    names += [info.name for info in pkgutil.walk_packages(package.__path__, f"hltfarm.{root}.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if optional.get(name) != error.name:
            raise
print(f"{len(names)} modules imported")
assert len(names) > 20
"""


def source_files() -> set[str]:
    """Files of the four folders that belong into the wheel, by their name in it."""
    listed = subprocess.run(["git", "ls-files", *ROOTS], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return {f"hltfarm/{name}" for name in listed if name.endswith(DATA_SUFFIXES)}


def main() -> None:
    """Build, compare the contents, install, import, run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    options = parser.parse_args()
    work = options.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # files of an earlier build would travel along
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work, ROOT], check=True, stdout=subprocess.DEVNULL
    )
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = sorted(source_files() - names)
    if missing:
        sys.exit(f"missing in {wheel.name}: {', '.join(missing)}")
    venv.create(work / "venv", with_pip=True)
    python = work / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "-r", options.lock.resolve()], check=True)
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    subprocess.run([python, "-P", "-c", IMPORT_ALL], check=True, cwd=work)
    subprocess.run([work / "venv" / "bin" / "hltfarm", "--version"], check=True, cwd=work)
    shutil.rmtree(work / "venv")


if __name__ == "__main__":
    main()
