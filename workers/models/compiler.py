"""Is there a C++ compiler whose libraries this process can load? Asked before torch builds any.

A package that AOTInductor builds has a C++ interface: its library must share libstdc++ with torch. Where $CXX links libstdc++
statically into what it builds (wrappers with -static-libstdc++, some toolchains of conda and clang), `aoti_load_package` ends the
process with a segmentation fault: no exception, no message. So the compiler that torch will use builds a library of three lines
first, and that library is read, never loaded: libstdc++.so must be among those that it asks for (DT_NEEDED).
"""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from hltfarm.proto.errors import BackendError

#: Streams pull the whole of libstdc++ in: whatever links it statically cannot hide it here.
PROBE = """\
#include <iostream>
extern "C" void hltfarm_probe() { std::cout << "probe" << std::endl; }
"""
RUNTIME = "libstdc++.so"
WAY_OUT = "set CXX to the system's compiler (CXX=g++) before starting"
TIMEOUT_S = 60.0
_PT_LOAD, _PT_DYNAMIC, _DT_NEEDED, _DT_STRTAB = 1, 2, 1, 5


def find() -> str:
    """Path of the compiler that torch would use: $CXX as it was when torch was imported, else g++. Raises BackendError if there is none."""
    from torch._inductor import cpp_builder, exc

    try:
        name: str = cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        asked = os.environ.get("CXX")
        reason = f"CXX={asked} does not run" if asked else "g++ does not run"
        raise BackendError(f"no C++ compiler: {reason}; install g++, or {WAY_OUT}") from None
    return shutil.which(name) or name


def check(compiler: str | None = None) -> str:
    """Path of the compiler, once it has shown that torch can load what it builds. About half a second, the first time.

    Raises BackendError that names the compiler, what is wrong with it and the way out.
    """
    path = compiler or find()
    problem = _problem(path)
    if problem is not None:
        raise BackendError(f"the C++ compiler {path} {problem}; {WAY_OUT}")
    return path


@functools.cache
def _problem(compiler: str) -> str | None:
    with tempfile.TemporaryDirectory(prefix="hltfarm-compiler-") as folder:
        source, library = Path(folder, "probe.cpp"), Path(folder, "probe.so")
        source.write_text(PROBE)
        command = [compiler, "-std=c++17", "-shared", "-fPIC", "-o", str(library), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"cannot be run: {error}"
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            return f"cannot build a library: {lines[-1][:200] if lines else f'exit code {done.returncode}'}"
        libraries = needed(library.read_bytes())
    if not any(name.startswith(RUNTIME) for name in libraries):
        return f"does not link {RUNTIME} but {', '.join(libraries) or 'nothing'}: torch would crash when it loads what this compiler builds"
    return None


def needed(elf: bytes) -> list[str]:
    """Names of the libraries that a 64-bit little-endian ELF file asks for. Empty for anything else."""
    try:
        return _needed(elf) if elf[:6] == b"\x7fELF\x02\x01" else []
    except (struct.error, ValueError):  # cut off
        return []


def _needed(elf: bytes) -> list[str]:
    table, entry_bytes, entries = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    segments = [struct.unpack_from("<IIQQQQ", elf, table + i * entry_bytes) for i in range(entries)]
    tags: list[tuple[int, int]] = []
    for kind, _, offset, _, _, size in segments:
        if kind == _PT_DYNAMIC:
            tags += [(tag, value) for tag, value in struct.iter_unpack("<QQ", elf[offset : offset + size // 16 * 16])]
    address = next((value for tag, value in tags if tag == _DT_STRTAB), 0)
    strings = next((o + address - at for k, _, o, at, _, size in segments if k == _PT_LOAD and at <= address < at + size), None)
    if strings is None:
        return []
    starts = [strings + value for tag, value in tags if tag == _DT_NEEDED]
    return [elf[start : elf.index(b"\0", start)].decode(errors="replace") for start in starts]
