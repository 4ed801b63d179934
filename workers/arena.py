"""The memory of a batch in flight: every structure of the chain, allocated once, for a fixed number of events and words."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import LimitError
from hltfarm.proto.events import RawEvent
from hltfarm.proto.soa import Collection, Schema, aligned_empty
from hltfarm.workers.cells import MASK_WORDS, PHI_BINS
from hltfarm.workers.configuration import Configuration
from hltfarm.workers.dnn import PROFILE_BINS
from hltfarm.workers.kernel import Inference, Kernel, Stage
from hltfarm.workers.pipeline import CHAIN, COLUMNS
from hltfarm.workers.vertices import VERTEX_SHARES

Allocate = Callable[[Schema, int], Collection]


@dataclass(frozen=True)
class Capacity:
    """What a batch may hold: events, and 32-bit payload words of all of them together."""

    events: int
    words: int
    config: Configuration

    def entries(self, per: str, detector: Detector) -> int:
        """Entries of a structure that has one per `per` (see Stage.columns)."""
        return {
            "events": self.events,
            "event_edges": self.events + 1,
            "words": self.words,
            "frames": self.events * len(detector.cabling.fed_ids),
            "modules": self.events * detector.n_modules,
            "hits": min(self.words, self.events * self.config.max_hits),  # a hit takes at least one word
            "sorted_hits": min(self.words, self.events * self.config.max_hits) + 1,  # the search reads two at a time
            "phi_bins": self.events * len(detector.layers) * (PHI_BINS + 1),
            "cells": self.words * self.config.cells.cells_per_word + 8,  # the linking reads up to eight at a time
            "cell_groups": -(-self.words * self.config.cells.cells_per_word // 32),
            "cell_chunks": -(-self.words * max(self.config.cells.cells_per_word, self.config.tracks.used_cells_per_word) // 1024) + 1,
            "hit_values": 4 * min(self.words, self.events * self.config.max_hits),
            "hit_masks": (min(self.words, self.events * self.config.max_hits) + 1) * self.config.cells.pairs_per_layer * MASK_WORDS,
            "used_cells": self.words * self.config.tracks.used_cells_per_word,
            "tracks": self.words * self.config.tracks.tracks_per_word,
            "z_edges": self.events * (PROFILE_BINS + 1),
            "selected": self.words // self.config.selection.words_per_selected,
        }[per]

    def nbytes(self, detector: Detector) -> int:
        """Memory of an arena."""
        return sum(schema.layout(self.entries(per, detector)).nbytes for schema, per in COLUMNS)


class Arena:
    """All collections of a batch by struct name, from `allocate(schema, capacity)`."""

    def __init__(self, detector: Detector, capacity: Capacity, allocate: Allocate) -> None:
        self.capacity = capacity
        self.collections = {schema.name: allocate(schema, capacity.entries(per, detector)) for schema, per in COLUMNS}

    def __getitem__(self, name: str) -> Collection:
        return self.collections[name]


@dataclass(frozen=True)
class Launch:
    """A kernel with the memory it works on: address of its item count, structs by value, bytes of team memory."""

    stage: Stage
    kernel: Kernel
    items: int
    structs: tuple[np.ndarray[Any, Any], ...]
    scratch: int


@dataclass(frozen=True)
class Infer:
    """A torch model over rows of a collection of the arena."""

    stage: Stage
    step: Inference


def plan(
    arena: Arena, tables: dict[str, Collection], params: dict[str, np.ndarray[Any, Any]], kinds: Container[str]
) -> list[Launch | Infer]:
    """The steps of the whole chain over an arena, in order; `kinds`: which of the steps with a condition are part of it."""
    structs = {name: c.struct for name, c in (*arena.collections.items(), *tables.items())} | params
    launches: list[Launch | Infer] = []
    for stage in CHAIN:
        for kernel in stage.steps:
            if kernel.when and kernel.when not in kinds:
                continue
            if isinstance(kernel, Inference):
                launches.append(Infer(stage, kernel))
                continue
            struct, column = kernel.items.split(".")
            scratch = 0
            if kernel.scratch:
                owner, field = kernel.scratch.split(".")
                scratch = int(params[owner][0][field])
            launches.append(Launch(stage, kernel, arena[struct].address(column), tuple(structs[a] for a in kernel.args), scratch))
    return launches


def host_allocate(schema: Schema, capacity: int) -> Collection:
    """A collection in ordinary memory, uninitialised."""
    layout = schema.layout(capacity)
    return Collection(layout, aligned_empty(layout.nbytes))


def describe_batch(batch: Collection, events: Sequence[RawEvent], detector: Detector) -> None:
    """Fill the host's Batch structure: payloads lie one after the other in Raw, each at a multiple of 32 words."""
    n = len(events)
    words = np.array([e.payload.nbytes // 4 for e in events], np.uint32)
    padded = (words + 31) // 32 * 32
    batch.n_events[0], batch.n_frames[0], batch.n_modules[0], batch.one[0] = n, n * len(detector.cabling.fed_ids), n * detector.n_modules, 1
    batch.n_layers[0] = n * len(detector.layers)
    batch.n_vertex_shares[0] = n * VERTEX_SHARES
    batch.n_module_groups[0] = -(-n * detector.n_modules // 32)
    batch.payload_begin[:n] = np.cumsum(padded) - padded
    batch.payload_words[:n] = words
    batch.run[:n] = [e.id.run for e in events]
    batch.event[:n] = [e.id.event for e in events]


def split(events: Sequence[RawEvent], capacity: Capacity) -> Iterator[Sequence[RawEvent]]:
    """Cut a list of events into batches that fit. Raises LimitError for an event that fits no batch."""
    first, words = 0, 0
    for i, event in enumerate(events):
        need = -(-event.payload.nbytes // 128) * 32
        if event.payload.nbytes % 4:
            raise LimitError(f"event {event.id.event}: payload of {event.payload.nbytes} bytes is not a whole number of 32-bit words")
        if need > capacity.words:
            raise LimitError(
                f"event {event.id.event}: payload of {event.payload.nbytes} bytes exceeds the batch capacity of {4 * capacity.words} bytes"
            )
        if i - first == capacity.events or words + need > capacity.words:
            yield events[first:i]
            first, words = i, 0
        words += need
    if first < len(events):
        yield events[first:]


def asked_parts(
    parts: Iterator[Sequence[RawEvent]], asked: Sequence[bool] | None
) -> Iterator[tuple[Sequence[RawEvent], Sequence[bool] | None]]:
    """Each part of a list that was split, with its part of a list of the same length (None: none of it)."""
    first = 0
    for part in parts:
        yield part, None if asked is None else asked[first : first + len(part)]
        first += len(part)
