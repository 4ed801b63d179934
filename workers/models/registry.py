"""Models by name: those that are part of the distribution, and directories."""

from __future__ import annotations

from pathlib import Path

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.models import manifest
from hltfarm.workers.models.manifest import MANIFEST

SHIPPED = Path(__file__).resolve().parent / "shipped"


def shipped() -> dict[str, Path]:
    """Directories of the models that are part of the distribution, by name, in alphabetical order."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{MANIFEST}"))}


def find(name: str | Path) -> Path:
    """The directory of a model: `name` or `name@version` of a shipped one, or a path (`./name` where a shipped one has that name).

    Raises ConfigError with the known names.
    """
    known = shipped()
    wanted, at, version = str(name).partition("@")
    if isinstance(name, str) and wanted in known:
        directory = known[wanted]
        if at:
            found = manifest.read(directory).version
            if version != str(found):
                raise ConfigError(f"model {wanted!r} is there in version {found}, not {version!r}")
        return directory
    try:
        there = bool(str(name)) and Path(name).is_dir()
    except OSError as error:  # no permission, too long
        raise ConfigError(f"model {str(name)[:100]!r}: {error.strerror}") from None
    if there:
        return Path(name)
    raise ConfigError(f"model {str(name)!r} is neither a directory nor shipped; shipped are {', '.join(known) or 'none'}")
