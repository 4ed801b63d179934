"""What the reference expects of an event, and the comparison with a backend, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import Detector
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.results import EventFlag
from tests.reference.cluster import NO_HIT, Clusters, cluster
from tests.reference.hits import rec_hits
from tests.reference.unpack import unpack

Columns = dict[str, NDArray[Any]]


#: Overflows of stages that this reference does not cover.
LATER = EventFlag.DOUBLET_OVERFLOW | EventFlag.TRACK_OVERFLOW | EventFlag.VERTEX_OVERFLOW


class Batch(Protocol):
    """What the comparison needs of a BatchResult."""

    results: NDArray[np.void]

    def digis(self, i: int) -> Columns: ...

    def hits(self, i: int) -> Columns: ...


@dataclass(frozen=True, eq=False)
class Expected:
    """Counts and flags of the result row, digis and hits of one event."""

    counts: dict[str, int]
    flags: EventFlag
    digis: Columns
    hits: Columns


def expect(payload: NDArray[np.uint8], detector: Detector, max_hits: int = 1 << 30) -> Expected:
    """Reconstruct one payload with the reference; hits from number `max_hits` on are left out."""
    pixels = unpack(payload, detector)
    clusters = cluster(pixels, detector)
    hits = {name: column[:max_hits] for name, column in rec_hits(clusters, detector).items()}
    counts = {
        "modules": clusters.modules,
        "digis": pixels.words,
        "pixels": len(clusters.module),
        "clusters": len(clusters),
        "hits": min(len(clusters), max_hits),
        "fed_errors": pixels.fed_errors,
        "word_errors": pixels.word_errors,
    }
    overflow = EventFlag.HIT_OVERFLOW if len(clusters) > max_hits else EventFlag(0)
    return Expected(counts, clusters.flags | overflow, _digis(clusters, max_hits), hits)


def _digis(c: Clusters, max_hits: int) -> Columns:
    """Digis as columns; those of a hit that was left out have no hit."""
    hit = np.where(c.hit < max_hits, c.hit, NO_HIT)
    return {"module": c.module, "row": c.row, "col": c.col, "charge": c.charge, "hit": hit}


def raw_event(payload: NDArray[np.uint8], number: int = 1) -> RawEvent:
    """The payload as an event of run 1."""
    return RawEvent(EventId(run=1, lumi=1, event=number), payload)


def check(batch: Batch, expected: Sequence[Expected]) -> None:
    """Assert that a batch is what the reference says: counts, flags, every digi and every bit of every hit."""
    assert len(batch.results) == len(expected)
    for i, e in enumerate(expected):
        row = batch.results[i]
        assert {name: int(row[name]) for name in e.counts} == e.counts
        assert EventFlag(int(row["flags"])) & ~LATER == e.flags
        same_columns(batch.digis(i), e.digis)
        same_columns(batch.hits(i), e.hits)


def same_columns(found: Columns, expected: Columns) -> None:
    """Assert equality of every expected column: floats by their bits (so 0 and -0 differ), integers by value."""
    for name, want in expected.items():
        have = found[name]
        assert have.shape == want.shape, f"{name}: {have.shape} entries, expected {want.shape}"
        if want.dtype == np.float32:
            assert have.dtype == np.float32, f"{name} is {have.dtype}"
            different = have.view(np.uint32) != want.view(np.uint32)
        else:
            different = have.astype(np.int64) != want.astype(np.int64)
        if different.any():
            k = int(np.argmax(different))
            raise AssertionError(f"{name}: {int(different.sum())} of {len(want)} differ, first at {k}: {have[k]!r}, expected {want[k]!r}")
