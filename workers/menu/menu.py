"""The menu as its author writes it (YAML), and its validation.

    version: 1
    paths:
      - name: HLT_PixelActivity      # accepted if every cut of `require` holds
        stream: physics
        prescale: 1                  # keep one in N, chosen by a hash of run, event number and path name
        require:
          hits: {min: 8000}
      - name: HLT_PassThrough        # no cuts: a pass-through path
        stream: monitoring
        prescale: 100

An event is accepted if at least one path accepts it after its prescale. Prescale 0 switches a path off.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hltfarm.proto.errors import ConfigError

#: Quantities that cuts may name, in the order of `quantity()` in menu.cuh; columns of the result row (proto/results.py).
QUANTITIES = (
    "modules",
    "digis",
    "pixels",
    "clusters",
    "hits",
    "fed_errors",
    "word_errors",
    "doublets",
    "ntuplets",
    "tracks",
    "vertices",
    "displaced_tracks",
    "leading_pt",
    "best_sum_pt2",
)

MAX_PATHS = 64

DEFAULT_MENU = """\
version: 1
paths:
  - name: HLT_HardVertex
    stream: physics
    prescale: 1
    require:
      best_sum_pt2: {min: 400}
      vertices: {min: 1}
  - name: HLT_DisplacedTracks
    stream: physics
    prescale: 1
    require:
      displaced_tracks: {min: 8}
      leading_pt: {min: 5}
  - name: HLT_PixelActivity
    stream: physics
    prescale: 10
    require:
      hits: {min: 8000}
  - name: HLT_DetectorErrors
    stream: calibration
    prescale: 1
    require:
      fed_errors: {min: 1}
  - name: HLT_PassThrough
    stream: monitoring
    prescale: 20
"""

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]


class Cut(BaseModel):
    """Inclusive bounds on a quantity; at least one of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Cut:
        if self.min is None and self.max is None:
            raise ValueError("a cut needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: no event can pass")
        return self


class Path(BaseModel):
    """One trigger path."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: _Name
    stream: _Name = "physics"
    prescale: int = Field(default=1, ge=0, le=2**31)
    require: dict[str, Cut] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Path:
        for quantity in self.require:
            if quantity not in QUANTITIES:
                raise ValueError(f"unknown quantity {quantity!r}; known are {', '.join(QUANTITIES)}")
        return self


class Menu(BaseModel):
    """A validated menu; path i owns bit i of `path_bits`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int = Field(ge=1, le=1)
    paths: tuple[Path, ...] = Field(min_length=1, max_length=MAX_PATHS)

    @model_validator(mode="after")
    def _unique(self) -> Menu:
        names = [p.name for p in self.paths]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"path {name!r} appears more than once")
        return self

    @classmethod
    def parse(cls, text: str, origin: str = "menu") -> Menu:
        """Menu from YAML text. Raises ConfigError with one line that names the place and the value."""
        try:
            data: Any = yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(e).split())}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{origin}: expected a mapping with 'version' and 'paths', found {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(x) for x in first["loc"]) or "menu"
            raise ConfigError(f"{origin}: {where}: {first['msg']} (got {first['input']!r:.80})") from None

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify the menu's content, whatever its layout in the file."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()


def path_salt(name: str) -> int:
    """64-bit salt of a path's prescale hash: a function of its name alone, so prescales survive edits of other paths."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
