"""The canary events on every backend: real work, the same digest, no fault on an empty table."""

from __future__ import annotations

import numpy as np
import pytest

from hltfarm.proto.detector import phase1
from hltfarm.proto.events import RawEvent
from hltfarm.service.ingest.canary import payload_for
from hltfarm.workers.engine import CANARY
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import Reconstructor
from tests.reference.backends import BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_canary_is_work_and_its_digest_does_not_change(backend: str) -> None:
    real, empty = (RawEvent(CANARY, np.frombuffer(payload_for(name), dtype=np.uint8)) for name in ("phase1", "another"))
    digests = []
    for _ in range(2):
        reconstructor = Reconstructor(phase1(), Menu.parse(DEFAULT_MENU), backend=backend, max_events=4, threads=1)
        try:
            for batch in ([real], [empty, real], [empty]):
                rows = reconstructor.run(batch, columns=None).results
                digests.append([int(digest) for digest in rows["digest"]])
            assert rows["hits"].tolist() == [0]
            row = reconstructor.run([real], columns=None).results[0]
            assert row["tracks"] > 10
            assert row["fed_errors"] == row["word_errors"] == 0
        finally:
            reconstructor.close()
    (one,), (nothing, again), (alone,) = digests[:3]
    assert (one, nothing) == (again, alone)
    assert one != nothing
    assert digests[:3] == digests[3:]
