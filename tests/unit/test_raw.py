"""Raw data: packing against an independent, word-by-word decoder written from the format description."""

from __future__ import annotations

import itertools
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltfarm.loadgen.patatrack import PatatrackEvents
from hltfarm.proto.detector import NO_MODULE, phase1
from hltfarm.proto.errors import ConditionsError, WireCode, WireError
from hltfarm.proto.raw import MAX_FEDS, check_payload, frame, join_payload, locate, pack_event, pixel_word, split_payload, unpack_event
from tests.reference.detectors import small, troubled

Pixel = tuple[int, int, int, int]
PIXEL = st.tuples(st.integers(0, 1855), st.integers(0, 159), st.integers(0, 415), st.integers(0, 255))


def slow_decode(payload: bytes) -> list[Pixel]:
    """Pixels of a Phase-1 event in the built-in cabling, one word at a time, with the formulas of the format instead of tables."""
    (n,) = struct.unpack_from("<I", payload)
    table = [struct.unpack_from("<II", payload, 4 + 8 * k) for k in range(n)]
    at = 4 + 8 * n
    out = []
    for fed, size in table:
        words = struct.unpack_from(f"<{size // 4}I", payload, at)
        at += size
        assert words[1] >> 28 == 0x5
        assert (words[0] >> 8) & 0xFFF == fed
        assert words[-1] >> 28 == 0xA
        assert words[-1] & 0xFFFFFF == size // 8
        first_module = -(-(fed - 1200) * 1856 // 139)
        for w in words[2:-2]:
            if w == 0:
                continue
            link, roc, adc = w >> 26, (w >> 21) & 31, w & 255
            module, d = first_module + (link - 1) // 2, 8 * ((link - 1) % 2) + roc - 1
            if module < 96:
                r, c = (w >> 8) & 127, (w >> 15) & 63
            else:
                pxid = (w >> 8) & 255
                r, c = 80 - pxid // 2, 2 * ((w >> 16) & 31) + pxid % 2
            positive_side = module < 1184 and module % 8 >= 4
            if module < 96 or positive_side:
                row, col = (159 - r, d * 52 + c) if d < 8 else (r, (16 - d) * 52 - 1 - c)
            else:
                row, col = (r, (8 - d) * 52 - 1 - c) if d < 8 else (159 - r, (d - 8) * 52 + c)
            out.append((module, row, col, adc))
    return out


def columns(pixels: list[Pixel]) -> list[np.ndarray[Any, Any]]:
    return [np.array([p[k] for p in pixels], np.int64) for k in range(4)]


@given(st.lists(PIXEL, max_size=60), st.integers(0, 2**24 - 1), st.integers(0, 4095))
def test_packed_pixels_come_out_of_an_independent_decoder(pixels: list[Pixel], event: int, bx: int) -> None:
    payload = pack_event(phase1(), *columns(pixels), event_number=event, bx=bx)
    assert check_payload(payload) == 139
    decoded = slow_decode(payload.tobytes())
    assert sorted(decoded) == sorted(pixels)
    modules = [p[0] for p in decoded]
    assert sum(a != b for a, b in itertools.pairwise(modules)) == max(len(set(modules)) - 1, 0)  # contiguous
    header = payload[4 + 8 * 139 :][:8].view("<u4")
    assert header[0] >> 20 == bx
    assert header[1] & 0xFFFFFF == event
    mine = unpack_event(phase1(), payload)
    assert list(zip(*(x.tolist() for x in mine), strict=True)) == decoded


@pytest.mark.parametrize("detector", [phase1(), small()], ids=["phase1", "small"])
def test_every_chip_both_ways(detector: Any) -> None:
    """All corners of all chips: affine map forwards, inverse backwards."""
    c, t = detector.cabling, detector.topology
    fed, link, roc = (x for x in np.nonzero(c.module != NO_MODULE))
    for r in (0, t.chip_rows - 1):
        for q in (0, t.chip_cols - 1):
            at = (fed, link, roc)
            row, col = c.row0[at] + c.row_step[at].astype(int) * r, c.col0[at] + c.col_step[at].astype(int) * q
            chip = locate(detector, c.module[at], row, col)
            assert np.array_equal(chip.fed, c.fed_ids[fed])
            assert np.array_equal(chip.link, link + 1)
            assert np.array_equal(chip.roc, roc + 1)
            assert (chip.row == r).all()
            assert (chip.col == q).all()


def test_small_detector_round_trip() -> None:
    d = small()
    rng = np.random.default_rng(3)
    connected = np.unique(d.cabling.module[d.cabling.module != NO_MODULE]).astype(int)
    module = rng.choice(connected, 400)
    row, col, adc = rng.integers(0, d.topology.rows, 400), rng.integers(0, d.topology.cols, 400), rng.integers(0, 256, 400)
    keep = np.ones(400, bool)
    for k in range(400):
        try:
            locate(d, module[k], row[k], col[k])
        except ConditionsError:
            keep[k] = False
    payload = pack_event(d, module[keep], row[keep], col[keep], adc[keep])
    off = d.cabling.disabled.any()
    got = unpack_event(d, payload)
    want = sorted(zip(module[keep].tolist(), row[keep].tolist(), col[keep].tolist(), adc[keep].tolist(), strict=True))
    mine = sorted(zip(*(x.tolist() for x in got), strict=True))
    assert set(mine) <= set(want) if off else mine == want
    assert mine


def test_disabled_chips_are_left_out() -> None:
    d = troubled()
    good = np.argwhere((d.cabling.module != NO_MODULE) & (d.cabling.disabled == 0))[:50]
    bad = np.argwhere((d.cabling.module != NO_MODULE) & (d.cabling.disabled != 0))[:50]
    at = tuple(np.concatenate([good, bad]).T)
    c = d.cabling
    payload = pack_event(d, c.module[at], c.row0[at], c.col0[at], np.full(100, 77))
    got = unpack_event(d, payload)
    assert len(got.adc) == 50
    assert set(zip(got.module.tolist(), got.row.tolist(), strict=True)) == set(
        zip(c.module[tuple(good.T)].tolist(), c.row0[tuple(good.T)].tolist(), strict=True)
    )


def test_pixels_that_cannot_be_sent() -> None:
    for pixel in ((1856, 0, 0), (-1, 0, 0), (0, 160, 0), (0, -1, 0), (0, 0, 416)):
        with pytest.raises(ConditionsError, match="outside 1856 modules"):
            pack_event(phase1(), *pixel, 1)
    for adc in (-1, 256):
        with pytest.raises(ValueError, match="adc"):
            pack_event(phase1(), 0, 0, 0, adc)
    with pytest.raises(ValueError, match="1, 1, 1, 2 entries"):
        pack_event(phase1(), 0, 0, 0, [1, 2])
    d = troubled()
    at = tuple(np.argwhere((d.cabling.module == NO_MODULE) & (phase1().cabling.module != NO_MODULE))[0])
    c = phase1().cabling
    with pytest.raises(ConditionsError, match="has no chip"):
        pack_event(d, c.module[at], c.row0[at], c.col0[at], 1)


def test_words_without_a_pixel_are_ignored() -> None:
    d = phase1()
    fed = int(d.cabling.fed_ids[100])
    position = 5 << 8
    words = [
        0,
        pixel_word(1, 25, 0),
        pixel_word(0, 1, position),
        pixel_word(49, 1, position),
        pixel_word(1, 9, position),
        pixel_word(1, 1, 0),  # row 80
        pixel_word(1, 1, 0x1F << 8 | 200),  # column 62
    ]
    good = pixel_word(1, 2, 40, 9)
    for mixed in (words, [*words, good], [good, *words]):
        got = unpack_event(d, join_payload([(fed, frame(fed, mixed))]))
        assert got.adc.tolist() == [9] * mixed.count(good)


def test_frames_that_are_not_used() -> None:
    d = phase1()
    whole = frame(1300, [pixel_word(1, 2, 40, 9)])
    assert len(unpack_event(d, join_payload([(1300, whole)])).adc) == 1
    assert len(unpack_event(d, join_payload([(1300, whole), (1300, whole)])).adc) == 2
    for at, value in ((7, 0x40), (len(whole) - 1, 0xB0), (len(whole) - 8, 0x04)):
        bad = whole.copy()
        bad[at] = value
        assert len(unpack_event(d, join_payload([(1300, bad)])).adc) == 0
    for other in (b"", whole[:8].tobytes(), whole[8:].tobytes()):
        assert len(unpack_event(d, join_payload([(1300, other), (77, whole)])).adc) == 0


def test_more_headers_and_trailers() -> None:
    d = phase1()
    whole = frame(1300, [pixel_word(1, 2, 40, 9), pixel_word(1, 2, 41, 9)])
    more_header, more_trailer = whole[:8].copy(), whole[-8:].copy()
    more_header[0] |= 8
    more_trailer[0] |= 8
    long = np.concatenate([more_header, whole[:8], whole[8:-8], whole[-8:], more_trailer])
    assert len(unpack_event(d, join_payload([(1300, long)])).adc) == 2


@given(st.lists(st.tuples(st.integers(0, 4095), st.binary(max_size=40).map(lambda b: b[: len(b) // 8 * 8])), max_size=8))
def test_split_is_the_inverse_of_join(frames: list[tuple[int, bytes]]) -> None:
    payload = join_payload(frames)
    assert check_payload(payload) == len(frames)
    assert [(fed, bytes(data)) for fed, data in split_payload(payload)] == frames
    longer = np.concatenate([payload, np.zeros(8, np.uint8)])
    assert check_payload(longer) == len(frames)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "0 bytes"),
        ([MAX_FEDS + 1], "names 4097 FEDs"),
        ([2**32 - 1], "names 4294967295 FEDs"),
        ([1], "table of 1 FEDs needs 12 bytes"),
        ([1, 1200], "table of 1 FEDs needs 12 bytes"),
        ([1, 1200, 4], "FED number 0 of the table has 4 bytes"),
        ([1, 1200, 8], "need 20 bytes, the payload has 12"),
        ([2, 1200, 2**32 - 8, 1201, 2**32 - 8, 0, 0], "the payload has 28"),
    ],
)
def test_malformed_tables(words: list[int], message: str) -> None:
    with pytest.raises(WireError, match=message) as error:
        check_payload(np.array(words, "<u4").view(np.uint8))
    assert error.value.code == WireCode.MALFORMED_PAYLOAD


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_judged_not_crashed_on(data: bytes) -> None:
    payload = np.frombuffer(data, np.uint8)
    try:
        n = check_payload(payload)
    except WireError:
        with pytest.raises(WireError):
            unpack_event(phase1(), payload)
        return
    assert len(split_payload(payload)) == n
    unpack_event(phase1(), payload)


def test_bad_frame_length_is_refused() -> None:
    with pytest.raises(WireError, match="FED 3 has 7 bytes"):
        join_payload([(3, bytes(7))])


def test_check_is_cheap() -> None:
    """Ingest calls it on every event."""
    payload = pack_event(phase1(), [], [], [], [])
    begin = time.perf_counter()
    for _ in range(200):
        check_payload(payload)
    assert (time.perf_counter() - begin) / 200 < 1e-3  # about 10 us on an idle core


def test_public_sample_holds_the_pixels_of_its_truth(pixel_sample: Path) -> None:
    source = PatatrackEvents(pixel_sample)
    detector = source.detector()
    expected = source.expected()
    assert expected is not None
    for i in range(len(source)):
        truth = source.truth(i)
        assert truth is not None
        payload = source[i].payload
        got = unpack_event(detector, payload)
        keys = [
            np.sort(((m.astype(np.int64) * 160 + r) * 416 + c) * 256 + a)
            for m, r, c, a in (got, [truth[f"digi_{name}"] for name in ("module", "row", "col", "adc")])
        ]
        assert np.array_equal(keys[0], keys[1])
        assert sum(len(f) // 4 - 4 for _, f in split_payload(payload)) == expected[i].digis
        again = unpack_event(detector, pack_event(detector, *got))
        for fed in np.unique(got.module)[::300]:
            assert sorted(again.col[again.module == fed].tolist()) == sorted(got.col[got.module == fed].tolist())
