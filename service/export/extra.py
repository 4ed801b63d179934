"""The modules of the extra `data`: imported when they are needed, with a clear word where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from hltfarm.proto.errors import BackendError


def load(module: str, purpose: str) -> ModuleType:
    """A module of the extra. Raises BackendError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise BackendError(f"{purpose} needs {error.name}, which is not installed; install hltfarm[data]") from None
