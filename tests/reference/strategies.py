"""Hypothesis strategies: events of small clusters, hostile words and broken frames, small enough to shrink to something readable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from hltfarm.proto.detector import Detector
from tests.reference.events import Fed, Payload, assemble, disassemble, frame, pack, word

PATCH_ROWS, PATCH_COLS = 4, 6
WORD = 0xFFFFFFFF


def pixel_words(detector: Detector) -> st.SearchStrategy[int]:
    """Words of every kind: near the limits of each field, error words, padding, and any 32 bits."""
    c, t = detector.cabling, detector.topology
    link = st.one_of(st.integers(1, c.links), st.sampled_from([0, 1, c.links, min(c.links + 1, 63), 63]))
    roc = st.one_of(st.integers(1, c.rocs), st.sampled_from([0, c.rocs, c.rocs + 1, 24, 25, 31]))
    pxid = st.builds(lambda dcol, pxid: dcol << 16 | pxid << 8, st.integers(0, 31), st.integers(0, 255))
    row_col = st.builds(lambda row, col: col << 15 | row << 8, st.integers(0, t.chip_rows), st.integers(0, t.chip_cols))
    adc = st.integers(0, 255)
    return st.one_of(
        st.builds(lambda link, roc, place, adc: word(link, roc, place | adc), link, roc, st.one_of(pxid, row_col), adc),
        st.sampled_from([0, 1, WORD]),
        st.integers(0, WORD),
    )


@st.composite
def sound_events(draw: st.DrawFn, detector: Detector) -> Payload:
    """Patches of up to 4 x 6 pixels in few modules, so that they touch, overlap and repeat."""
    t = detector.topology
    few = draw(st.lists(st.integers(0, detector.n_modules - 1), min_size=1, max_size=3, unique=True))
    patch = st.tuples(
        st.sampled_from(few),
        st.integers(0, t.rows - 1),
        st.integers(0, t.cols - 1),
        st.integers(0, 2 ** (PATCH_ROWS * PATCH_COLS) - 1),
        st.integers(0, 255),
    )
    pixels = [
        (module, row + k // PATCH_COLS, col + k % PATCH_COLS, (adc + 37 * k) % 256)
        for module, row, col, mask, adc in draw(st.lists(patch, max_size=12))
        for k in range(PATCH_ROWS * PATCH_COLS)
        if mask >> k & 1 and row + k // PATCH_COLS < t.rows and col + k % PATCH_COLS < t.cols
    ]
    module, row, col, adc = np.array(pixels, np.int64).reshape(-1, 4).T
    payload = pack(detector, module, row, col, adc)
    return assemble([f for f in disassemble(payload) if len(f.words) > 4])


@st.composite
def hostile_words(draw: st.DrawFn, detector: Detector) -> Payload:
    """A sound event in which FEDs have been given further words of every kind, at any place."""
    feds = disassemble(draw(sound_events(detector)))
    ids = detector.cabling.fed_ids.tolist()
    extra = st.tuples(st.sampled_from(ids), st.integers(0, 50), pixel_words(detector))
    for fed, place, value in draw(st.lists(extra, max_size=30)):
        index = next((i for i, f in enumerate(feds) if f.id == fed), len(feds))
        if index == len(feds):
            feds.append(Fed(fed, frame(fed)))
        body = list(feds[index].words[2:-2])
        body.insert(min(place, len(body)), value)
        feds[index] = Fed(fed, frame(fed, body))
    return assemble(feds)


@st.composite
def hostile_payloads(draw: st.DrawFn, detector: Detector) -> Payload:
    """Hostile words, then broken frames and tables: changed words, changed sizes and ids, repeated FEDs, a cut."""
    feds = disassemble(draw(hostile_words(detector)))
    for _ in range(draw(st.integers(0, 3))):
        if not feds:
            break
        i = draw(st.integers(0, len(feds) - 1))
        fed, n = feds[i], len(feds[i].words)
        kind = draw(st.sampled_from(["word", "flags", "size", "id", "repeat", "frame", "swap"]))
        if kind == "word":
            at = draw(st.integers(0, n - 1))
            feds[i] = replace(fed, words=(*fed.words[:at], draw(st.integers(0, WORD)), *fed.words[at + 1 :]))
        elif kind == "flags":  # "more" and CRC bits, the markers and the id, of the first or the last two 64-bit words
            at = draw(st.sampled_from([k for k in (0, 1, 2, 3, n - 4, n - 3, n - 2, n - 1) if 0 <= k < n]))
            bit = draw(st.sampled_from([2, 3, 8, 19, 28, 30]))
            feds[i] = replace(fed, words=(*fed.words[:at], fed.words[at] ^ 1 << bit, *fed.words[at + 1 :]))
        elif kind == "size":
            size = st.one_of(st.integers(0, 4 * n + 40), st.integers(0, WORD), st.sampled_from([WORD, WORD - 3, WORD - 7, 1 << 31]))
            feds[i] = replace(fed, size=draw(size))
        elif kind == "id":
            feds[i] = replace(fed, id=draw(st.one_of(st.sampled_from(detector.cabling.fed_ids.tolist()), st.integers(0, WORD))))
        elif kind == "repeat":
            feds.insert(draw(st.integers(0, len(feds))), fed)
        elif kind == "frame":
            headers, trailers = draw(st.integers(1, 4)), draw(st.integers(1, 4))
            feds[i] = replace(fed, words=frame(fed.id & 0xFFF, fed.words[2:-2], headers=headers, trailers=trailers), size=None)
        else:
            j = draw(st.integers(0, len(feds) - 1))
            feds[i], feds[j] = feds[j], feds[i]
    tail = draw(st.lists(st.integers(0, WORD), max_size=3))
    payload = assemble(feds, n_feds=draw(st.one_of(st.none(), st.none(), st.integers(0, len(feds) + 2))), tail=tail)
    cut = draw(st.one_of(st.just(0), st.just(0), st.integers(0, len(payload) // 4)))
    return payload[: len(payload) - 4 * cut]


def random_payloads() -> st.SearchStrategy[Payload]:
    """Any words behind a small number of FEDs."""
    words = st.one_of(
        st.integers(0, WORD), st.integers(0, 64), st.sampled_from([0x50000001, 0xA0000002, 7 << 8, 7, 4095, 4095 << 8, 8, 16])
    )
    return st.tuples(st.integers(0, 6), st.lists(words, max_size=40)).map(lambda x: assemble([], n_feds=x[0], tail=x[1]))
