"""torch is an extra of the distribution: kernels compute the shipped models without it. What needs it asks here first."""

from __future__ import annotations

from importlib.util import find_spec

from hltfarm.proto.errors import BackendError


def require_torch(what: str) -> None:
    """Raises BackendError, which says how to get it, if torch is not installed. `what`: who needs it. Does not import it."""
    if find_spec("torch") is None:
        raise BackendError(f"{what} needs torch, which is not installed; install hltfarm[torch] (pip install 'hltfarm[torch]')")
