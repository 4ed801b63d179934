"""Write requirements.lock and requirements-cuda.lock: exact versions of everything that pyproject.toml asks for.

Run by `make lock`. pip resolves without installing anything (`--dry-run --report`); this script only formats its answer.
torch and pythia8mc are held at the versions in PINS: the first because a bare `torch` can pull gigabytes of CUDA packages,
the second because only that version has wheels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ["torch==2.13.0", "pythia8mc==8.317.2"]
CPU_EXTRAS = ("sim", "validate", "data", "test", "lint", "docs")
HEADER = "# Written by `make lock` from pyproject.toml; do not edit. Python 3.11 and 3.12, Linux x86_64.\n"


def resolve(requirements: list[str]) -> dict[str, str]:
    """Name and version of every distribution that pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", *requirements]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = (item["metadata"] for item in json.loads(output)["install"])
    # A local label (2.13.0+cpu) names one build of a version: the public version matches whichever build the index has.
    return {meta["name"].lower().replace("_", "-"): meta["version"].partition("+")[0] for meta in found}


def main() -> None:
    """Resolve both variants and write the two lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = project["build-system"]["requires"]
    extras = project["project"]["optional-dependencies"]
    wanted = [*build, *project["project"]["dependencies"], *(item for extra in CPU_EXTRAS for item in extras[extra])]
    cpu = resolve([*wanted, *PINS])
    lines = [f"{name}=={version}\n" for name, version in sorted(cpu.items())]
    (ROOT / "requirements.lock").write_text(HEADER + "".join(lines))
    cuda = resolve([*extras["cuda"], f"numpy=={cpu['numpy']}"])
    lines = [f"{name}=={version}\n" for name, version in sorted(cuda.items()) if name not in cpu]
    (ROOT / "requirements-cuda.lock").write_text(HEADER + "-r requirements.lock\n" + "".join(lines))


if __name__ == "__main__":
    main()
