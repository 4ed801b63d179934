"""Options for traces of batches (OpenTelemetry), which `hltfarm worker` and `hltfarm serve` share."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

import typer

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.batch_trace import TraceSettings

log = logging.getLogger(__name__)
SHARE = 0.01
PATH = "/v1/traces"
#: Either of them turns tracing on, as in other programs with OpenTelemetry.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

OtlpOption = Annotated[
    str | None,
    typer.Option("--otlp", help="Send traces of batches to this OpenTelemetry collector (OTLP over HTTP).", envvar="HLTFARM_WORKER_OTLP"),
]
OtlpShareOption = Annotated[
    float,
    typer.Option(
        "--otlp-share",
        min=0,
        max=1,
        help="Share of the batches that is traced; failed ones always are.",
        envvar="HLTFARM_WORKER_OTLP_SHARE",
    ),
]


def trace_settings(url: str | None, share: float, environment: Mapping[str, str] = os.environ) -> TraceSettings | None:
    """Where traces go; None for nowhere. Raises ConfigError for a URL that is none, and without OpenTelemetry.

    Without a URL the variables of OpenTelemetry decide; one that is set where OpenTelemetry is not installed is logged, no more.
    """
    if url:
        endpoint = _endpoint(url)
        if not _installed():
            raise ConfigError("--otlp needs OpenTelemetry, which is not installed; install hltfarm[otel]")
        return TraceSettings(url=endpoint, share=share)
    asked = next((name for name in ENDPOINTS if environment.get(name)), None)
    if asked is None or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if not _installed():
        log.warning("%s is set, but OpenTelemetry is not installed (hltfarm[otel]): no traces", asked)
        return None
    return TraceSettings(url="", share=share)


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"--otlp {url!r}: give the address of a collector such as http://127.0.0.1:4318")
    return parts._replace(path=PATH).geturl() if parts.path in ("", "/") else url


def _installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # of a parent
        return False
