"""The compiled CPU kernels: one library per set of instructions, all with the same bits; the best that the processor has is taken."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from importlib.util import find_spec

from hltfarm.proto.errors import BackendError, ConfigError

#: Names one of the libraries below, instead of the best one.
VARIABLE = "HLTFARM_CPU"

#: Sets of instructions, best first, with the module that holds their kernels. setup.py builds them.
MODULES = {"x86-64-v3": "cpu_kernels_v3", "baseline": "cpu_kernels"}


@dataclass(frozen=True)
class Library:
    """Kernels compiled for the instructions `name`."""

    name: str
    code: ctypes.CDLL


def built() -> tuple[str, ...]:
    """The sets of instructions whose kernels were built, best first."""
    return tuple(name for name, module in MODULES.items() if _file(module) is not None)


def usable() -> tuple[str, ...]:
    """Those of them that this processor has, best first. Raises BackendError if the kernels were not built, or long ago."""
    file = _file(MODULES["baseline"])
    if file is None:
        raise BackendError("the CPU kernels are not built; install hltfarm with a C++17 compiler present (pip install .)")
    try:
        runs = ctypes.CDLL(file).hlt_runs
    except AttributeError:
        raise BackendError("the compiled CPU kernels are older than the sources, reinstall hltfarm (pip install .)") from None
    runs.restype = ctypes.c_int
    runs.argtypes = (ctypes.c_char_p,)
    return tuple(name for name in built() if runs(name.encode()))


def load_library() -> Library:
    """The best library for this processor, or the one that HLTFARM_CPU names.

    Raises ConfigError for a name that no library has, BackendError if there is none that this processor runs.
    """
    names, asked = usable(), os.environ.get(VARIABLE, "")
    if asked and asked not in names:
        if asked not in built():
            raise ConfigError(f"{VARIABLE}={asked}: there are no such CPU kernels; use one of {', '.join(names)}")
        raise BackendError(f"{VARIABLE}={asked}: this processor cannot run those CPU kernels; use one of {', '.join(names)}")
    name = asked or names[0]
    code = ctypes.CDLL(_file(MODULES[name]))
    code.hlt_find.restype = ctypes.c_void_p
    code.hlt_find.argtypes = (ctypes.c_char_p,)
    code.hlt_run.restype = None
    code.hlt_run.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
    return Library(name, code)


def _file(module: str) -> str | None:
    spec = find_spec(f"hltfarm.workers.backends.{module}")
    return spec.origin if spec is not None else None
