"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL = "Selector of tracks: a shipped model, a folder, or none; default: the configuration's."
WORKING_POINT = "Working point of the selector, e.g. 0.99; default: the model's own."
ENGINE = "How the selector is computed: fused (kernels), or torch: eager, compile, aot; default: fused."
EVENT_MODEL = "Classifier of events, whose score a menu can cut on: a shipped model, a folder, or none; default: the configuration's."
SLOTS = "Events that an ingest holds at a time (4 MiB of address space each)."
BATCH = "Largest batch of a worker, in events; 0: 64 on a GPU, 4 for each CPU thread."
DEADLINE = "An idle worker starts a batch when its oldest event has waited so many milliseconds."
WORKER_TIMEOUT = "A worker that says nothing for so many seconds is taken for lost; its events go to others."
BATCH_TIMEOUT = "A worker one of whose batches takes more seconds than this hangs, and is taken for lost."
HANG = "A worker that its ingest gave up ends once its batch has run for so many seconds, to be started again; 0: what the ingest allows."
FALLBACK = "Take only events on which other workers failed, and all of them while no other worker is ready."
LARGEST_BATCH = 4096
TOKENS = "File with the digests of the API's tokens (`hltfarm token new --file`); without one only 127.0.0.1 is listened on."
OPEN_METRICS = "Let everybody read /metrics, without a token."
CURVE_KEY = "Secret key file of the ingests (`hltfarm keys new`): their tcp endpoints then speak CURVE with those alone whom --allow names."
ALLOW = "Folder with the public keys of those who may come: clients/NAME.key for data sources, control/NAME.key for control planes."
OWN_KEY = "Own secret key file (`hltfarm keys new`), for ingests that speak CURVE."
SERVER_KEY = "Public key file of the ingests."
STATUS = "File that the role rewrites every second, for `hltfarm health`."
INSECURE = "Allow addresses that others reach without tokens or keys, because something else protects them."

ModelOption = Annotated[str | None, typer.Option("--model", help=MODEL)]
WorkingPointOption = Annotated[str | None, typer.Option("--working-point", help=WORKING_POINT)]
EngineOption = Annotated[str | None, typer.Option("--engine", help=ENGINE)]
EventModelOption = Annotated[str | None, typer.Option("--event-model", help=EVENT_MODEL)]

TokensOption = Annotated[Path | None, typer.Option("--tokens", help=TOKENS, envvar="HLTFARM_TOKENS")]
OpenMetricsOption = Annotated[bool, typer.Option("--open-metrics", help=OPEN_METRICS, envvar="HLTFARM_OPEN_METRICS")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help=INSECURE, envvar="HLTFARM_INSECURE")]
CurveKeyOption = Annotated[Path | None, typer.Option("--curve-key", help=CURVE_KEY, envvar="HLTFARM_INGEST_CURVE_KEY")]
AllowOption = Annotated[Path | None, typer.Option("--allow", help=ALLOW, envvar="HLTFARM_INGEST_ALLOW")]
OwnKeyOption = Annotated[Path | None, typer.Option("--key", help=OWN_KEY, envvar="HLTFARM_KEY")]
ServerKeyOption = Annotated[Path | None, typer.Option("--server-key", help=SERVER_KEY, envvar="HLTFARM_SERVER_KEY")]
StatusOption = Annotated[Path | None, typer.Option("--status", help=STATUS, envvar="HLTFARM_STATUS")]
