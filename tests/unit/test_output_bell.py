"""The bell with which the writer of output files wakes the ingest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hltfarm.proto.messages import LedgerCounts
from hltfarm.service.output.outputs import Outputs
from hltfarm.service.output.settings import OutputSettings


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Outputs]:
    made = Outputs(OutputSettings(folder=tmp_path / "output"), lambda run, lumi: LedgerCounts(), list, lambda run: 0)
    yield made
    made.close()


def test_a_turn_while_the_writer_is_about_to_ring(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread may be stopped between noting that it rings and ringing; the ingest must neither fail nor miss it."""
    ring, turns = os.eventfd_write, []

    def late(descriptor: int, value: int) -> None:
        outputs.turn(1, 0.0)
        turns.append(descriptor)
        ring(descriptor, value)

    monkeypatch.setattr(os, "eventfd_write", late)
    outputs._wake()
    assert turns == [outputs.descriptor]
    outputs.turn(1, 0.0)  # hears it
    with pytest.raises(BlockingIOError):
        os.eventfd_read(outputs.descriptor)
    outputs._wake()  # rings anew
    assert len(turns) == 2
