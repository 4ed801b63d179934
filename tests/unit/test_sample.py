"""The sample file: round trips, and every kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hltfarm.loadgen import records
from hltfarm.loadgen.arrays import pack_arrays, shuffle, unpack_arrays, unshuffle
from hltfarm.loadgen.detector_block import pack_detector, unpack_detector
from hltfarm.loadgen.records import ALIGN, FILE_MAGIC, seal
from hltfarm.loadgen.sample import Sample, SampleWriter
from hltfarm.loadgen.source import open_source
from hltfarm.proto.detector import phase1
from hltfarm.proto.errors import SampleError
from hltfarm.proto.events import EventId, RawEvent
from tests.reference.detectors import small, troubled

META = {"seed": 7, "process": "ttbar", "pileup": 50.0, "generator": "none"}


def events() -> list[RawEvent]:
    """Sizes around the alignment, an empty payload, large numbers in the identity."""
    rng = np.random.default_rng(1)
    sizes = (1000, 128, 124, 132, 0, 4)
    ids = [EventId(2**32 - 1, 2**32 - 1, 2**64 - 1, 2**32 - 1), *(EventId(1, 2, k, 3) for k in range(1, len(sizes)))]
    return [RawEvent(i, rng.integers(0, 256, n).astype(np.uint8)) for i, n in zip(ids, sizes, strict=True)]


def truth(k: int) -> dict[str, Any] | None:
    if k % 3 == 2:
        return None
    rng = np.random.default_rng(k)
    return {
        "part_pt": rng.random(k * 5).astype(np.float32),
        "part_hs": rng.random(k * 5) < 0.5,
        "vtx_xyz": rng.random((k, 3)).astype(np.float32),
        "digi_adc": rng.integers(0, 256, 50).astype(np.uint8),
        "digi_hit": rng.integers(-1, 9, 50).astype(np.int32),
    }


def write(path: Path, **options: Any) -> Path:
    with SampleWriter(path, META, **options) as writer:
        for k, event in enumerate(events()):
            writer.add(event, truth(k))
    return path


@pytest.fixture(params=[False, True], ids=["plain", "packed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / "s.hlt", detector=phase1(), compress=request.param)


def test_round_trip(path: Path) -> None:
    sample = open_source(path)
    assert isinstance(sample, Sample)
    sample.verify()
    assert sample.name == "s.hlt"
    assert len(sample) == 6
    assert sample.metadata == {**META, "detector": {"name": "phase1", "digest": phase1().digest()}}
    assert sample.detector() is phase1()
    for _ in range(2):
        for k, (mine, theirs) in enumerate(zip(sample, events(), strict=True)):
            assert mine.id == theirs.id
            assert np.array_equal(mine.payload, theirs.payload)
            want, got = truth(k), sample.truth(k)
            assert (want is None) == (got is None)
            for name, value in (want or {}).items():
                assert got is not None
                assert got[name].dtype == value.dtype
                assert np.array_equal(got[name], value)
    assert sample[-1].id == events()[-1].id
    for k in (6, -7):
        with pytest.raises(IndexError):
            sample[k]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.hlt", detector=phase1()), write(tmp_path / "b.hlt", detector=phase1())
    assert a.read_bytes() == b.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hlt", "b.hlt"]


def test_payloads_are_aligned_views_of_the_file(tmp_path: Path) -> None:
    sample = Sample(write(tmp_path / "s.hlt"))
    first, again = sample[0].payload, sample[0].payload
    assert np.shares_memory(first, again)
    assert not first.flags.writeable
    assert all(event.payload.ctypes.data % ALIGN == 0 for event in sample if len(event.payload))
    del sample
    assert np.array_equal(first, events()[0].payload)  # the view keeps the map alive


def test_empty_sample(tmp_path: Path) -> None:
    with SampleWriter(tmp_path / "s.hlt", {}):
        pass
    sample = Sample(tmp_path / "s.hlt")
    sample.verify()
    assert len(sample) == 0
    with pytest.raises(SampleError, match="names no detector"):
        sample.detector()


@pytest.mark.parametrize("detector", [small(), troubled()], ids=["small", "troubled"])
def test_other_detectors_travel_along(tmp_path: Path, detector: Any) -> None:
    sample = Sample(write(tmp_path / "s.hlt", detector=detector))
    sample.verify()
    assert sample.detector().digest() == detector.digest()
    assert sample.detector().layers == detector.layers
    assert np.array_equal(sample[0].payload, events()[0].payload)


def test_detector_that_has_changed_is_refused(tmp_path: Path) -> None:
    with SampleWriter(tmp_path / "s.hlt", {"detector": {"name": "phase1", "digest": "0" * 16}}):
        pass
    with pytest.raises(SampleError, match="made for detector phase1 with digest 0000000000000000"):
        Sample(tmp_path / "s.hlt").detector()


def test_every_flipped_bit_is_found(path: Path) -> None:
    """One bit in every byte of the file, payload, padding and headers alike: opening or verifying must fail, with one line."""
    whole = path.read_bytes()
    rng = np.random.default_rng(9)
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(SampleError) as error:
            Sample(path).verify()
        assert "\n" not in str(error.value)
        assert "s.hlt" in str(error.value) or "block of arrays" in str(error.value)


def test_damaged_event_is_found_when_read_and_costs_only_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "s.hlt")
    data = path.read_bytes()
    at = data.index(events()[3].payload.tobytes())
    path.write_bytes(data[: at + 9] + bytes([data[at + 9] ^ 1]) + data[at + 10 :])
    sample = Sample(path)
    assert np.array_equal(sample[2].payload, events()[2].payload)
    with pytest.raises(SampleError, match="checksum of the payload record at byte"):
        sample[3]
    assert np.array_equal(sample[4].payload, events()[4].payload)


def test_every_truncation_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 101), *range(0, len(whole), ALIGN)]:
        path.write_bytes(whole[:size])
        with pytest.raises(SampleError):
            Sample(path).verify()
    path.write_bytes(whole + bytes(ALIGN))
    with pytest.raises(SampleError, match="footer"):
        Sample(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content, message in ((b"", "empty file"), (b"x" * 50, "too short"), (b"x" * 4096, "wrong magic number")):
        (tmp_path / "x.hlt").write_bytes(content)
        with pytest.raises(SampleError, match=message):
            Sample(tmp_path / "x.hlt")
    with pytest.raises(SampleError, match="cannot be read"):
        Sample(tmp_path / "none.hlt")


def test_newer_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.hlt")
    data = path.read_bytes()
    path.write_bytes(seal(struct.pack("<8sII", FILE_MAGIC, 2, ALIGN)) + data[ALIGN:])
    with pytest.raises(SampleError, match="sample format 2, this program reads 1"):
        Sample(path)


def test_consistent_lies_are_found(tmp_path: Path) -> None:
    """Records whose checksums are right but which do not fit the index."""
    path = write(tmp_path / "s.hlt")
    data = bytearray(path.read_bytes())
    sample = Sample(path)
    at = int(sample._index[1]["payload"])
    del sample
    struct.pack_into("<Q", data, at + 32, 99)  # event number in the record header
    struct.pack_into("<I", data, at + 124, crc32c(bytes(data[at : at + 124])))
    path.write_bytes(data)
    with pytest.raises(SampleError, match="event number 1 of the index is not the one"):
        Sample(path)[1]


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> None:
        with SampleWriter(tmp_path / "s.hlt", {}) as writer:
            writer.add(events()[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert not list(tmp_path.iterdir())
    with pytest.raises(SampleError, match="metadata are not JSON"):
        SampleWriter(tmp_path / "s.hlt", {"x": object()})
    with pytest.raises(SampleError, match="cannot be written"):
        SampleWriter(tmp_path / "no" / "s.hlt", {})
    with SampleWriter(tmp_path / "s.hlt", {}) as writer, pytest.raises(SampleError, match="whole 32-bit words"):
        writer.add(RawEvent(EventId(1, 1, 1), np.zeros(3, np.uint8)))


NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
ARRAYS = hnp.arrays(
    st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64))),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.dictionaries(NAMES, st.integers(), max_size=2))
def test_blocks_of_arrays(arrays: dict[str, Any], attributes: dict[str, Any]) -> None:
    block = pack_arrays(arrays, attributes)
    got, extra = unpack_arrays(block)
    assert extra == attributes
    assert list(got) == list(arrays)
    for name, value in arrays.items():
        assert got[name].shape == value.shape
        assert got[name].dtype == value.dtype.newbyteorder("<")
        assert np.array_equal(got[name], value, equal_nan=value.dtype.kind == "f")


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_no_block(data: bytes) -> None:
    for block in (data, struct.pack("<I", len(data)) + data, struct.pack("<I", 2) + b"{}" + data):
        with pytest.raises(SampleError):
            unpack_arrays(block)


@pytest.mark.parametrize(
    "text",
    [
        b'{"arrays":[["a","|O8",[1]]],"attributes":{}}',
        b'{"arrays":[["a","<i4",[-1]]],"attributes":{}}',
        b'{"arrays":[["a","<i4",[99]]],"attributes":{}}',
        b'{"arrays":[["a","<i4"]],"attributes":{}}',
        b'{"arrays":[],"attributes":{}}',
        b"[]",
    ],
)
def test_wrong_descriptions(text: bytes) -> None:
    with pytest.raises(SampleError):
        unpack_arrays(struct.pack("<I", len(text)) + text + bytes(8))


def test_unstorable_dtype() -> None:
    with pytest.raises(SampleError, match="array x: dtype"):
        pack_arrays({"x": np.array(["text"])})


@given(st.integers(1, 8), st.binary(max_size=64))
def test_shuffle_is_undone(width: int, data: bytes) -> None:
    data = data[: len(data) // width * width]
    assert unshuffle(shuffle(data, width), width) == data


def test_detector_block_of_another_kind() -> None:
    arrays, numbers = unpack_arrays(pack_detector(small()))
    assert unpack_detector(pack_arrays(arrays, numbers)).digest() == small().digest()
    for name in arrays:
        less = {k: v for k, v in arrays.items() if k != name}
        with pytest.raises(SampleError, match="embedded detector"):
            unpack_detector(pack_arrays(less, numbers))
    with pytest.raises(SampleError, match="embedded detector"):
        unpack_detector(pack_arrays(arrays, {**numbers, "unknown": 1}))
    with pytest.raises(SampleError, match="embedded detector"):
        unpack_detector(pack_arrays({**arrays, "modules.layer": arrays["modules.layer"][1:]}, numbers))


@pytest.mark.parametrize("size", [1 << 63, 1 << 40, (1 << 30) + 4])
def test_a_record_that_claims_more_than_deflate_can_do_is_refused(tmp_path: Path, size: int) -> None:
    """The size once went to zlib as it stood: a number beyond its limits, or all the memory there is."""
    file = records.RecordFile("x", np.zeros(512, np.uint8))
    with pytest.raises(SampleError, match=f"claims {size} bytes in 100 compressed ones"):
        file.content(0, records.Header(records.Kind.TRUTH, flags=records.Flags.ZLIB, stored=100, size=size))
