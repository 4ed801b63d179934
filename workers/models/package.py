"""A model package: a directory with model.json and, depending on the kind, weights.safetensors or model.pt2.

`load` reads and checks all of it: digests, shapes, finite weights, trees without cycles, thresholds. Nothing is ever unpickled:
weights come from safetensors, and an exported program goes through `archive.inspect`. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.models import archive, contents, manifest
from hltfarm.workers.models.contents import Content, Cuts, Exported, Forest, MlpWeights
from hltfarm.workers.models.manifest import ARCHIVE, FILES, FORMAT, MANIFEST, WEIGHTS, Kind, Manifest, Target

MAX_FILE_BYTES = 1 << 28
#: In blake2b: 32 hexadecimal digits.
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Model:
    """A model that passed every check. `manifest`: what model.json says; `content`: weights, trees, cuts or the exported program."""

    manifest: Manifest
    content: Content

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def kind(self) -> Kind:
        return self.manifest.kind

    @property
    def target(self) -> Target:
        return self.manifest.target

    @property
    def features(self) -> tuple[str, ...]:
        """Names, in the order of the columns that the model reads."""
        return self.manifest.features

    @property
    def inputs(self) -> tuple[tuple[str, ...], ...]:
        """Features of each input tensor; one tensor of all features except for pt2 models that say otherwise."""
        return self.manifest.input_groups

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits over all that the model computes and decides; not over its description and training report."""
        return self.manifest.hash

    def thresholds(self, working_point: str | None = None) -> dict[str, float]:
        """Thresholds ("triplets" and "longer", or "event") of a working point, of the default one for None.

        Selected is what scores >= its threshold. Raises ConfigError with the working points that there are.
        """
        point = self.manifest.default_working_point if working_point is None else working_point
        if point not in self.manifest.working_points:
            known = ", ".join(self.manifest.working_points)
            raise ConfigError(f"model {self.name}: working point {point!r} is unknown; known are {known}")
        return dict(self.manifest.working_points[point])


def load(directory: Path | str, known: Collection[str] | None = None) -> Model:
    """The model of a directory. `known`: the features that exist (None: any name is taken).

    Raises ConfigError with one line that names file, field and value.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such directory; a model package is a directory with {MANIFEST}")
    described = manifest.read(directory)
    for feature in described.features:
        if known is not None and feature not in known:
            raise ConfigError(f"{path}: features: {feature!r} is unknown; known are {', '.join(known)}")
    data = {name: manifest.read_file(directory / name, MAX_FILE_BYTES) for name in FILES[described.kind]}
    for name, given in described.files.items():
        if digest(data[name]) != given:
            raise ConfigError(f"{directory / name}: the digest is {digest(data[name])}, {MANIFEST} says {given}: the file was changed")
    return Model(described, _content(described, data, directory))


def save(
    directory: Path | str,
    content: Content,
    *,
    name: str,
    version: int,
    target: Target,
    features: Collection[str],
    working_points: Mapping[str, Mapping[str, float]],
    default_working_point: str,
    description: str = "",
    training: Mapping[str, Any] | None = None,
    inputs: Collection[Collection[str]] | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> Model:
    """Write a package and return it as `load` reads it back. `half`: store the layers of an MLP as float16 (they are rounded).

    The directory appears complete or not at all: it is written beside its place, checked, and renamed. Raises ConfigError if it
    exists (unless `overwrite`) or if the model does not pass the checks of `load`.
    """
    directory = Path(directory)
    if directory.exists() and not (overwrite and (directory / MANIFEST).is_file()):
        hint = "it is not a model package" if overwrite else "choose another name or overwrite it"
        raise ConfigError(f"{directory} exists; {hint}")
    data = _files(content, half)
    fields: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "kind": kind_of(content),
        "target": target,
        "description": description,
        "features": tuple(features),
        "working_points": {point: dict(thresholds) for point, thresholds in working_points.items()},
        "default_working_point": default_working_point,
        "training": dict(training or {}),
        "cuts": content.cuts if isinstance(content, Cuts) else (),
        "inputs": None if inputs is None else tuple(tuple(group) for group in inputs),
        "files": {file: digest(text) for file, text in data.items()},
    }
    try:
        described = Manifest(**fields)
    except ValidationError as error:
        raise ConfigError(f"model {name}: {manifest.first_problem(error)}") from None
    data[MANIFEST] = described.to_json().encode()
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        fresh = work / "new"
        fresh.mkdir()
        for file, text in data.items():
            _write(fresh / file, text)
        model = load(fresh)
        if directory.exists():
            directory.rename(work / "old")
        fresh.rename(directory)
    finally:
        shutil.rmtree(work)
    return model


def kind_of(content: Content) -> Kind:
    """The kind of model that a content makes."""
    match content:
        case MlpWeights():
            return "mlp"
        case Forest():
            return "forest"
        case Cuts():
            return "cuts"
        case Exported():
            return "pt2"


def digest(data: bytes) -> str:
    """32 hexadecimal digits of blake2b, as `files` of a model.json has them."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _content(described: Manifest, data: Mapping[str, bytes], directory: Path) -> Content:
    match described.kind:
        case "mlp":
            return contents.mlp(_tensors(data[WEIGHTS], directory / WEIGHTS), len(described.features), directory / WEIGHTS)
        case "forest":
            return contents.forest(_tensors(data[WEIGHTS], directory / WEIGHTS), len(described.features), directory / WEIGHTS)
        case "cuts":
            return Cuts(described.cuts)
        case "pt2":
            archive.inspect(data[ARCHIVE], directory / ARCHIVE, [len(group) for group in described.input_groups])
            return Exported(data[ARCHIVE])


def _files(content: Content, half: bool) -> dict[str, bytes]:
    """The files of a package besides model.json."""
    match content:
        case MlpWeights() | Forest():
            # Mean and scale stay as they are: quantities of events may be beyond what float16 holds.
            narrow = content.tensors().keys() - {"mean", "scale"} if half and isinstance(content, MlpWeights) else set()
            tensors = {name: np.ascontiguousarray(a, np.float16 if name in narrow else a.dtype) for name, a in content.tensors().items()}
            return {WEIGHTS: safetensors.numpy.save(tensors)}
        case Cuts():
            return {}
        case Exported():
            return {ARCHIVE: content.archive}


def _tensors(data: bytes, path: Path) -> dict[str, NDArray[Any]]:
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{error}".split())
        raise ConfigError(f"{path}: not a safetensors file with float32, float16 or int32 tensors: {reason}") from None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
