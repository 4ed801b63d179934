"""C++ that follows from the declarations of the stages: view structs and the entry points of the kernels for each backend."""

from __future__ import annotations

import re
from pathlib import Path

from hltfarm.workers.kernel import Kernel, Stage
from hltfarm.workers.pipeline import CHAIN, COLUMNS, PARAMS, TABLES

_ROOT = Path(__file__).resolve().parent.parent
_BANNER = "// Generated from the declarations in workers/ by backends/codegen.py. Do not edit.\n"


def views_header() -> str:
    """views.gen.h: the structs that kernels receive."""
    structs = [p.cpp() for p in PARAMS] + [s.cpp() for s in (*TABLES, *(schema for schema, _ in COLUMNS))]
    return "\n".join(
        [_BANNER + "#pragma once", '#include "backends/portable.cuh"', "", "namespace hlt {", "", *structs, "}  // namespace hlt", ""]
    )


def cpu_entries() -> str:
    """kernels_cpu.gen.h: one loop per kernel and a table of them by name."""
    lines = [_BANNER + "#pragma once", *(f'#include "{stage.header}"' for stage in CHAIN), "", "namespace hlt_cpu {", ""]
    for kernel in _kernels():
        names = ", ".join(f"a{i}" for i in range(len(kernel.args)))
        step, item = (f"i += hlt::{kernel.several}", "i, n") if kernel.several else ("++i", "i")
        lines += [
            f"void {kernel.name}(uint32_t const* items, void const* const* args, uint32_t* {'scratch' if kernel.team else ''}) {{",
            # Copies: no store of the kernel can alter them, so their pointers stay in registers.
            *(f"  hlt::{arg} const a{i} = *static_cast<hlt::{arg} const*>(args[{i}]);" for i, arg in enumerate(kernel.args)),
            *(["  hlt::Team const team(scratch);"] if kernel.team else []),
            f"  for (uint32_t i = 0, n = *items; i < n; {step}) hlt::{kernel.name}({'team, ' if kernel.team else ''}{item}, {names});",
            "}",
            "",
        ]
    entries = ", ".join(f'{{"{k.name}", {k.name}}}' for k in _kernels())
    lines += [f"constexpr Entry entries[] = {{{entries}}};", "", "}  // namespace hlt_cpu", ""]
    return "\n".join(lines)


def cuda_source(stage: Stage) -> str:
    """The translation unit of a stage for NVRTC: a grid-stride launcher around each kernel.

    Project headers are pasted in place, so that the text alone identifies the program (CuPy's compilation cache goes by it).
    """
    lines = [_BANNER + f'#include "{stage.header}"', ""]
    for k in stage.kernels:
        params = ", ".join(["uint32_t const* items", "uint32_t scratch_words", *(f"hlt::{a} const a{i}" for i, a in enumerate(k.args))])
        args = ", ".join(f"a{i}" for i in range(len(k.args)))
        bounds = f"{block_threads(k)}, {k.blocks}" if k.blocks else block_threads(k)
        lines.append(f'extern "C" __global__ void __launch_bounds__({bounds}) {k.name}({params}) {{')
        if k.team == WARP:
            lines += [
                "  extern __shared__ uint32_t scratch[];",
                "  uint32_t const warp = threadIdx.x / 32, warps = blockDim.x / 32;",
                "  for (uint32_t i = threadIdx.x; i < warps * scratch_words; i += blockDim.x) scratch[i] = 0;",
                "  __syncthreads();",
                "  hlt::WarpTeam const team(scratch + warp * scratch_words);",
                "  for (uint32_t i = blockIdx.x * warps + warp, n = *items; i < n; i += gridDim.x * warps) {",
                f"    hlt::{k.name}(team, i, {args});",
                "    __syncwarp();",
                "  }",
            ]
        elif k.team:
            lines += [
                "  extern __shared__ uint32_t scratch[];",
                "  __shared__ uint64_t warps[32];",
                "  hlt::Team const team(scratch, warps);",
                "  for (uint32_t i = threadIdx.x; i < scratch_words; i += blockDim.x) scratch[i] = 0;",
                "  __syncthreads();",
                "  for (uint32_t i = blockIdx.x, n = *items; i < n; i += gridDim.x) {",
                f"    hlt::{k.name}(team, i, {args});",
                "    __syncthreads();",
                "  }",
            ]
        else:
            step, item = "gridDim.x * blockDim.x", "i, n" if k.several else "i"
            lines.append(
                f"  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, n = *items; i < n; i += {step}) hlt::{k.name}({item}, {args});"
            )
        lines += ["}", ""]
    return _paste("\n".join(lines), set())


def _paste(text: str, seen: set[str]) -> str:
    """Replace each project include by its text, the first time it occurs."""
    out = []
    for line in text.splitlines():
        match = re.fullmatch(r'#include "(.+)"', line)
        if match is None:
            out.append("" if line == "#pragma once" else line)
        elif match[1] not in seen:
            seen.add(match[1])
            body = views_header() if match[1] == "views.gen.h" else (_ROOT / match[1]).read_text()
            out.append(_paste(body, seen))
    return "\n".join(out)


#: Threads of a block for kernels without a team, and for those whose teams are warps.
THREADS = 128
WARP = 32


def block_threads(kernel: Kernel) -> int:
    """Threads of a block: one team, or several warps."""
    return THREADS if kernel.team in (0, WARP) else kernel.team


def block_scratch(kernel: Kernel, scratch: int) -> int:
    """Bytes of shared memory of a block whose teams have `scratch` bytes each."""
    return scratch * (THREADS // WARP) if kernel.team == WARP else scratch


def _kernels() -> list[Kernel]:
    return [kernel for stage in CHAIN for kernel in stage.kernels]
