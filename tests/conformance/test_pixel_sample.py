"""The public pixel sample: the counts and hits of an independent program (pixeltrack-standalone, `serial`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hltfarm.proto.detector import Detector, read_patatrack
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor
from tests.reference.backends import BACKENDS
from tests.reference.compare import Columns, check, expect, raw_event, same_columns
from tests.reference.events import Fed, Payload, assemble

HIT_COLUMNS = {
    "module": "hit_module", "x_local": "hit_x_local", "y_local": "hit_y_local", "x_error2": "hit_x_error2", "y_error2": "hit_y_error2",
    "x": "hit_x", "y": "hit_y", "z": "hit_z", "charge": "hit_charge", "size_x": "hit_size_x", "size_y": "hit_size_y",
}  # fmt: skip


@lru_cache(maxsize=1)
def sample_detector(directory: Path) -> Detector:
    return read_patatrack(directory)


@lru_cache(maxsize=1)
def payloads(directory: Path) -> tuple[Payload, ...]:
    """Events of raw.bin: u32 n_feds, then per FED its id, its size and its data."""
    return tuple(_read(np.fromfile(directory / "raw.bin", "<u4").tolist()))


def _read(words: list[int]) -> Iterator[Payload]:
    at = 0
    while at < len(words):
        n_feds, at = words[at], at + 1
        feds = []
        for _ in range(n_feds):
            fed, size = words[at : at + 2]
            feds.append(Fed(fed, tuple(words[at + 2 : at + 2 + size // 4])))
            at += 2 + size // 4
        yield assemble(feds)


def canonical(hits: Columns) -> Columns:
    """Hits ordered by (module, charge, x_local, y_local): the other program's order within a module is that of its words."""
    order = np.lexsort((hits["y_local"], hits["x_local"], hits["charge"], hits["module"]))
    return {name: column[order] for name, column in hits.items()}


@pytest.fixture(scope="module")
def counts(pixel_sample: Path) -> list[dict[str, int]]:
    found: list[dict[str, int]] = json.loads((pixel_sample / "expected.json").read_text())["events"]
    return found


@pytest.fixture(scope="module")
def other_hits(pixel_sample: Path) -> list[Columns]:
    with np.load(pixel_sample / "reference.npz") as archive:
        offsets: NDArray[Any] = archive["hit_offsets"]
        columns = {name: archive[theirs] for name, theirs in HIT_COLUMNS.items()}
    return [{name: c[offsets[i] : offsets[i + 1]] for name, c in columns.items()} for i in range(len(offsets) - 1)]


@pytest.mark.parametrize("event", [0, 5])
def test_reference(event: int, pixel_sample: Path, counts: list[dict[str, int]], other_hits: list[Columns]) -> None:
    """The reference is what the other program computes, to the last bit."""
    e = expect(payloads(pixel_sample)[event], sample_detector(pixel_sample))
    assert {name: e.counts[name] for name in ("modules", "digis", "clusters")} == {
        name: counts[event][name] for name in ("modules", "digis", "clusters")
    }
    assert e.flags == 0
    same_columns(canonical(e.hits), canonical(other_hits[event]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(backend: str, pixel_sample: Path, counts: list[dict[str, int]], other_hits: list[Columns]) -> None:
    """All events, in batches of four: counts and hits of the other program; the first event also against the reference."""
    detector, events = sample_detector(pixel_sample), payloads(pixel_sample)
    assert len(events) == len(counts) == len(other_hits)
    with Reconstructor(detector, Menu.parse(DEFAULT_MENU), backend=backend, max_events=4, max_batch_bytes=4 << 20, threads=1) as r:
        for first in range(0, len(events), 4):
            batch = r.run([raw_event(p, first + i) for i, p in enumerate(events[first : first + 4])], keep=True)
            for i, row in enumerate(batch.results):
                found = {name: int(row[name]) for name in ("modules", "digis", "clusters", "hits", "flags", "fed_errors", "word_errors")}
                theirs = counts[first + i]
                assert found == {
                    "modules": theirs["modules"], "digis": theirs["digis"], "clusters": theirs["clusters"], "hits": theirs["clusters"],
                    "flags": 0, "fed_errors": 0, "word_errors": 0,
                }  # fmt: skip
                same_columns(canonical(batch.hits(i)), canonical(other_hits[first + i]))
        check(r.run([raw_event(events[0])], keep=True), [expect(events[0], detector)])
