"""Code built ahead of time by AOTInductor, and its cache.

Loading such a package executes native code, so none is ever taken from a model package: it is built here from the checked model and
kept in a folder that only the owner can write. A file's name is a digest of all that the code depends on: the model, torch, the device,
the layout of its tensors, the compiler, on a CPU the number of threads. Several processes may share the folder: one builds, the others
wait for it.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hltfarm.proto.errors import BackendError
from hltfarm.workers.models import compiler
from hltfarm.workers.models.layout import Layout

#: Counted up when what is built from a model changes.
GENERATION = 1


def default_cache() -> Path:
    """$XDG_CACHE_HOME/hltfarm/aot, ~/.cache/hltfarm/aot without it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "hltfarm" / "aot"


def function(
    net: nn.Module, model_hash: str, device: torch.device, layout: Layout, max_rows: int, cache_dir: Path | None
) -> Callable[[tuple[Tensor, ...], Tensor], None]:
    """The compiled function of a module whose last argument receives the result, from the cache or built now (some 20 s).

    It can be captured in a CUDA graph. Raises BackendError if the compiler is unfit, the cache is not safe, or torch cannot do it.
    """
    path = compiler.check()
    folder = _private(cache_dir or default_cache())
    package = folder / f"{_key(model_hash, device, layout, max_rows, path)}.pt2"
    with _locked(package.with_suffix(".lock")):
        if not package.exists():
            _build(net, device, layout, max_rows, package)
    _check_owner(package)
    try:
        # Without the locks for threads, which a CUDA graph cannot hold. One engine is run by one thread.
        loaded: Any = torch._inductor.aoti_load_package(
            str(package), run_single_threaded=True, device_index=-1 if device.index is None else device.index
        )
    except Exception as error:
        raise BackendError(f"{package}: cannot be loaded: {error}; delete it, it is built again") from error

    def call(inputs: tuple[Tensor, ...], out: Tensor) -> None:
        loaded(*inputs, out)

    return call


def _build(net: nn.Module, device: torch.device, layout: Layout, max_rows: int, package: Path) -> None:
    inputs, out = layout.example(layout.example_rows, device)
    rows = torch.export.Dim("rows", min=1, max=max(max_rows, layout.example_rows))
    with tempfile.TemporaryDirectory(prefix=".build-", dir=package.parent) as work:
        fresh = Path(work, package.name)
        try:
            with torch.no_grad(), torch._inductor.config.patch(compile_threads=1):
                program = torch.export.export(net, (*inputs, out), dynamic_shapes=(tuple({0: rows} for _ in (*inputs, out)),))
                torch._inductor.aoti_compile_and_package(program, package_path=str(fresh))
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise BackendError(f"AOTInductor cannot build this model for {device}: {type(error).__name__}: {lines[0]}") from error
        fresh.chmod(0o600)
        fresh.rename(package)


def _key(model_hash: str, device: torch.device, layout: Layout, max_rows: int, compiler_path: str) -> str:
    threads = torch.get_num_threads() if device.type == "cpu" else 0  # loops are cut for as many as there are when they are compiled
    parts = [str(GENERATION), model_hash, torch.__version__, _hardware(device), repr(layout), str(max_rows), compiler_path, str(threads)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


@functools.cache
def _hardware(device: torch.device) -> str:
    """What code for a device is bound to: capability and CUDA version, and the host's instruction set in any case."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    flags = next((line for line in info.splitlines() if line.startswith(("flags", "Features"))), "")
    host = f"{platform.machine()} {platform.processor()} {flags}"
    if device.type == "cuda":
        return f"cuda {torch.version.cuda} {torch.cuda.get_device_capability(device)} {host}"
    return f"{device.type} {host}"


def _private(folder: Path) -> Path:
    """The cache folder, made if it is missing. Raises BackendError if others could put code into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
    except OSError as error:
        raise BackendError(f"{folder}: the cache of compiled models cannot be made: {error.strerror}") from None
    _check_owner(folder)
    return folder


def _check_owner(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.filemode(status.st_mode)
        raise BackendError(f"{path} ({mode}, owner {status.st_uid}): compiled code is only loaded from where its owner alone can write")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
