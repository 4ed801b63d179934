"""Events of output files reconstructed again, compared with what was recorded when they were decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.sample_folder import SampleFolder
from hltfarm.loadgen.source import EventSource
from hltfarm.proto.errors import SampleError
from hltfarm.proto.messages import RunConfig


@dataclass(frozen=True, slots=True)
class Recorded:
    """What decided the events of a source: the configuration, and the menu's hash."""

    config: RunConfig
    menu_hash: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One event whose digest or paths are not as recorded (hexadecimal digits)."""

    event: int
    field: str
    recorded: str
    now: str


def recorded(source: EventSource) -> Recorded:
    """What decided the events of a sample or a folder. Raises SampleError if that is not one thing, or not recorded."""
    samples = _samples(source)
    found = {(str(sample.metadata.get("menu")), str(sample.metadata.get("config"))): sample for sample in samples}
    if len(found) > 1:
        raise SampleError(f"{source.name}: its files were decided by different menus or models; check them one at a time")
    (sample,) = found.values()
    config, menu = sample.metadata.get("config"), sample.metadata.get("menu")
    if not isinstance(config, dict) or not isinstance(menu, str):
        raise SampleError(f"{sample.path}: no output file, there is no record of what decided its events")
    known = {name: config[name] for name in RunConfig.__struct_fields__ if isinstance(config.get(name), str)}
    return Recorded(RunConfig(run=int(config.get("run", 0)), **known), menu)


def differences(source: EventSource, rows: NDArray[np.void], *, paths: bool) -> list[Difference]:
    """Compare result rows of the first events of a source with their decisions: digests, and accepting paths if `paths`.

    Raises SampleError for an event that has no decision.
    """
    if not isinstance(source, Sample | SampleFolder):
        raise SampleError(f"{source.name}: only sample files record decisions")
    fields = ("digest", "path_bits") if paths else ("digest",)
    found = []
    for i, row in enumerate(rows[: len(source)]):
        decision = source.decision(i)
        if decision is None:
            raise SampleError(f"{source.name}: event number {i} has no decision to compare with")
        for field in fields:
            before, now = int(decision[field][0]), int(row[field])
            if before != now:
                found.append(Difference(source[i].id.event, field, f"{before:016x}", f"{now:016x}"))
    return found


def _samples(source: EventSource) -> Sequence[Sample]:
    if isinstance(source, SampleFolder):
        return source.samples
    if isinstance(source, Sample):
        return [source]
    raise SampleError(f"{source.name}: only sample files record decisions")
