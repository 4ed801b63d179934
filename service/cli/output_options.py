"""Options of `serve` and `ingest` for the output of accepted events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.output.settings import Fsync, OutputSettings

FSYNC = "When files are forced to the medium: event (before it is decided), lumisection (before a file is closed), none."
COLUMNS = "Write the reconstructed tracks and vertices of accepted events, too."
FILE = "A file that reaches this size is closed and the next part begun, such as 512M or 4G."
KEEP = "Remove the oldest closed files when all together exceed this size; 0 keeps everything."
RESERVE = "Space that stays free on the disk of the output: with less, accepted events wait."
GRACE = "A lumisection is closed so many seconds after its last event and the begin of a later one."
URL = "Where consumers subscribe to the streams (ZeroMQ); nowhere if not given."

RECENT = "Memory for copies of the latest accepted and failed events, which the console shows, such as 32M; 0: none."

FsyncOption = Annotated[Fsync, typer.Option("--fsync", help=FSYNC, envvar="HLTFARM_INGEST_FSYNC")]
ColumnsOption = Annotated[bool, typer.Option("--output-columns/--no-output-columns", help=COLUMNS, envvar="HLTFARM_INGEST_OUTPUT_COLUMNS")]
FileOption = Annotated[str, typer.Option("--output-file", help=FILE, envvar="HLTFARM_INGEST_OUTPUT_FILE")]
KeepOption = Annotated[str, typer.Option("--output-keep", help=KEEP, envvar="HLTFARM_INGEST_OUTPUT_KEEP")]
ReserveOption = Annotated[str, typer.Option("--output-reserve", help=RESERVE, envvar="HLTFARM_INGEST_OUTPUT_RESERVE")]
GraceOption = Annotated[float, typer.Option("--output-grace-s", min=0, max=86_400, help=GRACE, envvar="HLTFARM_INGEST_OUTPUT_GRACE_S")]
UrlOption = Annotated[str | None, typer.Option("--output-url", help=URL, envvar="HLTFARM_INGEST_OUTPUT_URL")]
RecentOption = Annotated[str, typer.Option("--recent-bytes", help=RECENT, envvar="HLTFARM_INGEST_RECENT_BYTES")]

_SIZE = re.compile(r"(\d{1,15})([KMGT]?)")
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def size(option: str, text: str) -> int:
    """Bytes of a size such as 512M (powers of 1024). Raises ConfigError for anything else."""
    from hltfarm.proto.errors import ConfigError

    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise ConfigError(f"{option} {text!r}: give a number of bytes, or one with K, M, G or T, such as 512M")
    return int(found[1]) << _UNITS[found[2]]


def output_settings(
    folder: Path | None, url: str | None, fsync: Fsync, columns: bool, file: str, keep: str, reserve: str, grace_s: float
) -> OutputSettings:
    """Settings of the options. Raises ConfigError."""
    return OutputSettings(
        folder=folder,
        url=url,
        fsync=fsync,
        columns=columns,
        file_bytes=size("--output-file", file),
        keep_bytes=size("--output-keep", keep),
        reserve_bytes=size("--output-reserve", reserve),
        grace_s=grace_s,
    )
