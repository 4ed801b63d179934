"""Outputs, looked at before the work: who cannot write should know at once, not after minutes of measuring."""

from __future__ import annotations

import os
from pathlib import Path

from hltfarm.proto.errors import ConfigError


def check_file(option: str, path: Path | None) -> None:
    """Raise ConfigError unless `path` is None or a file that can be written, or made in the folder that it names."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder; name a file in it")
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {folder}; make it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"{option} {path}: cannot be written: no permission")


def check_folder(option: str, path: Path | None) -> None:
    """Make the folder `path` if it is missing. Raise ConfigError if that fails, or if nothing can be written there; None is fine."""
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path}: the folder cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: cannot be written: no permission")
