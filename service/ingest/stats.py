"""Counters and histograms of an ingest, updated for whole batches. Monotonic since its start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hltfarm.proto.errors import WireCode
from hltfarm.proto.messages import Histogram
from hltfarm.proto.results import EventFlag
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.proto.worker_link import PathInfo

LATENCY_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STAGE_BOUNDS_S = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
ERROR_STREAM = "error"
#: Conditions of an event that its reconstruction finds, and what it counts in it (fields of RESULT).
FLAGS = tuple(flag for flag in EventFlag if flag not in (EventFlag.COLUMNS_LEFT_OUT, EventFlag.UNPROCESSED))
OBJECTS = ("digis", "clusters", "hits", "doublets", "ntuplets", "tracks", "tracks_high_purity", "vertices")
CAUSES = ("slots", "bytes", "no_worker", "paused", "client_not_reading", "output")


class Histo:
    """Histogram with fixed bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0

    def add(self, values: ArrayLike) -> None:
        """Add values, each into the first bin whose bound is not below it."""
        values = np.atleast_1d(np.asarray(values, dtype=np.float64))
        self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
        self._sum += float(values.sum())

    def frozen(self) -> Histogram:
        """A copy for a snapshot."""
        return Histogram(bounds=self._bounds.tolist(), counts=self._counts.tolist(), sum=self._sum)


class Stats:
    """All of them."""

    def __init__(self) -> None:
        self.ingest_bytes = 0
        self.refused = {code.name: 0 for code in WireCode}
        self.failures = {reason.name: 0 for reason in Reason if reason}
        self.stream_events = {ERROR_STREAM: 0}
        self.stream_bytes = {ERROR_STREAM: 0}
        self.backpressure = dict.fromkeys(CAUSES, 0.0)
        self.latency = Histo(LATENCY_BOUNDS_S)
        self.batch_events = Histo(BATCH_BOUNDS)
        self.stages: dict[str, Histo] = {}
        self.stale_answers = 0
        self.lost_sessions = 0
        self.last_decision = 0.0  # wall clock, seconds since 1970
        self.columns_sent = 0  # events whose columns went to their clients
        self.columns_left_out = 0  # decisions that went without columns that were asked for
        self.path_events: dict[str, int] = {}  # decided by a menu that has the path
        self.path_accepts: dict[str, int] = {}  # after prescale
        self.path_prescaled: dict[str, int] = {}  # accepts that the prescale dropped
        self.flags = {str(flag.name): 0 for flag in FLAGS}
        self.objects = dict.fromkeys(OBJECTS, 0)

    def menu(self, paths: tuple[PathInfo, ...]) -> None:
        """These paths may decide from now on: their counters exist."""
        for path in paths:
            self.path_events.setdefault(path.name, 0)
            self.path_accepts.setdefault(path.name, 0)
            self.path_prescaled.setdefault(path.name, 0)
            self.stream_events.setdefault(path.stream, 0)
            self.stream_bytes.setdefault(path.stream, 0)

    def decided(self, records: NDArray[np.void], sizes: NDArray[np.int64]) -> None:
        """Count a batch of DECISION records of events with `sizes` payload bytes each."""
        self.latency.add(records["latency_ns"] * 1e-9)
        failed = records["outcome"] == Outcome.ERROR
        if failed.any():
            for reason, count in zip(*np.unique(records["reason"][failed], return_counts=True), strict=True):
                self.failures[Reason(reason).name] += int(count)
            self.stream_events[ERROR_STREAM] += int(failed.sum())
            self.stream_bytes[ERROR_STREAM] += int(sizes[failed].sum())

    def selected(self, results: NDArray[np.void], sizes: NDArray[np.int64], paths: tuple[PathInfo, ...]) -> None:
        """Count what paths did and what the events held: RESULT rows of events of `sizes` payload bytes; path bit i is of paths[i]."""
        for kind in OBJECTS:
            self.objects[kind] += int(results[kind].sum(dtype=np.int64))
        flags = results["flags"]
        if flags.any():
            for flag in FLAGS:
                self.flags[str(flag.name)] += int(np.count_nonzero(flags & flag))
        bits, raw = results["path_bits"], results["path_raw"]
        accepts, dropped = by_bit(bits).tolist(), by_bit(raw & ~bits).tolist()
        for place, path in enumerate(paths):
            self.path_events[path.name] += len(results)
            self.path_accepts[path.name] += accepts[place]
            self.path_prescaled[path.name] += dropped[place]
        for stream, mask in _streams(paths):
            chosen = (bits & mask) != 0
            self.stream_events[stream] += int(np.count_nonzero(chosen))
            self.stream_bytes[stream] += int(sizes[chosen].sum())

    def batch(self, events: int, seconds: float, stages: dict[str, float]) -> None:
        """One batch of a worker; `batch` is the stage for the whole of it."""
        self.batch_events.add(events)
        for stage, duration in {"batch": seconds, **stages}.items():
            histo = self.stages.get(stage)
            if histo is None:
                histo = self.stages[stage] = Histo(STAGE_BOUNDS_S)
            histo.add(duration)


@cache
def _streams(paths: tuple[PathInfo, ...]) -> list[tuple[str, np.uint64]]:
    """Streams of a menu with the bits of the paths that feed them."""
    masks: dict[str, int] = {}
    for bit, path in enumerate(paths):
        masks[path.stream] = masks.get(path.stream, 0) | 1 << bit
    return [(stream, np.uint64(mask)) for stream, mask in masks.items()]


def by_bit(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How often each of the 64 bits is set."""
    octets = np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(len(values), 8)
    counts: NDArray[np.int64] = np.unpackbits(octets, axis=1, bitorder="little").sum(axis=0, dtype=np.int64)
    return counts
