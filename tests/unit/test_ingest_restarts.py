"""Restarts of ingests as the control plane counts them."""

from __future__ import annotations

from hltfarm.service.control.link import IngestView, view_of
from hltfarm.service.control.restarts import IngestRestarts
from tests.unit.farm_fake import snapshot


def look(restarts: IngestRestarts, *started: float | None) -> dict[str, int]:
    views = [IngestView(f"e{i}", None, "gone") if s is None else IngestView(f"e{i}", snapshot(started=s)) for i, s in enumerate(started)]
    restarts.observe(view_of(views))
    return dict(restarts.counts)


def test_a_new_start_time_is_a_restart_and_silence_is_none() -> None:
    restarts = IngestRestarts()
    assert look(restarts, None, None) == {"e0": 0, "e1": 0}
    assert look(restarts, 1.0, None) == {"e0": 0, "e1": 0}
    assert look(restarts, None, 5.0) == {"e0": 0, "e1": 0}
    assert look(restarts, 1.0, 5.0) == {"e0": 0, "e1": 0}
    assert look(restarts, 2.0, 5.0) == {"e0": 1, "e1": 0}
    assert look(restarts, 2.0, 6.0) == {"e0": 1, "e1": 1}
    assert look(restarts, 3.0, None) == {"e0": 2, "e1": 1}
