"""Build of the CPU kernels and of the web console; everything else is declared in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
ROOTS = ("proto", "service", "workers", "loadgen")
PACKAGES = [
    "hltfarm.proto",
    "hltfarm.proto.detector",
    "hltfarm.service",
    "hltfarm.service.bench",
    "hltfarm.service.chaos",
    "hltfarm.service.cli",
    "hltfarm.service.cli.ctl",
    "hltfarm.service.control",
    "hltfarm.service.export",
    "hltfarm.service.ingest",
    "hltfarm.service.output",
    "hltfarm.service.registry",
    "hltfarm.service.replay",
    "hltfarm.service.security",
    "hltfarm.service.soak",
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


#: Compiler flags by module: the instructions of every processor of the architecture, and of newer ones (backends/cpu_library.py chooses).
BASELINE = "hltfarm.workers.backends.cpu_kernels"
VARIANTS = {f"{BASELINE}_v3": ["-march=x86-64-v3"]}
SOURCE = "workers/backends/cpu_kernels.cpp"
# Bit-reproducibility: no contraction, no fast-math. errno of sqrt is of no use and would keep it from being inlined.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra"]
# What the kernels take of the compiler's own libraries comes with them, so that one file serves every distribution.
LINK = ["-static-libstdc++", "-static-libgcc"]
# The modules are empty for Python: its stable interface is enough, and one wheel serves every version from this one on.
STABLE, STABLE_HEX = "cp311", "0x030B0000"


class BuildKernels(build_ext):
    """Generates the kernels' entry points from the declarations of the stages, then compiles them, for each set of instructions."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if not self.plat_name.endswith("x86_64"):
            self.extensions = [ext for ext in self.extensions if ext.name not in VARIANTS]
        self.parallel = self.parallel or True

    def build_extensions(self) -> None:
        sys.path.insert(0, str(HERE))
        for name, path in (("hltfarm", HERE), *((f"hltfarm.{root}", HERE / root) for root in ROOTS)):
            package = sys.modules.setdefault(name, types.ModuleType(name))
            package.__path__ = [str(path)]
        from hltfarm.workers.backends import codegen

        generated = Path(self.build_temp).resolve() / "generated"
        generated.mkdir(parents=True, exist_ok=True)
        (generated / "views.gen.h").write_text(codegen.views_header())
        (generated / "kernels_cpu.gen.h").write_text(codegen.cpu_entries())
        for ext in self.extensions:
            ext.include_dirs += [str(generated), str(HERE / "workers")]
            if ext.name in VARIANTS:  # a text of its own, so that object files have different names
                module = ext.name.rpartition(".")[2]
                text = generated / f"{module}.cpp"
                text.write_text(f'#define HLT_MODULE {module}\n#include "backends/cpu_kernels.cpp"\n')
                ext.sources = [str(text)]
        super().build_extensions()

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        for stale in (HERE / "workers" / "backends").glob("cpu_kernels*.cpython-*.so"):  # of a version of Python: that name is found first
            stale.unlink()


def build_console() -> None:
    """Make the files of the web console, which packages and source distributions collect. A build goes on without them."""
    subprocess.run([sys.executable, str(HERE / "deploy" / "build_console.py")], check=True)


class BuildPython(build_py):
    """With the files of the web console."""

    def run(self) -> None:
        build_console()
        super().run()


class SourceDistribution(sdist):
    """With the files of the web console, and what they are built from."""

    def run(self) -> None:
        build_console()
        super().run()


def kernels(name: str, flags: list[str]) -> Extension:
    """The CPU kernels as module `name`. A compiler may lack the instructions of a variant, which is then left out."""
    return Extension(
        name,
        [SOURCE],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=LINK,
        define_macros=[("Py_LIMITED_API", STABLE_HEX)],
        py_limited_api=True,
        depends=[str(p.relative_to(HERE)) for p in sorted(HERE.glob("workers/*/*.cuh"))]
        + [str(p.relative_to(HERE)) for p in sorted(HERE.glob("workers/**/*.py"))],
        language="c++",
        optional=name in VARIANTS,
    )


setup(
    packages=PACKAGES,
    package_dir={f"hltfarm.{root}": root for root in ROOTS},
    ext_modules=[kernels(BASELINE, []), *(kernels(name, flags) for name, flags in VARIANTS.items())],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPython, "sdist": SourceDistribution},
    options={"bdist_wheel": {"py_limited_api": STABLE}},
)
