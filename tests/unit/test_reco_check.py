"""`hltfarm reco` over output files: a folder as one source, and its digests compared with the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c

from hltfarm.loadgen.sample import Sample
from hltfarm.loadgen.sample_folder import SampleFolder, sample_files
from hltfarm.loadgen.source import open_source
from hltfarm.proto.errors import SampleError
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.results import OUTPUT_DECISION, RESULT
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service import cli
from hltfarm.service.output.check import differences, recorded
from hltfarm.service.output.detectors import DetectorBlocks
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.hlt_file import Opening, OutputFile, Place, metadata_of
from hltfarm.workers.configuration import DEFAULT
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstruct import reconstruct

EVENTS = 3


@pytest.fixture(scope="module")
def decided(demo_sample: Path) -> tuple[Deciders, list[OutputEvent]]:
    """Events of the demo sample as an ingest would write them, with what the chain says of them."""
    menu = Menu.parse(DEFAULT_MENU)
    source = Sample(demo_sample)
    job = reconstruct(source, menu, DEFAULT, backend="cpu", events=EVENTS, batch=EVENTS, threads=1)
    paths = tuple(PathInfo(path.name, path.stream) for path in menu.paths)
    deciders = Deciders(RunConfig(run=1, detector="phase1", menu=DEFAULT_MENU), menu.hash, (), paths)
    events = []
    for i in range(EVENTS):
        decision = np.zeros(1, OUTPUT_DECISION)
        for name in RESULT.names or ():
            decision[name] = job.rows[i][name]
        raw = source[i]
        payload = raw.payload.tobytes()
        events.append(OutputEvent(i, raw.id, payload, crc32c(payload), int(decision["path_bits"][0]), decision.tobytes()))
    return deciders, events


def written(folder: Path, deciders: Deciders, events: list[OutputEvent], lumi: int, part: int = 1) -> Path:
    place = Place(1, lumi, "physics")
    place.folder(folder).mkdir(parents=True, exist_ok=True)
    detector, block = DetectorBlocks().of(deciders.config.detector)
    metadata = metadata_of(place, deciders.description(), detector, False)
    file = OutputFile(place.folder(folder) / place.name(part), Opening(place, metadata, block))
    file.append(events)
    file.close(sync=False)
    return file.path


def changed(event: OutputEvent, field: str) -> OutputEvent:
    decision = np.frombuffer(event.decision, OUTPUT_DECISION).copy()
    decision[field] ^= 1
    return replace(event, decision=decision.tobytes())


def test_a_folder_is_checked_file_by_file(
    tmp_path: Path, decided: tuple[Deciders, list[OutputEvent]], capsys: pytest.CaptureFixture[str]
) -> None:
    deciders, events = decided
    written(tmp_path, deciders, events[:2], 1)
    written(tmp_path, deciders, events[2:], 2)
    command = ["reco", str(tmp_path), "--check", "--backend", "cpu", "--threads", "1"]
    assert cli.run(command) == 0
    assert f"digests and paths of {EVENTS} events are as recorded" in capsys.readouterr().out
    written(tmp_path, deciders, [changed(events[1], "digest")], 2, part=2)
    assert cli.run(command) == 1
    said = capsys.readouterr()
    assert f"of {EVENTS + 1} events compared with the record: 1 differences" in said.out
    assert f"event {events[1].id.event}: digest" in said.err


def test_paths_count_if_the_menu_is_the_recorded_one(tmp_path: Path, decided: tuple[Deciders, list[OutputEvent]]) -> None:
    deciders, events = decided
    source = open_source(written(tmp_path, deciders, [changed(events[0], "path_bits")], 1))
    assert recorded(source).menu_hash == deciders.menu_hash
    row = np.frombuffer(events[0].decision, OUTPUT_DECISION)
    assert [item.field for item in differences(source, row, paths=True)] == ["path_bits"]
    assert differences(source, row, paths=False) == []


def test_what_cannot_be_checked_is_told(tmp_path: Path, demo_sample: Path, decided: tuple[Deciders, list[OutputEvent]]) -> None:
    deciders, events = decided
    with pytest.raises(SampleError, match="no output file, there is no record"):
        recorded(open_source(demo_sample))
    written(tmp_path, deciders, events[:1], 1)
    other = Deciders(deciders.config, "c0ffee", (), deciders.paths)
    written(tmp_path, other, events[1:2], 2)
    with pytest.raises(SampleError, match="decided by different menus or models"):
        recorded(open_source(tmp_path))
    assert cli.run(["reco", str(tmp_path / "none"), "--check"]) != 0


def test_files_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path, decided: tuple[Deciders, list[OutputEvent]]) -> None:
    deciders, events = decided
    for lumi, part in ((2, 1), (1, 10), (1, 2), (1, 1)):
        written(tmp_path, deciders, events[lumi - 1 : lumi], lumi, part)
    assert [path.name for path in sample_files(tmp_path)] == [
        "run000001_ls0001_physics.hlt",
        "run000001_ls0001_physics.part2.hlt",
        "run000001_ls0001_physics.part10.hlt",
        "run000001_ls0002_physics.hlt",
    ]
    folder = SampleFolder(tmp_path)
    expected = [events[0].id, events[0].id, events[0].id, events[1].id]
    assert [raw.id for raw in folder] == [folder[i].id for i in range(-4, 0)] == expected
    with pytest.raises(IndexError):
        folder[4]
    folder.verify()
    assert folder.decision(3) is not None
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleError, match=r"no \.hlt files"):
        SampleFolder(tmp_path / "empty")
