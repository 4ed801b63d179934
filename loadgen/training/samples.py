"""Samples through the chain, into rows with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.loadgen.source import EventSource, open_source
from hltfarm.loadgen.training.rows import GROUPS, Rows, joined
from hltfarm.loadgen.validation.definitions import LOOSE, Bools, Floats
from hltfarm.loadgen.validation.event import EventReco, check_truth
from hltfarm.loadgen.validation.matching import hit_crossings, hit_particles, match_tracks, pixel_crossings
from hltfarm.proto.errors import SampleError
from hltfarm.workers.configuration import Configuration
from hltfarm.workers.detector_cuts import for_detector
from hltfarm.workers.dnn import FEATURES
from hltfarm.workers.dnn.selector import EVENT_INPUTS, Selector
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.models import Cut, Cuts, Manifest, Model
from hltfarm.workers.reconstructor import BatchResult, Reconstructor, load_selector

#: Of events, unless others are asked for: what the collision is like, not how many pixels fired, which pileup and noise decide.
EVENT_FEATURES = (
    "displaced_tracks",
    "leading_pt",
    "best_sum_pt2",
    "tracks_high_purity",
    "hard_tracks",
    "best_tracks",
    "sum_pt",
    "best_sum_pt",
    "second_sum_pt2",
    "vertices",
    "vertex_ht",
    "vertex_pt2",
)

#: Shows progress over the batches of a sample; the second argument says which one.
Watch = Callable[[Sequence[int], str], Iterable[int]]


@dataclass(frozen=True)
class Reading:
    """How samples are read: events of each at most, device, and batches."""

    config: Configuration
    events: int | None = None
    backend: str = "auto"
    batch: int = 16
    threads: int = 0
    match_fraction: float = 0.75  # of the hits of a true track; lower: more tracks count as true


def track_rows(paths: Sequence[Path], reading: Reading, watch: Watch) -> Rows:
    """The loose tracks of samples with truth. A row is true if the track is matched to a particle (docs/validation.md).

    Raises SampleError for a sample without truth or without events.
    """
    selector = Selector(rejecting_model())
    parts = []
    for number, path in enumerate(paths):
        source = _opened(path)
        for i, result, k in _reconstructed(source, reading, selector, watch, keep=True):
            seen, tracks = result.features(k), result.tracks(k)
            matched = _matched(source, i, result, k, reading.match_fraction)
            at = seen["track"]
            group = (tracks["n_hits"][at] > 3).astype(np.int64)
            about = _about(tracks, at)
            sample, event = np.full(len(at), number, np.int64), np.full(len(at), i, np.int64)
            parts.append(Rows(FEATURES, GROUPS["track"], seen["values"], matched[at], group, sample, event, about, _read(number, i)))
    return joined(parts)


def loose_tracks(paths: Sequence[Path], reading: Reading, watch: Watch) -> Rows:
    """The loose tracks of samples by the cuts of the configuration alone, without features: what other selections are compared with."""
    parts = []
    for number, path in enumerate(paths):
        source = _opened(path)
        for i, result, k in _reconstructed(source, reading, Selector(), watch, keep=True):
            tracks = result.tracks(k)
            loose = tracks["quality"] >= LOOSE
            matched = _matched(source, i, result, k, reading.match_fraction)
            about = _about(tracks, loose)
            n = int(loose.sum())
            group = (tracks["n_hits"][loose] > 3).astype(np.int64)
            values, sample, event = np.empty((n, 0), np.float32), np.full(n, number, np.int64), np.full(n, i, np.int64)
            parts.append(Rows((), GROUPS["track"], values, matched[loose], group, sample, event, about, _read(number, i)))
    return joined(parts)


def event_rows(signal: Sequence[Path], background: Sequence[Path], reading: Reading, watch: Watch) -> Rows:
    """One row per event of the samples: its quantities (workers/menu), true for those of the signal. Truth is not needed."""
    parts = []
    for number, path in enumerate((*signal, *background)):
        selector = load_selector(for_detector(reading.config, _opened(path).detector()).selection)
        for i, result, k in _reconstructed(_opened(path), reading, selector, watch, keep=False):
            row = result.results[k]
            values = np.array([[row[name] for name in EVENT_INPUTS]], np.float32)
            label, group, sample, event = np.array([number < len(signal)]), np.array([0]), np.array([number]), np.array([i])
            parts.append(Rows(EVENT_INPUTS, GROUPS["event"], values, label, group, sample, event, {}, _read(number, i)))
    return joined(parts)


def rejecting_model() -> Model:
    """Cuts that no track passes: the chain computes the features of loose tracks for it, and promotes none."""
    impossible = (Cut(feature="n_hits", max=0.0),)
    manifest = Manifest(
        format=1,
        name="none",
        version=1,
        kind="cuts",
        target="track",
        description="",
        features=("n_hits",),
        working_points={"1": {"triplets": 1.0, "longer": 1.0}},
        default_working_point="1",
        cuts=impossible,
    )
    return Model(manifest, Cuts(impossible))


def _about(tracks: Mapping[str, NDArray[Any]], keep: NDArray[Any]) -> dict[str, Floats]:
    """Of some tracks, what plots and weights go by; `tip` is its magnitude (cm)."""
    about = {name: tracks[name][keep].astype(np.float64) for name in ("pt", "eta", "n_hits", "tip")}
    return {**about, "tip": np.abs(about["tip"])}


def _read(sample: int, event: int) -> NDArray[np.int64]:
    """One event, as `Rows.read` has it."""
    return np.array([[sample], [event]], np.int64)


def _opened(path: Path) -> EventSource:
    source = open_source(path)
    if len(source) == 0:
        raise SampleError(f"{source.name}: no events in it")
    return source


def _reconstructed(
    source: EventSource, reading: Reading, selector: Selector, watch: Watch, keep: bool
) -> Iterator[tuple[int, BatchResult, int]]:
    """Every event: its number in the sample, the result of its batch, and its place there."""
    n = min(reading.events or len(source), len(source))
    largest = max(source[i].payload.nbytes for i in range(n))
    batch = min(reading.batch, n)
    with Reconstructor(
        source.detector(),
        Menu.parse(DEFAULT_MENU, "built-in menu"),
        config=reading.config,
        selector=selector,
        backend=reading.backend,
        max_events=batch,
        max_batch_bytes=-(-largest // 128) * 128 * batch,
        threads=reading.threads,
    ) as reconstructor:
        for first in watch(range(0, n, batch), source.name):
            last = min(n, first + batch)
            result = reconstructor.run([source[i] for i in range(first, last)], keep=keep)
            for k in range(last - first):
                yield first + k, result, k


def _matched(source: EventSource, i: int, result: BatchResult, k: int, fraction: float) -> Bools:
    """Of every track of an event: is it matched to a particle?"""
    where = f"{source.name}, event {i}"
    truth = source.truth(i)
    if truth is None:
        raise SampleError(f"{where}: no truth to learn from; simulate the sample with --truth")
    check_truth(truth, where)
    reco = EventReco.of(result.hits(k), result.digis(k), result.tracks(k))
    assert reco.tracks is not None
    crossings = hit_crossings(reco.digis, pixel_crossings(reco.digis, truth), len(reco.hits.module))
    return match_tracks(reco.tracks.hits, hit_particles(crossings, truth), fraction).matched
