"""Print requirements of pyproject.toml, one a line, for the stages of the Dockerfile; versions come from the lock files.

It runs before anything is installed: the standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", action="store_true", help="what building the wheel needs, and nothing else")
    parser.add_argument("--without", action="append", default=[], help="a distribution that is left out")
    parser.add_argument("--extra", action="append", default=[], help="an extra that is added to the dependencies")
    parser.add_argument("--only-extra", help="an extra alone")
    options = parser.parse_args()
    project = tomllib.loads(Path("pyproject.toml").read_text())
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    if options.build:
        wanted = project["build-system"]["requires"]
    elif options.only_extra:
        wanted = extras[options.only_extra]
    else:
        wanted = [*project["project"]["dependencies"], *(item for extra in options.extra for item in extras[extra])]
    left_out = {name.lower() for name in options.without}
    found = [item for item in wanted if re.split(r"[^A-Za-z0-9._-]", item, maxsplit=1)[0].lower() not in left_out]
    if len(found) + len(left_out) != len(wanted):
        sys.exit(f"--without {', '.join(options.without)}: not each of them is a dependency")
    print("\n".join(found))


if __name__ == "__main__":
    main()
