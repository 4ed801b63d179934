"""An accepted event on its way to the outputs, and what decided it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from hltfarm.proto.events import EventId
from hltfarm.proto.framing import Buffer
from hltfarm.proto.messages import ModelInfo, RunConfig
from hltfarm.proto.worker_link import PathInfo


@dataclass(frozen=True)
class Deciders:
    """Menu and models that decide, as the workers loaded them. Equal ones have the same menu and models."""

    config: RunConfig
    menu_hash: str
    models: tuple[ModelInfo, ...]
    paths: tuple[PathInfo, ...] = field(compare=False)

    @cached_property
    def streams(self) -> dict[str, int]:
        """Stream -> mask of the path bits that feed it."""
        masks: dict[str, int] = {}
        for bit, path in enumerate(self.paths):
            masks[path.stream] = masks.get(path.stream, 0) | 1 << bit
        return masks

    def streams_of(self, bits: int) -> tuple[str, ...]:
        """Streams that the accepting paths feed."""
        return tuple(stream for stream, mask in self.streams.items() if bits & mask)

    def description(self) -> dict[str, Any]:
        """For people and files: what decides, and what was asked for."""
        return {
            "menu": self.menu_hash,
            "models": [
                {
                    "target": model.target,
                    "name": model.name,
                    "version": model.version,
                    "hash": model.hash,
                    "engine": model.engine,
                    "working_point": model.working_point,
                }
                for model in self.models
            ],
            "paths": [path.name for path in self.paths],
            "path_streams": [path.stream for path in self.paths],
            "config": msgspec.to_builtins(self.config),
        }


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """One accepted event. `number` never comes again. `payload` is a view of its slot, which stays in use until every output has the event.

    crc: CRC32C of the payload, as its client computed it. bits: accepting paths. decision: an OUTPUT_DECISION record.
    columns: as in a COLUMNS frame; empty if there are none.
    """

    number: int
    id: EventId
    payload: Buffer
    crc: int
    bits: int
    decision: bytes
    columns: bytes = b""


def by_path(deciders: Deciders, counts: Sequence[int]) -> dict[str, int]:
    """Counts of the 64 path bits by the names of the paths."""
    return {path.name: counts[bit] for bit, path in enumerate(deciders.paths)}
