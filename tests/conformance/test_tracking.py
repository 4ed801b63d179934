"""Cells, candidates, fits, qualities and vertices of every backend are what the reference says: case x configuration x backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from hltfarm.loadgen.sample import Sample
from hltfarm.proto.detector import phase1
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.results import EventFlag
from hltfarm.workers.configuration import DEFAULT, PATATRACK_PHASE1, Configuration
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import BatchResult, Reconstructor
from tests.reference import events
from tests.reference.backends import BACKENDS
from tests.reference.events import Payload, assemble, disassemble
from tests.reference.tracking import check_tracking, check_vertices

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

CONFIGURATIONS = pytest.mark.parametrize("config", [DEFAULT, PATATRACK_PHASE1], ids=lambda c: c.name)
DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"


@lru_cache(maxsize=16)
def reconstructor(config: Configuration, backend: str, threads: int = 1, events_per_task: int = 1) -> Reconstructor:
    """A Reconstructor of the built-in detector that lives as long as the test process."""
    menu = Menu.parse(DEFAULT_MENU)
    return Reconstructor(
        phase1(),
        menu,
        backend=backend,
        config=config,
        max_events=6,
        max_batch_bytes=1 << 20,
        threads=threads,
        events_per_task=events_per_task,
        lanes=2,
    )


# --- events ------------------------------------------------------------------------------------------------------------------------------


def present(payload: Payload) -> Payload:
    """Without the FEDs that have no pixel: few words, so that capacities are small."""
    return assemble([f for f in disassemble(payload) if len(f.words) > 4])


def some_particles(number: int, fraction: float) -> Payload:
    """The pixels of that part of the particles of a simulated collision."""
    truth = Sample(DEMO).truth(number)
    assert truth is not None
    chosen = np.random.default_rng(number).random(len(truth["part_pt"])) < fraction
    hit = truth["digi_hit"]
    kept = (hit >= 0) & chosen[truth["hit_part"][np.maximum(hit, 0)]]
    return events.pack(phase1(), *(truth[f"digi_{name}"][kept].astype(np.int64) for name in ("module", "row", "col", "adc")))


def one_module() -> Payload:
    """A hit in every other pixel of one module: nothing to connect."""
    return present(events.pattern_event(phase1(), "isolated pixels", [50]))


def sheet(angle: float = 0.3, step: int = 40) -> Payload:
    """Beam halo: in all layers hits at the same azimuth and any z, so that everything is compatible with everything."""
    d = phase1()
    t, m = d.topology, d.modules
    row, col = np.arange(1, t.rows - 1), np.arange(5, t.cols - 5, step)
    x = t.pitch_x * ((t.edge_x[row] + t.edge_x[row + 1]) / 2 - t.centre_x)
    y = t.pitch_y * ((t.edge_y[col] + t.edge_y[col + 1]) / 2 - t.centre_y)
    pixels = []
    for module in range(d.n_modules):
        for k, c in enumerate(col):
            at = m.position[module][None] + x[:, None] * m.rotation[module, 0] + y[k] * m.rotation[module, 1]
            off = np.abs(np.arctan2(at[:, 1], at[:, 0]) - angle)
            best = int(np.argmin(off))
            if off[best] < 0.01 / np.hypot(*at[best, :2]):
                pixels.append((module, int(row[best]), int(c), 200))
    return present(events.pack(d, *np.array(pixels, np.int64).T))


def random_hits() -> Payload:
    return events.random_event(phase1(), np.random.default_rng(21), clusters=1500, noise=0)


EVENTS: dict[str, Callable[[], Payload]] = {
    "some particles": lambda: some_particles(0, 0.3),
    "more particles": lambda: some_particles(2, 0.5),
    "most particles": lambda: some_particles(5, 0.9),
    "random hits": random_hits,
    "one module": one_module,
    "sheet": sheet,
    "no hits": lambda: assemble([]),
}


@lru_cache(maxsize=16)
def event(name: str) -> RawEvent:
    return RawEvent(EventId(run=1, lumi=1, event=list(EVENTS).index(name)), EVENTS[name]())


# --- against the reference ---------------------------------------------------------------------------------------------------------------


@CONFIGURATIONS
@pytest.mark.parametrize("name", EVENTS)
def test_reference(name: str, config: Configuration, backend: str) -> None:
    e = event(name)
    check_tracking(reconstructor(config, backend).run([e], keep=True), 0, e, phase1(), config)


def test_events_are_not_trivial(backend: str) -> None:
    """The cases above have what they are there for."""
    rows = reconstructor(DEFAULT, backend).run([event(name) for name in EVENTS]).results
    row = dict(zip(EVENTS, rows, strict=True))
    assert row["most particles"]["tracks"] > 150
    assert row["most particles"]["vertices"] > 3
    assert row["more particles"]["ntuplets"] > 300
    assert row["random hits"]["doublets"] > 500
    assert row["one module"]["hits"] > 10_000
    assert row["one module"]["doublets"] == row["no hits"]["hits"] == 0
    assert row["sheet"]["ntuplets"] > 1000


EAGER = replace(
    DEFAULT,
    name="eager to split",
    vertices=replace(
        DEFAULT.vertices, min_hits=3, eps_cm=0.3, max_error_cm=0.1, max_chi2=100.0, outlier=20.0, final_outlier=3.0,
        split_min_ndof=2, split_chi2=0.5, split_distance2=1.0,
    ),
)  # fmt: skip


@pytest.mark.parametrize("split_rounds", [1, 3, 20])
def test_splitting(split_rounds: int, backend: str) -> None:
    """Wide neighbourhoods and easy splitting: many vertices are split, and tracks leave them in both fits."""
    config = replace(EAGER, vertices=replace(EAGER.vertices, split_rounds=split_rounds))
    no_splitting = replace(EAGER, vertices=replace(EAGER.vertices, split_chi2=1e9))
    es = [event(name) for name in ("some particles", "more particles", "most particles")]
    batch = reconstructor(config, backend).run(es, keep=True)
    for i in range(len(es)):
        check_vertices(batch, i, config)
    assert batch.results["vertices"].sum() > reconstructor(no_splitting, backend).run(es).results["vertices"].sum() + 3


# --- capacities --------------------------------------------------------------------------------------------------------------------------

ROOMY = replace(
    DEFAULT, cells=replace(DEFAULT.cells, cells_per_word=64), tracks=replace(DEFAULT.tracks, used_cells_per_word=64, tracks_per_word=4)
)
TIGHT: dict[str, tuple[str, Configuration, EventFlag]] = {
    "cells": ("sheet", replace(ROOMY, cells=replace(ROOMY.cells, cells_per_word=1)), EventFlag.DOUBLET_OVERFLOW),
    "used cells": ("sheet", replace(ROOMY, tracks=replace(ROOMY.tracks, used_cells_per_word=1)), EventFlag.TRACK_OVERFLOW),
    "tracks": ("sheet", replace(ROOMY, tracks=replace(ROOMY.tracks, tracks_per_word=1)), EventFlag.TRACK_OVERFLOW),
    "steps": ("more particles", replace(DEFAULT, tracks=replace(DEFAULT.tracks, max_steps=4)), EventFlag.TRACK_OVERFLOW),
    "one step": ("some particles", replace(DEFAULT, tracks=replace(DEFAULT.tracks, max_steps=1)), EventFlag.TRACK_OVERFLOW),
}


@pytest.mark.parametrize("what", TIGHT)
def test_overflow(what: str, backend: str) -> None:
    """What does not fit is left out by the reference's rule, the event is flagged, alone and between others, which keep all of theirs."""
    name, config, flag = TIGHT[what]
    e = event(name)
    r = reconstructor(config, backend, events_per_task=3)
    alone = r.run([e], keep=True)
    assert check_tracking(alone, 0, e, phase1(), config).flags & flag
    other = event("no hits")
    several = r.run([other, e, other], keep=True)
    same_tracks(several, 1, alone, 0)
    assert several.results["flags"][0] == several.results["flags"][2] == r.run([other]).results["flags"][0]


# --- the same always ---------------------------------------------------------------------------------------------------------------------


def same_tracks(a: BatchResult, i: int, b: BatchResult, j: int) -> None:
    """Assert that row, tracks and vertices of two events are the same, bit for bit."""
    assert a.results[i] == b.results[j]
    for one, two in ((a.tracks(i), b.tracks(j)), (a.vertices(i), b.vertices(j))):
        assert one.keys() == two.keys()
        assert all(one[name].tobytes() == two[name].tobytes() and one[name].dtype == two[name].dtype for name in one)


@CONFIGURATIONS
@pytest.mark.parametrize(("threads", "events_per_task"), [(1, 1), (1, 6), (2, 4)])
def test_batch_does_not_matter(threads: int, events_per_task: int, config: Configuration, backend: str) -> None:
    """Every column of every track is the same whether the event runs alone or with others, in whatever order, again and again."""
    names = list(EVENTS)
    alone = {name: reconstructor(config, backend).run([event(name)], keep=True) for name in names}
    r = reconstructor(config, backend, threads, events_per_task)
    rng = np.random.default_rng(22)
    for _ in range(3):
        order = rng.permutation(names).tolist()
        together = r.run([event(name) for name in order], keep=True)
        for i, name in enumerate(order):
            same_tracks(together, i, alone[name], 0)


def test_order_of_words_does_not_matter(backend: str) -> None:
    payload = event("most particles").payload
    shuffled = events.shuffled(payload, np.random.default_rng(23))
    r = reconstructor(DEFAULT, backend)
    identity = EventId(run=1, lumi=1, event=1)
    same_tracks(r.run([RawEvent(identity, payload)], keep=True), 0, r.run([RawEvent(identity, shuffled)], keep=True), 0)
