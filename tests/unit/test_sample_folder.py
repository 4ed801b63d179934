"""Folders of samples as one source: a run of a day has more files than a process may open."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np

from hltfarm.loadgen import sample_folder
from hltfarm.loadgen.sample import SampleWriter
from hltfarm.loadgen.sample_folder import SampleFolder
from hltfarm.proto.events import EventId, RawEvent


def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    files = sample_folder.OPEN + 40
    for lumi in range(files):
        with SampleWriter(tmp_path / f"ls{lumi}.hlt", {"lumi": lumi}) as writer:
            writer.add(RawEvent(EventId(7, 1 + lumi, lumi, 0), np.full(4, lumi % 251, np.uint8)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + sample_folder.OPEN + 20, hard))
    try:
        folder = SampleFolder(tmp_path)
        assert len(folder) == files
        assert [event.id.event for event in folder] == list(range(files))
        assert [int(folder[i].payload[0]) for i in (0, files - 1, 100, 0)] == [0, (files - 1) % 251, 100, 0]
        assert [sample.metadata["lumi"] for sample in folder.samples[-2:]] == [files - 2, files - 1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
