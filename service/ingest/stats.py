"""Counters and histograms of an ingest, updated for whole batches. Monotonic since its start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hltfarm.proto.errors import WireCode
from hltfarm.proto.messages import Histogram
from hltfarm.proto.wire import Outcome, Reason
from hltfarm.proto.worker_link import PathInfo

LATENCY_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STAGE_BOUNDS_S = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
ERROR_STREAM = "error"
CAUSES = ("slots", "bytes", "no_worker", "paused", "client_not_reading")


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
    """All of them; `menu` tells which path a bit belongs to."""

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
        self.columns_sent = 0  # events whose columns went to their clients
        self.columns_left_out = 0  # decisions that went without columns that were asked for
        self._path_accepts: dict[str, int] = {}
        self._path_prescaled: dict[str, int] = {}
        self._paths: tuple[PathInfo, ...] = ()
        self._streams: list[tuple[str, np.uint64]] = []
        self._bits = np.zeros((2, 64), dtype=np.int64)

    def menu(self, paths: tuple[PathInfo, ...]) -> None:
        """From now on bit i of the path bits is paths[i]."""
        self._path_accepts, self._path_prescaled = self.path_accepts, self.path_prescaled
        self._bits[:] = 0
        self._paths = paths
        masks: dict[str, int] = {}
        for bit, path in enumerate(paths):
            masks[path.stream] = masks.get(path.stream, 0) | 1 << bit
            self._path_accepts.setdefault(path.name, 0)
            self._path_prescaled.setdefault(path.name, 0)
        self._streams = [(stream, np.uint64(mask)) for stream, mask in masks.items()]
        for stream in masks:
            self.stream_events.setdefault(stream, 0)
            self.stream_bytes.setdefault(stream, 0)

    def decided(self, records: NDArray[np.void], sizes: NDArray[np.int64]) -> None:
        """Count a batch of DECISION records of events with `sizes` payload bytes each."""
        self.latency.add(records["latency_ns"] * 1e-9)
        failed = records["outcome"] == Outcome.ERROR
        if failed.any():
            for reason, count in zip(*np.unique(records["reason"][failed], return_counts=True), strict=True):
                self.failures[Reason(reason).name] += int(count)
            self.stream_events[ERROR_STREAM] += int(failed.sum())
            self.stream_bytes[ERROR_STREAM] += int(sizes[failed].sum())
        bits, raw = records["result"]["path_bits"], records["result"]["path_raw"]
        self._bits[0] += _by_bit(bits)
        self._bits[1] += _by_bit(raw & ~bits)
        for stream, mask in self._streams:
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

    @property
    def path_accepts(self) -> dict[str, int]:
        """Accepts after prescale, by path."""
        return self._with_bits(self._path_accepts, 0)

    @property
    def path_prescaled(self) -> dict[str, int]:
        """Accepts that the prescale dropped, by path."""
        return self._with_bits(self._path_prescaled, 1)

    def _with_bits(self, counts: dict[str, int], row: int) -> dict[str, int]:
        counts = dict(counts)
        for bit, path in enumerate(self._paths):
            counts[path.name] = counts.get(path.name, 0) + int(self._bits[row, bit])
        return counts


def _by_bit(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How often each of the 64 bits is set."""
    octets = np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(len(values), 8)
    counts: NDArray[np.int64] = np.unpackbits(octets, axis=1, bitorder="little").sum(axis=0, dtype=np.int64)
    return counts
