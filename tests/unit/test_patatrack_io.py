"""Data directories of pixeltrack-standalone: reading, writing, and damage."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from hltfarm.loadgen.patatrack import EventCounts, PatatrackEvents, PatatrackWriter
from hltfarm.loadgen.sample import SampleWriter
from hltfarm.loadgen.source import open_source
from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import ConditionsError, SampleError, WireError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.raw import frame, join_payload, pack_event

COUNTS = [EventCounts(1, 2, 3, 4, 5), EventCounts(6, 7, 8, 9, 10), EventCounts(0, 0, 0, 0, 0)]


def events() -> list[RawEvent]:
    """An ordinary event, one with a few odd frames, an empty one."""
    rng = np.random.default_rng(4)
    pixels = [rng.integers(0, high, 300) for high in (1856, 160, 416, 256)]
    payloads = [
        pack_event(phase1(), *pixels, event_number=0),
        join_payload([(1300, frame(1300, [5, 6, 7])), (1201, b""), (1, bytes(8))]),
        join_payload([]),
    ]
    return [RawEvent(EventId(1, 1, i), p) for i, p in enumerate(payloads)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with PatatrackWriter(tmp_path / "data", phase1()) as writer:
        for event, counts in zip(events(), COUNTS, strict=True):
            writer.add(event, counts)
    return tmp_path / "data"


def test_round_trip(directory: Path) -> None:
    source = open_source(directory)
    assert isinstance(source, PatatrackEvents)
    assert source.name == "data"
    assert len(source) == 3
    for mine, theirs in zip(source, events(), strict=True):
        assert mine.id == theirs.id
        assert np.array_equal(mine.payload, theirs.payload)
    assert source[-1].id.event == 2
    assert source.expected() == COUNTS
    assert source.truth(0) is None
    assert source.detector().n_modules == 1856


def test_bytes_follow_the_format(directory: Path) -> None:
    data = (directory / "raw.bin").read_bytes()
    assert struct.unpack_from("<III", data) == (139, 1200, len(frame_of(events()[0], 0)))
    assert data[12 : 12 + len(frame_of(events()[0], 0))] == frame_of(events()[0], 0)
    assert data[-4:] == bytes(4)
    assert np.fromfile(directory / "digicluster.bin", "<u4").tolist() == [1, 2, 3, 6, 7, 8, 0, 0, 0]
    assert np.fromfile(directory / "tracks.bin", "<u4").tolist() == [4, 9, 0]
    assert np.fromfile(directory / "vertices.bin", "<u4").tolist() == [5, 10, 0]


def frame_of(event: RawEvent, k: int) -> bytes:
    """Frame k of an event, cut out by hand."""
    words = event.payload.view("<u4")
    sizes = words[2 : 2 + 2 * int(words[0]) : 2].astype(int)
    at = 4 + 8 * int(words[0]) + int(sizes[:k].sum())
    return event.payload[at : at + int(sizes[k])].tobytes()


def test_index_errors(directory: Path) -> None:
    source = PatatrackEvents(directory)
    for i in (3, -4):
        with pytest.raises(IndexError):
            source[i]
        with pytest.raises(IndexError):
            source.truth(i)


def test_truncation_names_event_and_offset(directory: Path) -> None:
    raw = directory / "raw.bin"
    whole = raw.read_bytes()
    starts = [0, 4 + 139 * 8 + sum(len(frame_of(events()[0], k)) for k in range(139))]
    for size in (2, 4, 11, 600, starts[1] - 1, starts[1] + 1, starts[1] + 9, len(whole) - 5):
        raw.write_bytes(whole[:size])
        number = int(size > starts[1])
        with pytest.raises(SampleError, match=rf"raw\.bin: event {number} at byte {starts[number]}: the file ends") as error:
            PatatrackEvents(directory)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("offset", "value", "message"), [(0, 5000, "5000 FEDs"), (8, 4, "and 4 bytes"), (4, 5000, "id 5000"), (8, 2**31, "ends at")]
)
def test_damage_names_event_and_offset(directory: Path, offset: int, value: int, message: str) -> None:
    raw = directory / "raw.bin"
    data = bytearray(raw.read_bytes())
    data[offset : offset + 4] = struct.pack("<I", value)
    raw.write_bytes(data)
    with pytest.raises(SampleError, match=f"event 0 at byte 0: .*{message}"):
        PatatrackEvents(directory)


def test_missing_and_empty(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(SampleError, match=r"raw\.bin: cannot be read"):
        PatatrackEvents(tmp_path)
    with pytest.raises(SampleError, match="no such sample file or data directory"):
        open_source(tmp_path / "nothing")
    (directory / "raw.bin").write_bytes(b"")
    assert len(PatatrackEvents(directory)) == 0
    (directory / "gain.bin").unlink()
    with pytest.raises(ConditionsError, match=r"gain\.bin"):
        PatatrackEvents(directory).detector()


def test_count_files(directory: Path) -> None:
    (directory / "tracks.bin").write_bytes(bytes(11))
    with pytest.raises(SampleError, match=r"tracks\.bin: 11 bytes, 3 events need 12"):
        PatatrackEvents(directory).expected()
    (directory / "tracks.bin").write_bytes(bytes(400))  # more entries than events are ignored
    counts = PatatrackEvents(directory).expected()
    assert counts is not None
    assert [c.tracks for c in counts] == [0, 0, 0]
    (directory / "tracks.bin").unlink()
    assert PatatrackEvents(directory).expected() is None


def test_writer_wants_counts_for_all_or_none(tmp_path: Path) -> None:
    with PatatrackWriter(tmp_path / "a") as writer:
        writer.add(events()[0])
        with pytest.raises(SampleError, match="some events only"):
            writer.add(events()[1], COUNTS[1])
        writer.add(events()[1])
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["raw.bin"]
    with PatatrackWriter(tmp_path / "b") as writer:
        writer.add(events()[0], COUNTS[0])
        with pytest.raises(SampleError, match="some events only"):
            writer.add(events()[1])
        with pytest.raises(WireError):
            writer.add(RawEvent(EventId(1, 1, 1), np.zeros(3, np.uint8)), COUNTS[1])
        writer.add(events()[1], COUNTS[1])
    assert PatatrackEvents(tmp_path / "b").expected() == COUNTS[:2]


def test_truth_counts_within_the_event(directory: Path) -> None:
    """Rows of events are mixed in the file; references must follow them."""
    np.savez(
        directory / "truth.npz",
        vtx_ev=np.array([1, 0, 1], np.int32),
        vtx_xyz=np.arange(9, dtype=np.float32).reshape(3, 3),
        part_ev=np.array([1, 1, 0, 1], np.int32),
        part_vtx=np.array([2, 0, 1, -1], np.int32),
        hit_ev=np.array([0, 1], np.int32),
        hit_part=np.array([2, 3], np.int32),
        digi_ev=np.array([1, 0, 1], np.int32),
        digi_hit=np.array([1, 0, -1], np.int32),
        digi_adc=np.array([7, 8, 9], np.uint8),
    )
    source = PatatrackEvents(directory)
    first, second, third = (source.truth(i) for i in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert {k: v.tolist() for k, v in first.items() if k != "vtx_xyz"} == {
        "part_vtx": [0],
        "hit_part": [0],
        "digi_hit": [0],
        "digi_adc": [8],
    }
    assert {k: v.tolist() for k, v in second.items()} == {
        "vtx_xyz": [[0, 1, 2], [6, 7, 8]],
        "part_vtx": [1, 0, -1],
        "hit_part": [2],
        "digi_hit": [0, -1],
        "digi_adc": [7, 9],
    }
    assert all(len(v) == 0 for v in third.values())


@pytest.mark.parametrize("content", [b"not a zip", b""])
def test_unreadable_truth(directory: Path, content: bytes) -> None:
    (directory / "truth.npz").write_bytes(content)
    with pytest.raises(SampleError, match=r"truth\.npz: cannot be read"):
        PatatrackEvents(directory).truth(0)


def test_truth_that_does_not_fit(directory: Path) -> None:
    np.savez(directory / "truth.npz", digi_ev=np.zeros(2, np.int32), digi_adc=np.zeros(3, np.uint8))
    with pytest.raises(SampleError, match="digi_adc does not fit"):
        PatatrackEvents(directory).truth(0)


def test_conversion_from_a_sample_file(directory: Path, tmp_path: Path) -> None:
    with SampleWriter(tmp_path / "s.hlt", {}, detector=phase1()) as writer:
        for event in PatatrackEvents(directory):
            writer.add(event)
    sample = open_source(tmp_path / "s.hlt")
    with PatatrackWriter(tmp_path / "again", sample.detector()) as out:
        for i in range(len(sample)):
            out.add(sample[i], COUNTS[i])
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_public_sample(pixel_sample: Path) -> None:
    source = PatatrackEvents(pixel_sample)
    counts = source.expected()
    assert counts is not None
    recorded = json.loads((pixel_sample / "expected.json").read_text())
    assert len(source) == len(counts) == 20
    assert recorded
    total = sum(4 + sum(8 + int(s) for s in source[i].payload.view("<u4")[2 : 2 + 2 * 139 : 2]) for i in range(20))
    assert total == (pixel_sample / "raw.bin").stat().st_size
