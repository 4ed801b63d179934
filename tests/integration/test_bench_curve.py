"""`hltfarm bench curve` with real processes, small."""

from __future__ import annotations

from pathlib import Path

import pytest

from hltfarm.service.bench.curve import measure

RINGS = Path("/dev/shm")


def test_a_small_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(RINGS.iterdir())
    (point,) = measure([1000], 0.2, 1, 1, 8, lambda _: None)
    assert point.turns[0].plain_hz > 0
    assert point.turns[0].curve_hz > 0
    assert {path for path in RINGS.iterdir() if path.name.startswith("hltfarm-bench")} <= before
