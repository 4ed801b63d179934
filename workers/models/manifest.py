"""model.json of a model package: its fields, their rules, and the hash that names a model's content.

    {"format": 1, "name": "track-mlp", "version": 3, "kind": "mlp", "target": "track", "description": "...",
     "features": ["pt", "eta", ...],
     "working_points": {"0.99": {"triplets": 0.41, "longer": 0.08}, ...}, "default_working_point": "0.99",
     "training": {...}, "files": {"weights.safetensors": "32 hexadecimal digits of blake2b"}}

`cuts` belongs to the kind cuts, `inputs` to the kind pt2. docs/models.md explains every field to those who write one.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hltfarm.proto.errors import ConfigError

FORMAT = 1
MANIFEST = "model.json"
WEIGHTS = "weights.safetensors"
ARCHIVE = "model.pt2"
#: The files that a package of each kind has besides model.json; no other names are possible.
FILES: dict[str, tuple[str, ...]] = {"mlp": (WEIGHTS,), "forest": (WEIGHTS,), "cuts": (), "pt2": (ARCHIVE,)}
#: What a working point has one threshold for: tracks of three hits and of more, or the event as a whole.
THRESHOLDS: dict[str, tuple[str, ...]] = {"track": ("triplets", "longer"), "event": ("event",)}

MAX_FEATURES = 256
MAX_CUTS = 256
MAX_MANIFEST_BYTES = 1 << 20
ANY_HITS = 255

Kind = Literal["mlp", "forest", "cuts", "pt2"]
Target = Literal["track", "event"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}\z")]
Feature = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}\z")]
WorkingPoint = Annotated[str, StringConstraints(pattern=r"^(0\.[0-9]{1,6}|1)\z")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}\z")]
Threshold = Annotated[float, Field(ge=0, le=1)]

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Cut(BaseModel):
    """Inclusive bounds on a feature, for tracks of `min_hits` to `max_hits` hits; compared in float32."""

    model_config = _STRICT
    feature: Feature
    min: float | None = None
    max: float | None = None
    min_hits: int = Field(default=0, ge=0, le=ANY_HITS)
    max_hits: int = Field(default=ANY_HITS, ge=0, le=ANY_HITS)

    @model_validator(mode="after")
    def _bounds(self) -> Cut:
        if self.min is None and self.max is None:
            raise ValueError(f"the cut on {self.feature!r} needs min, max or both")
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and not _is_float32(bound):
                raise ValueError(f"the cut on {self.feature!r} has {name} {bound}: beyond float32, in which it is compared; leave it out")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the cut on {self.feature!r} has min {self.min} above max {self.max}: nothing can pass")
        if self.min_hits > self.max_hits:
            raise ValueError(f"the cut on {self.feature!r} has min_hits {self.min_hits} above max_hits {self.max_hits}: it never applies")
        return self


def _is_float32(value: float) -> bool:
    """Whether a finite number is still finite as float32."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return False
    return True


class Manifest(BaseModel):
    """A validated model.json. A score passes a working point if it is >= the threshold there."""

    model_config = _STRICT
    format: Literal[1]
    name: Name
    version: int = Field(ge=1, le=2**31 - 1)
    kind: Kind
    target: Target
    description: str = Field(max_length=4000)
    features: tuple[Feature, ...] = Field(min_length=1, max_length=MAX_FEATURES)
    working_points: dict[WorkingPoint, dict[str, Threshold]] = Field(min_length=1, max_length=32)
    default_working_point: WorkingPoint
    training: dict[str, Any] = Field(default_factory=dict)
    cuts: tuple[Cut, ...] = Field(default=(), max_length=MAX_CUTS)
    inputs: tuple[tuple[Feature, ...], ...] | None = Field(default=None, min_length=1, max_length=16)
    files: dict[str, Digest] = Field(default_factory=dict, max_length=16)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        self._check_features()
        self._check_working_points()
        if bool(self.cuts) != (self.kind == "cuts"):
            raise ValueError(f"cuts: a {self.kind} model has {'at least one cut' if self.kind == 'cuts' else 'none'}, got {len(self.cuts)}")
        if self.inputs is not None and self.kind != "pt2":
            raise ValueError(f"inputs: only a pt2 model groups its features into tensors, this one is {self.kind}")
        if set(self.files) != set(FILES[self.kind]):
            wanted = ", ".join(FILES[self.kind]) or "no file"
            raise ValueError(f"files: a {self.kind} model has {wanted}; got {', '.join(map(repr, self.files)) or 'none'}")
        return self

    def _check_features(self) -> None:
        for name, times in Counter(self.features).items():
            if times > 1:
                raise ValueError(f"features: {name!r} appears {times} times")
        named = [("cuts", cut.feature) for cut in self.cuts] + [("inputs", name) for group in self.inputs or () for name in group]
        for where, name in named:
            if name not in self.features:
                raise ValueError(f"{where}: {name!r} is not among the features {', '.join(self.features)}")
        if self.inputs is not None and not all(self.inputs):
            raise ValueError("inputs: an input tensor without features")

    def _check_working_points(self) -> None:
        wanted = THRESHOLDS[self.target]
        for point, thresholds in self.working_points.items():
            if set(thresholds) != set(wanted):
                given = ", ".join(thresholds) or "none"
                raise ValueError(f"working_points.{point}: a {self.target} model has thresholds for {', '.join(wanted)}; got {given}")
        if self.default_working_point not in self.working_points:
            raise ValueError(
                f"default_working_point: {self.default_working_point!r} is not among the working points {', '.join(self.working_points)}"
            )

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """Features of each input tensor, in order; one tensor of all features unless `inputs` says otherwise."""
        return self.inputs if self.inputs is not None else (self.features,)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify what the model computes and decides: everything but the description and the training."""
        content = self.model_dump(mode="json", exclude={"description", "training"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def to_json(self) -> str:
        """The text of model.json. Raises ConfigError if `training` holds what JSON does not have."""
        try:
            return json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=1, allow_nan=False) + "\n"
        except (ValueError, TypeError) as error:
            raise ConfigError(f"model {self.name}: training: {error}") from None


def parse(text: bytes, origin: Path | str) -> Manifest:
    """Manifest from the bytes of a model.json. Raises ConfigError with one line that names file, field and value."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {first_problem(error)}") from None


def read(directory: Path) -> Manifest:
    """Manifest of a package, its other files unseen. Raises ConfigError."""
    path = directory / MANIFEST
    return parse(read_file(path, MAX_MANIFEST_BYTES), path)


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises ConfigError."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: not a regular file")
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    if len(data) > limit:
        raise ConfigError(f"{path}: {status.st_size} bytes; at most {limit} are read")
    return data


def first_problem(error: ValidationError) -> str:
    """Field, message and value of the first problem of a validation, on one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict | Manifest | bytes) else f" (got {first['input']!r:.80})"
    return " ".join(f"{where + ': ' if where else ''}{message}{given}".split())
