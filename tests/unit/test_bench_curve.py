"""`hltfarm bench curve`: what it sends and what it makes of its measurements."""

from __future__ import annotations

import pytest

from hltfarm.proto.raw import check_payload
from hltfarm.service.bench.curve import Point, Turn, payload_of, summary
from hltfarm.service.cli import run


@pytest.mark.parametrize("size", [1, 1000, 250_000])
def test_payloads_are_sound_and_of_the_size(size: int) -> None:
    payload = payload_of(size, 3).payload
    check_payload(payload)
    assert abs(len(payload) - max(size, 20)) < 8


def test_the_ratio_is_that_of_turns_not_of_medians() -> None:
    """The machine was three times as fast in one turn: that is no gain."""
    turns = (Turn(100, 50, 1e-3, 2e-3), Turn(300, 150, 1e-3, 2e-3), Turn(100, 60, 1e-3, 2e-3))
    found = summary(Point(1000, turns))
    assert (found["ratio"], found["ratio_min"], found["ratio_max"]) == (0.5, 0.5, 0.6)
    assert (found["plain_hz"], found["curve_hz"]) == (100, 60)
    assert (found["plain_cpu_us"], found["curve_cpu_us"]) == (1000, 2000)


def test_too_large_payloads_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "curve", "--sizes", "1000,100000000"]) == 2
    assert "a payload has 4194304 bytes at most" in capsys.readouterr().err
