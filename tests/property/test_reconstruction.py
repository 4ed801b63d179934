"""Random events: the reference equals every backend bit for bit, and the digest knows no order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hltfarm.proto.detector import Detector
from tests.reference import strategies
from tests.reference.backends import BACKENDS, reconstructor
from tests.reference.compare import check, expect, raw_event
from tests.reference.detectors import DETECTORS
from tests.reference.events import Payload, shuffled

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.parametrize("detector", ["small", "troubled"])]

KINDS: dict[str, Callable[[Detector], st.SearchStrategy[Payload]]] = {
    "sound": strategies.sound_events,
    "words": strategies.hostile_words,
    "payload": strategies.hostile_payloads,
    "random": lambda detector: strategies.random_payloads(),
}


def run_settings(examples: int) -> settings:
    """Fixed sequence of examples: a run that fails today fails tomorrow."""
    suppressed = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=suppressed)


def drawn(data: st.DataObject, kind: str, detector: Detector) -> Payload:
    return data.draw(KINDS[kind](detector), label="payload")


@pytest.mark.parametrize("kind", KINDS)
@run_settings(60)
@given(data=st.data())
def test_reference_equals_backend(kind: str, detector: str, backend: str, data: st.DataObject) -> None:
    d = DETECTORS[detector]()
    payload = drawn(data, kind, d)
    check(reconstructor(detector, backend).run([raw_event(payload)], keep=True), [expect(payload, d)])


@run_settings(40)
@given(data=st.data())
def test_order_of_feds_and_words_does_not_matter(detector: str, backend: str, data: st.DataObject) -> None:
    """Words within FEDs and FEDs in the table in another order: the same row, digest included."""
    payload = drawn(data, "words", DETECTORS[detector]())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
    result = reconstructor(detector, backend).run([raw_event(p) for p in (payload, shuffled(payload, rng), shuffled(payload, rng))]).results
    assert result[1] == result[0]
    assert result[2] == result[0]


@run_settings(15)
@given(data=st.data())
def test_neighbours_in_a_batch_do_not_matter(detector: str, backend: str, data: st.DataObject) -> None:
    """Events of every kind in one batch: each has the row and the columns that it has alone."""
    d = DETECTORS[detector]()
    payloads = [drawn(data, kind, d) for kind in data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=5), label="kinds")]
    together = reconstructor(detector, backend, events_per_task=len(payloads)).run([raw_event(p) for p in payloads], keep=True)
    check(together, [expect(p, d) for p in payloads])
    alone = np.concatenate([reconstructor(detector, backend).run([raw_event(p)]).results for p in payloads])
    np.testing.assert_array_equal(together.results, alone)
