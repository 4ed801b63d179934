"""Files that an output folder should not hold: the ingest starts all the same, and leaves them alone."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from hltfarm.loadgen.sample import SampleWriter
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.output.recovery import recover
from hltfarm.service.output.settings import Fsync


def test_a_sample_in_the_folder_is_told_of_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file without the metadata of an output file, and, once it has them, one without decisions (found by fuzzing)."""
    path = tmp_path / "run000001" / "physics" / "mine.hlt"
    path.parent.mkdir(parents=True)
    with SampleWriter(path, {"made": "by hand"}):
        pass
    content = path.read_bytes()
    with caplog.at_level(logging.ERROR):
        assert recover(tmp_path, Fsync.NONE) == []
    assert "mine.hlt: neither metadata nor decisions of an output file (KeyError: 'run')" in caplog.text
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == content
    caplog.clear()
    path.unlink()
    with SampleWriter(path, {"run": 1}) as writer:
        writer.add(RawEvent(EventId(1, 1, 1, 1), np.zeros(64, np.uint8)))
    recover(tmp_path, Fsync.NONE)
    assert "event number 0 has no decision" in caplog.text
