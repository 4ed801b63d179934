"""Every backend gives what the reference says, bit for bit: case x detector x backend."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest

from hltfarm.proto.errors import StateError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.results import RESULT, EventFlag
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor
from tests.reference import events
from tests.reference.backends import BACKENDS, MAX_EVENTS, reconstructor
from tests.reference.compare import check, expect, raw_event
from tests.reference.detectors import DETECTORS
from tests.reference.events import CORRUPT, PATTERNS, Fed, Payload, assemble, disassemble, frame

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

ALL_DETECTORS = pytest.mark.parametrize("detector", ["phase1", "troubled", "small"])


def holds(payload: Payload, detector: str, backend: str) -> None:
    """One event, alone, against the reference."""
    check(reconstructor(detector, backend).run([raw_event(payload)], keep=True), [expect(payload, DETECTORS[detector]())])


def digest(payload: Payload, detector: str, backend: str) -> int:
    return int(reconstructor(detector, backend).run([raw_event(payload)]).results["digest"][0])


@ALL_DETECTORS
@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name: str, detector: str, backend: str) -> None:
    holds(events.pattern_event(DETECTORS[detector](), name), detector, backend)


@ALL_DETECTORS
@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt(name: str, detector: str, backend: str) -> None:
    holds(CORRUPT[name](DETECTORS[detector]()), detector, backend)


@ALL_DETECTORS
def test_random_event(detector: str, backend: str) -> None:
    d = DETECTORS[detector]()
    holds(events.random_event(d, np.random.default_rng(11), clusters=3 * d.n_modules, noise=d.n_modules), detector, backend)


@ALL_DETECTORS
def test_words_of_a_module_need_not_be_contiguous(detector: str, backend: str) -> None:
    holds(events.scattered_event(DETECTORS[detector](), np.random.default_rng(12)), detector, backend)


def test_ten_times_the_occupancy(backend: str) -> None:
    d = DETECTORS["phase1"]()
    payload = events.random_event(d, np.random.default_rng(13), clusters=30 * d.n_modules, noise=60 * d.n_modules)
    expected = expect(payload, d)
    assert expected.counts["digis"] > 550_000
    check(reconstructor("phase1", backend).run([raw_event(payload)], keep=True), [expected])


def test_every_module_full(backend: str) -> None:
    d = DETECTORS["small"]()
    holds(events.pattern_event(d, "full module", range(d.n_modules)), "small", backend)


def test_charge_saturates(backend: str) -> None:
    """Two pixels, each read out so often that its charge leaves 31 bits: pixels, cluster and edge charges saturate, nothing wraps."""
    d = DETECTORS["phase1"]()
    n = 180_000
    module, row = np.full(2 * n, 1855), np.repeat([20, 22], n)
    payload = events.pack(d, module, row, np.full(2 * n, 30), np.full(2 * n, 255))
    expected = expect(payload, d)
    assert (expected.digis["charge"] == 2**31 - 1).all()
    check(reconstructor("phase1", backend).run([raw_event(payload)], keep=True), [expected])
    row = np.repeat([20, 21], n)
    holds(events.pack(d, module, row, np.full(2 * n, 30), np.full(2 * n, 255)), "phase1", backend)
    holds(events.pack(d, module, np.full(2 * n, 20), np.repeat([30, 31], n), np.full(2 * n, 255)), "phase1", backend)


@pytest.mark.parametrize("name", ["edges and corners", "isolated pixels", "checkerboard"])
def test_hits_on_the_axes(name: str, backend: str) -> None:
    """Coordinates that are exactly 0, both of them too: phi is defined (8192 on the beam line)."""
    d = DETECTORS["degenerate"]()
    payload = events.pattern_event(d, name, range(d.n_modules))
    hits = expect(payload, d).hits
    assert {-24576, -16384, -8192, 8192, 16384, 24576} <= {round(int(phi) / 8192) * 8192 for phi in hits["phi"]}
    assert ((hits["x"] == 0) & (hits["y"] == 0)).any()
    holds(payload, "degenerate", backend)


@pytest.mark.parametrize("max_hits", [1, 7, 33])
def test_too_many_hits(max_hits: int, backend: str) -> None:
    """The last hits are left out; the event is flagged; neighbours in the batch keep all of theirs."""
    d = DETECTORS["small"]()
    large = events.random_event(d, np.random.default_rng(14), clusters=40, noise=20)
    tiny = events.pattern_event(d, "one pixel", [4])
    payloads = [tiny, large, tiny, large, tiny]
    expected = [expect(p, d, max_hits) for p in payloads]
    assert expected[1].flags & EventFlag.HIT_OVERFLOW
    result = reconstructor("small", backend, max_hits=max_hits, events_per_task=3).run([raw_event(p) for p in payloads], keep=True)
    check(result, expected)


def batch_of_seven(detector: str) -> list[RawEvent]:
    """Unlike events: large, empty, corrupt, dense in one module; each with its own number."""
    d, rng = DETECTORS[detector](), np.random.default_rng(15)
    payloads = [
        events.random_event(d, rng, clusters=d.n_modules, noise=d.n_modules // 2),
        CORRUPT["empty payload"](d),
        events.pattern_event(d, "spiral"),
        CORRUPT["random words"](d),
        CORRUPT["4096 FEDs of the largest size"](d),
        events.scattered_event(d, rng),
        CORRUPT["payload cut in the second FED"](d),
    ]
    return [RawEvent(EventId(run=3, lumi=1, event=1000 + i), p) for i, p in enumerate(payloads)]


@pytest.mark.parametrize("detector", ["phase1", "small"])
@pytest.mark.parametrize(("threads", "events_per_task"), [(1, 1), (1, 7), (2, 3)])
def test_batch_does_not_matter(threads: int, events_per_task: int, detector: str, backend: str) -> None:
    """A row is the same, digest included, whether the event runs alone or with others, in whatever order, again and again."""
    several = batch_of_seven(detector)
    r = reconstructor(detector, backend, threads=threads, events_per_task=events_per_task)
    alone = np.concatenate([reconstructor(detector, backend).run([e]).results for e in several])
    rng = np.random.default_rng(16)
    for _ in range(3):
        order = rng.permutation(len(several))
        np.testing.assert_array_equal(r.run([several[i] for i in order]).results, alone[order])
    many = r.run(several * 3).results  # more than fit one batch
    assert len(several) * 3 > MAX_EVENTS
    np.testing.assert_array_equal(many, np.concatenate([alone] * 3))


def test_columns_of_every_event_in_a_batch(backend: str) -> None:
    several = batch_of_seven("phase1")
    d = DETECTORS["phase1"]()
    result = reconstructor("phase1", backend, events_per_task=7).run(several, keep=True)
    check(result, [expect(e.payload, d) for e in several])


def test_no_events(backend: str) -> None:
    result = reconstructor("small", backend).run([], keep=True)
    assert len(result.results) == 0
    assert result.results.dtype == RESULT


@ALL_DETECTORS
def test_digest_ignores_the_order_of_the_words(detector: str, backend: str) -> None:
    d, rng = DETECTORS[detector](), np.random.default_rng(17)
    payload = events.random_event(d, rng, clusters=d.n_modules, noise=d.n_modules)
    assert {digest(events.shuffled(payload, rng), detector, backend) for _ in range(3)} == {digest(payload, detector, backend)}


def test_digest_ignores_what_carries_no_pixel(backend: str) -> None:
    """Absent FEDs and empty frames are the same event."""
    d = DETECTORS["small"]()
    payload = events.pattern_event(d, "u shapes", [2])
    present = [f for f in disassemble(payload) if len(f.words) > 4]
    absent = [Fed(f.id, frame(f.id)) for f in disassemble(payload) if len(f.words) == 4]
    assert absent
    assert digest(assemble(present), "small", backend) == digest(assemble(absent + present), "small", backend)


def test_digest_sees_every_pixel(backend: str) -> None:
    """Another charge, another place, one pixel less, the same cluster in another module: all digests differ."""
    d = DETECTORS["small"]()
    module, row, col, adc = np.array([2, 2, 2]), np.array([4, 5, 5]), np.array([6, 6, 7]), np.array([90, 100, 110])
    unit = np.eye(3, dtype=np.int64)
    variants = [
        (module, row, col, adc),
        (module[:2], row[:2], col[:2], adc[:2]),
        (module + 1, row, col, adc),
        (module, row, col, adc[::-1]),
    ]
    for u in unit:
        variants += [(module, row + 3 * u, col, adc), (module, row, col + 3 * u, adc), (module, row, col, adc + 20 * u)]
    digests = [digest(events.pack(d, *v), "small", backend) for v in variants]
    assert len(set(digests)) == len(digests)


def test_digest_does_not_depend_on_the_event_number(backend: str) -> None:
    payload = events.pattern_event(DETECTORS["small"](), "zigzag")
    r = reconstructor("small", backend)
    rows = r.run([raw_event(payload, 1), raw_event(payload, 2**63 + 5)]).results
    assert all(a == b for a, b in pairwise(rows["digest"]))


def test_payload_is_left_alone(backend: str) -> None:
    """The payload may be read-only memory of somebody else, at any address of a 32-bit word."""
    payload = events.pattern_event(DETECTORS["small"](), "checkerboard")
    memory = np.zeros(len(payload) + 64, np.uint8)
    r = reconstructor("small", backend)
    expected = r.run([raw_event(payload)]).results
    for offset in (4, 8, 12, 20):
        memory[offset : offset + len(payload)] = payload
        view = memory[offset : offset + len(payload)]
        view.flags.writeable = False
        np.testing.assert_array_equal(r.run([raw_event(view)]).results, expected)
        np.testing.assert_array_equal(view, payload)


def test_a_closed_reconstruction_gave_its_memory_back(backend: str) -> None:
    """Also while somebody still holds it; and it says so instead of waiting for a lane."""
    d = DETECTORS["phase1"]()
    closed = Reconstructor(d, Menu.parse(DEFAULT_MENU), backend=backend, max_events=2, threads=1, lanes=1)
    event = raw_event(events.pattern_event(d, "one pixel"))
    closed.run([event])
    (lane,) = closed._backend._lanes.lanes
    arena = weakref.ref(lane.arena)
    del lane
    closed.close()
    gc.collect()
    assert arena() is None
    with pytest.raises(StateError, match="closed"):
        closed.run([event])
