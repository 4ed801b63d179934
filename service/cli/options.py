"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[
    str | None, typer.Option("--model", help="Selector of tracks: a shipped model, a folder, or none; default: the configuration's.")
]
WorkingPointOption = Annotated[
    str | None, typer.Option("--working-point", help="Working point of the selector, e.g. 0.99; default: the model's own.")
]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", help="How the selector is computed: fused (kernels), or torch: eager, compile, aot; default: fused."),
]
