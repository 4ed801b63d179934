"""Print requirements of pyproject.toml, one a line, for the stages of the Dockerfile; versions come from the lock files.

It runs before anything is installed: the standard library only.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path


def main() -> None:
    """Print what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", action="store_true", help="what building the wheel needs, and nothing else")
    parser.add_argument("--extra", action="append", default=[], help="an extra that is added")
    parser.add_argument("--only-extra", help="an extra in place of the dependencies")
    options = parser.parse_args()
    project = tomllib.loads(Path("pyproject.toml").read_text())
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    if options.build:
        wanted = project["build-system"]["requires"]
    else:
        wanted = extras[options.only_extra] if options.only_extra else project["project"]["dependencies"]
    print("\n".join([*wanted, *(item for extra in options.extra for item in extras[extra])]))


if __name__ == "__main__":
    main()
