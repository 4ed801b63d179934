"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL = "Selector of tracks: a shipped model, a folder, or none; default: the configuration's."
WORKING_POINT = "Working point of the selector, e.g. 0.99; default: the model's own."
ENGINE = "How the selector is computed: fused (kernels), or torch: eager, compile, aot; default: fused."
EVENT_MODEL = "Classifier of events, whose score a menu can cut on: a shipped model, a folder, or none; default: the configuration's."

ModelOption = Annotated[str | None, typer.Option("--model", help=MODEL)]
WorkingPointOption = Annotated[str | None, typer.Option("--working-point", help=WORKING_POINT)]
EngineOption = Annotated[str | None, typer.Option("--engine", help=ENGINE)]
EventModelOption = Annotated[str | None, typer.Option("--event-model", help=EVENT_MODEL)]
