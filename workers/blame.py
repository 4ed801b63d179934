"""Which stage of the chain an exception came from, as far as its traceback tells. The GPU's kernels report only that something failed."""

from __future__ import annotations

from types import TracebackType

PACKAGE = "hltfarm.workers."
#: Packages that compute for a stage of another name.
FOR_STAGE = {"inference": "dnn", "models": "dnn"}


def stage_of(error: BaseException) -> str:
    """Name of the stage in whose code an exception was raised, the innermost one; empty where none took part."""
    from hltfarm.workers.pipeline import CHAIN  # a process that computes has it

    stages, found = {stage.name for stage in CHAIN}, ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith(PACKAGE):
            package = module.removeprefix(PACKAGE).partition(".")[0]
            name = FOR_STAGE.get(package, package)
            found = name if name in stages else found
        trace = trace.tb_next
    return found
