"""The menu as its author writes it (YAML), and its validation. docs/menu.md is the author's page.

    version: 1
    name: collisions-v2
    paths:
      - name: HLT_PixelActivity      # accepted if every cut of `require` holds
        description: Events with many hits
        stream: physics
        prescale: 1                  # keep one in N, chosen by a hash of run, event number and path name
        require:
          hits: {min: 8000}
      - name: HLT_PassThrough        # no cuts: a pass-through path
        stream: monitoring
        prescale: 100

An event is accepted if at least one path accepts it after its prescale. With prescale 0 a path is evaluated and never accepts;
with `enabled: false` it is checked and then left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hltfarm.proto.errors import ConfigError
from hltfarm.workers.menu.faults import Fault, Location, number, place, unknown, worded
from hltfarm.workers.menu.yaml_source import read

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
    "tracks_high_purity",
    "hard_tracks",
    "best_tracks",
    "sum_pt",
    "best_sum_pt",
    "second_sum_pt2",
    "vertex_ht",
    "vertex_pt2",
    "event_score",
)

MAX_PATHS = 64

DEFAULT_MENU = """\
version: 1
name: default
streams:
  physics: events for analysis
  calibration: events with readout errors
  monitoring: an unbiased part of everything
paths:
  - name: HLT_HardCollision
    description: much transverse momentum at one vertex
    stream: physics
    require:
      vertex_ht: {min: 50}
      vertex_pt2: {min: 450}
  - name: HLT_EventScore
    description: the event classifier takes it for a hard collision
    stream: physics
    require:
      event_score: {min: 0.65}
  - name: HLT_DisplacedTracks
    description: tracks from decays
    stream: physics
    require:
      displaced_tracks: {min: 10}
      leading_pt: {min: 5}
  - name: HLT_PixelActivity
    description: many hits
    stream: monitoring
    prescale: 1000
    require:
      hits: {min: 8000}
  - name: HLT_DetectorErrors
    description: the readout reports errors
    stream: calibration
    require:
      fed_errors: {min: 1}
  - name: HLT_PassThrough
    description: no cut
    stream: monitoring
    prescale: 1000
"""

#: Stream of events that could not be processed; the farm writes it, no path may.
RESERVED_STREAM = "error"


def _version(version: int) -> int:
    if version != 1:
        raise ValueError(f"version {version} of the menu language is unknown here; this hltfarm reads version 1")
    return version


def _quantity(name: str) -> str:
    if name not in QUANTITIES:
        raise ValueError(unknown("quantity", name, QUANTITIES))
    return name


def _stream(name: str) -> str:
    if name == RESERVED_STREAM:
        raise ValueError(f"{name!r} is the stream of events that could not be processed; choose another name")
    return name


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
_StreamName = Annotated[_Name, AfterValidator(_stream)]
_Quantity = Annotated[str, AfterValidator(_quantity)]
_Text = Annotated[str, StringConstraints(max_length=500)]
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Cut(BaseModel):
    """Inclusive bounds on a quantity; at least one of them."""

    model_config = _STRICT
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Cut:
        if self.min is None and self.max is None:
            raise ValueError("a cut needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {number(self.min)} is above max {number(self.max)}: no event can pass")
        return self


class Path(BaseModel):
    """One trigger path."""

    model_config = _STRICT
    name: _Name
    description: _Text = ""
    enabled: bool = True
    stream: _StreamName = "physics"
    prescale: int = Field(default=1, ge=0, le=2**31)
    require: dict[_Quantity, Cut] = Field(default_factory=dict)


class Document(BaseModel):
    """What a menu file holds, key by key; rules that concern several paths are in `check`."""

    model_config = _STRICT
    version: Annotated[int, AfterValidator(_version)]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = "unnamed"
    streams: dict[_StreamName, _Text] = Field(default_factory=dict)
    paths: list[Path] = Field(min_length=1)


@dataclass(frozen=True)
class Menu:
    """A valid menu; path i of `paths` owns bit i of `path_bits`.

    `disabled`: paths that the file holds and the farm leaves out. `streams`: description of each declared stream, in the order of the
    file; if none is declared, those that the paths name.
    """

    name: str
    paths: tuple[Path, ...]
    disabled: tuple[Path, ...]
    streams: dict[str, str]

    @classmethod
    def parse(cls, text: str, origin: str = "menu") -> Menu:
        """Menu from YAML text. Raises ConfigError with one line that names line, place and value of the first fault."""
        menu = check(text)
        if isinstance(menu, Menu):
            return menu
        more = len(menu) - 1
        rest = f" ({more} more fault{'s' if more > 1 else ''}; `hltfarm menu check` lists all)" if more else ""
        raise ConfigError(menu[0].at(origin) + rest)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that identify what the menu decides: names, order, streams, prescales and cuts of its paths.

        Its own name, descriptions, paths that are not enabled, the order of the cuts and the layout of the file do not count.
        """
        paths = [
            [path.name, path.stream, path.prescale, sorted((quantity, cut.min, cut.max) for quantity, cut in path.require.items())]
            for path in self.paths
        ]
        return hashlib.blake2b(json.dumps([1, paths]).encode(), digest_size=8).hexdigest()


def check(text: str) -> Menu | tuple[Fault, ...]:
    """The menu of a YAML text, or everything that is wrong with it, in the order of lines; at least one fault."""
    source = read(text)
    faults = source.faults
    if source.fault is None:
        data, document = source.data, None
        try:
            document = Document.model_validate(data)
        except ValidationError as e:
            for error in e.errors():
                location = tuple(key for key in error["loc"] if key != "[key]")
                around = location[:-1] if error["type"] in ("extra_forbidden", "missing") or "[key]" in error["loc"] else location
                text = worded(error, _keys(around))
                faults.append(Fault(source.line(location), ": ".join(filter(None, (place(data, around), text)))))
        faults += [Fault(source.line(at), f"{place(data, at[:2])}: {text}") for at, text in _across_paths(data)]
        if document is not None and not faults:
            return _menu(document)
    return tuple(sorted(faults, key=lambda fault: fault.line))


def _menu(document: Document) -> Menu:
    enabled = tuple(path for path in document.paths if path.enabled)
    disabled = tuple(path for path in document.paths if not path.enabled)
    return Menu(document.name, enabled, disabled, document.streams or dict.fromkeys((path.stream for path in enabled), ""))


def _keys(location: Location) -> tuple[str, ...]:
    """Keys that the mapping at a location may have."""
    models: dict[int, type[BaseModel]] = {0: Document, 2: Path, 4: Cut}
    model = models.get(len(location))
    return tuple(model.model_fields) if model is not None else ()


def _across_paths(data: Any) -> Iterator[tuple[Location, str]]:
    """Place and text of what is wrong between paths. Looks at the raw document, so that other faults do not hide these."""
    listed = data.get("paths") if isinstance(data, dict) else None
    paths = [(i, path) for i, path in enumerate(listed) if isinstance(path, dict)] if isinstance(listed, list) else []
    streams = data.get("streams") if paths else None
    seen: dict[str, int] = {}
    for i, path in paths:
        name, stream = path.get("name"), path.get("stream", Path.model_fields["stream"].default)
        if isinstance(name, str):
            if name in seen:
                yield ("paths", i, "name"), f"the name appears more than once; paths[{seen[name]}] has it already"
            seen.setdefault(name, i)
        if isinstance(streams, dict) and streams and isinstance(stream, str) and stream not in (*streams, RESERVED_STREAM):
            yield ("paths", i, "stream"), unknown("stream", stream, streams)
    enabled = [i for i, path in paths if path.get("enabled", True) is not False]
    if paths and not enabled:
        yield ("paths",), "no path is enabled; a menu needs at least one"
    if len(enabled) > MAX_PATHS:
        yield ("paths", enabled[MAX_PATHS]), f"{len(enabled)} enabled paths, {MAX_PATHS} at most: each owns a bit of the decision"


def path_salt(name: str) -> int:
    """64-bit salt of a path's prescale hash: a function of its name alone, so prescales survive edits of other paths."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
