"""What this process computes with, for the record: versions of hltfarm, of Python and of the libraries that are installed."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("hltfarm", "numpy", "torch", "cupy-cuda13x", "pyzmq")


@cache
def versions() -> dict[str, str]:
    """Versions by name; a library that is not installed is left out. Nothing is imported for it."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
