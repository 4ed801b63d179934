"""Writing a torch module down as a torch.export archive that `archive.inspect` accepts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from hltfarm.proto.errors import BackendError, ConfigError
from hltfarm.workers.models import archive
from hltfarm.workers.models.contents import Exported
from hltfarm.workers.models.networks import network
from hltfarm.workers.models.package import Model

#: Rows of the example that is traced; any number that no dimension of a model is likely to have.
TRACED_ROWS = 31


def export(module: nn.Module, widths: Sequence[int], max_rows: int | None = None) -> Exported:
    """The program of a module that takes float32 tensors (n, width) and returns n scores in 0 .. 1.

    The module is written as it is on the CPU in evaluation mode. Without `max_rows` it takes any number of rows. Raises BackendError if
    torch cannot export it, ConfigError if hltfarm would not run what comes out (see archive.py).
    """
    module = module.to("cpu").eval()
    rows = torch.export.Dim("rows", min=1) if max_rows is None else torch.export.Dim("rows", min=1, max=max(max_rows, TRACED_ROWS))
    inputs = tuple(torch.randn(TRACED_ROWS, width) for width in widths)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations
        try:
            program = torch.export.export(module, inputs, dynamic_shapes=[{0: rows} for _ in inputs])
            torch.export.save(program, buffer)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            raise BackendError(f"torch.export cannot write this module down: {type(error).__name__}: {lines[0]}") from error
    data = buffer.getvalue()
    archive.exported_program(data, "the exported module", widths)
    return Exported(data)


def export_model(model: Model) -> Exported:
    """A model as an exported program of the same scores. Raises ConfigError for kinds that have no such form."""
    if model.kind == "pt2":
        raise ConfigError(f"model {model.name} is an exported program already")
    if model.kind == "cuts" and model.target == "track":
        raise ConfigError(f"model {model.name}: cuts on tracks need numbers of hits, which exported programs do not get")
    return export(network(model, torch.device("cpu")), [len(group) for group in model.inputs])
