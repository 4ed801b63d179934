"""Build of the CPU kernels; everything else is declared in pyproject.toml."""

from setuptools import setup

ROOTS = ("proto", "service", "workers", "loadgen")
PACKAGES = [
    "hltfarm.proto",
    "hltfarm.service",
    "hltfarm.workers",
    "hltfarm.loadgen",
]

setup(packages=PACKAGES, package_dir={f"hltfarm.{root}": root for root in ROOTS})
