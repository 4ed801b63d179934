"""Build of the CPU kernels; everything else is declared in pyproject.toml."""

from __future__ import annotations

import sys
import types
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
ROOTS = ("proto", "service", "workers", "loadgen")
PACKAGES = [
    "hltfarm.proto",
    "hltfarm.proto.detector",
    "hltfarm.service",
    "hltfarm.service.bench",
    "hltfarm.service.cli",
    "hltfarm.service.control",
    "hltfarm.service.ingest",
    "hltfarm.service.supervisor",
    "hltfarm.workers",
    "hltfarm.workers.backends",
    "hltfarm.workers.unpack",
    "hltfarm.workers.clusters",
    "hltfarm.workers.hits",
    "hltfarm.workers.cells",
    "hltfarm.workers.tracks",
    "hltfarm.workers.fit",
    "hltfarm.workers.inference",
    "hltfarm.workers.dnn",
    "hltfarm.workers.vertices",
    "hltfarm.workers.menu",
    "hltfarm.workers.models",
    "hltfarm.loadgen",
    "hltfarm.loadgen.load",
    "hltfarm.loadgen.simulation",
    "hltfarm.loadgen.training",
    "hltfarm.loadgen.validation",
]


class BuildKernels(build_ext):
    """Generates the kernels' entry points from the declarations of the stages, then compiles them."""

    def build_extension(self, ext: Extension) -> None:
        sys.path.insert(0, str(HERE))
        for name, path in (("hltfarm", HERE), *((f"hltfarm.{root}", HERE / root) for root in ROOTS)):
            package = sys.modules.setdefault(name, types.ModuleType(name))
            package.__path__ = [str(path)]
        from hltfarm.workers.backends import codegen

        generated = Path(self.build_temp).resolve() / "generated"
        generated.mkdir(parents=True, exist_ok=True)
        (generated / "views.gen.h").write_text(codegen.views_header())
        (generated / "kernels_cpu.gen.h").write_text(codegen.cpu_entries())
        ext.include_dirs += [str(generated), str(HERE / "workers")]
        super().build_extension(ext)


setup(
    packages=PACKAGES,
    package_dir={f"hltfarm.{root}": root for root in ROOTS},
    ext_modules=[
        Extension(
            "hltfarm.workers.backends.cpu_kernels",
            ["workers/backends/cpu_kernels.cpp"],
            # Bit-reproducibility: no contraction, no fast-math. errno of sqrt is of no use and would keep it from being inlined.
            extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"],
            depends=[str(p.relative_to(HERE)) for p in sorted(HERE.glob("workers/*/*.cuh"))]
            + [str(p.relative_to(HERE)) for p in sorted(HERE.glob("workers/**/*.py"))],
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
