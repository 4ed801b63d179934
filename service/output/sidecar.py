"""The JSON texts beside the output files, one for each file and one for each lumisection: written beside their names, then renamed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hltfarm.proto.messages import LedgerCounts

log = logging.getLogger(__name__)
FORMAT = 1  #: version of both texts
SUFFIX = ".json"


def file_sidecar(
    path: Path,
    metadata: Mapping[str, Any],
    *,
    events: int,
    payload_bytes: int,
    size: int,
    crc: int,
    path_counts: Sequence[int],
    lumisection: LedgerCounts | None,
    fsync: str,
    synced: bool,
    recovered: bool = False,
    cut_bytes: int = 0,
) -> dict[str, Any]:
    """Text of the sidecar of a file. `lumisection`: the ledger's counts when the file was closed, None if nobody knows them any more."""
    return {
        "format": FORMAT,
        "file": path.name,
        "run": metadata["run"],
        "lumi": metadata["lumi"],
        "stream": metadata["stream"],
        "events": events,
        "payload_bytes": payload_bytes,
        "bytes": size,
        "crc32c": f"{crc:08x}",
        "paths": {
            name: path_counts[bit]
            for bit, (name, stream) in enumerate(zip(metadata["paths"], metadata["path_streams"], strict=True))
            if stream == metadata["stream"]
        },
        "lumisection": None if lumisection is None else counts_of(lumisection),
        "menu": metadata["menu"],
        "models": metadata["models"],
        "columns": metadata["columns"],
        "fsync": fsync,
        "synced": synced,
        "recovered": recovered,
        "cut_bytes": cut_bytes,
        "version": version("hltfarm"),
    }


def lumisection_summary(path: Path, run: int, lumi: int, counts: LedgerCounts, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Text about a lumisection for `path`: what the ledger counted, and its files, those that an earlier text there names included."""
    known = _files_of(path)
    known |= {text["file"]: {key: text[key] for key in ("file", "stream", "events", "payload_bytes")} for text in files}
    return {
        "format": FORMAT,
        "run": run,
        "lumi": lumi,
        **counts_of(counts),
        "files": list(known.values()),
        "version": version("hltfarm"),
    }


def _files_of(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {file["file"]: file for file in json.loads(path.read_text())["files"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is no summary of a lumisection (%s); it is written anew", path, error)
        return {}


def counts_of(counts: LedgerCounts) -> dict[str, int]:
    """The ledger's entries that stay when a lumisection is closed."""
    return {"received": counts.received, "accepted": counts.accepted, "rejected": counts.rejected, "error": counts.error}


def write_text(path: Path, content: Mapping[str, Any], *, sync: bool) -> None:
    """Write JSON so that `path` is always a complete text; forced to the medium with its folder if `sync`. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the medium. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
