"""Mermaid, which draws the diagrams, as a file of the site: the theme would load it from a public server."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

from mkdocs.exceptions import PluginError

from deploy.build_console import npm

PACKAGE = "mermaid-11.17.2.tgz"
SHA512 = "V6K3C8EBdEsPFZXSKMJe6ppQOENxuHARr9GvHX4hh47lAbhMRD9qf4oEK7LoaRQxULMa80/qt5gHO73aCleBBg=="
MEMBER = "package/dist/mermaid.min.js"
SCRIPT = "assets/mermaid.min.js"


def install(site: Path, cache: Path) -> None:
    """Put the script into the site. npm fetches the package if `cache` does not have it; its digest is checked each time."""
    archive = cache / PACKAGE
    if not archive.is_file():
        fetch(cache)
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != SHA512:
        raise PluginError(f"{archive}: the digest is {found}, not that of {PACKAGE}; remove the file to fetch it again")
    with tarfile.open(archive) as opened, (site / SCRIPT).open("wb") as out:
        member = opened.extractfile(MEMBER)
        assert member is not None
        shutil.copyfileobj(member, out)


def fetch(cache: Path) -> None:
    """Let npm fetch the package. Nothing of it is executed."""
    name, _, version = PACKAGE.removesuffix(".tgz").rpartition("-")
    cache.mkdir(parents=True, exist_ok=True)
    try:
        command, environment = npm()
        options = ["--silent", "--ignore-scripts", "--pack-destination", str(cache)]
        subprocess.run([*command, "pack", *options, f"{name}@{version}"], check=True, env=environment, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PluginError(f"{name} {version}, which draws the diagrams, could not be fetched: {error}") from error
