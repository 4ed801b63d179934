"""Raw words to calibrated pixels.

Rules for the FEDs of the table, in the order in which they are tried; `fed_errors` counts the rejected FEDs and the header id mismatches:

    table     payload shorter than its first word, n_feds > 4096, or a table beyond the payload: nothing is decoded, PAYLOAD_MALFORMED
    position  the data of an entry start where those of its predecessor end; sizes are rounded up to 4 bytes and never wrap
    size 0    skipped, as if the entry were not there
    size % 8  not 0, or data beyond the payload: rejected, PAYLOAD_MALFORMED (whether the id is known or not)
    unknown   FED id not in the cabling: skipped, not counted
    repeated  an earlier, non-empty entry of the table (whatever became of it) has the same id: rejected
    size 8    no room for header and trailer: rejected
    frame     headers from the front while "more headers" is set, trailers from the back while "more trailers" is set; one without its
              marker: rejected. (A chain cannot run into the other one: it would meet the wrong marker.)
    CRC       "CRC modified" in the last trailer: rejected
    id        the first header names another FED: counted, but the data are used and FED_REJECTED is not set
    length    the length field of the trailer and the CRC itself are not looked at

Rules for a word, in order; every word between headers and trailers is counted as a digi, whatever it holds:

    0                            padding
    ROC 25..31                   error word of the readout: FED_ERROR_WORD
    no such link or ROC, not connected                                    word error: WORD_REJECTED
    disabled ROC or module                                                dropped
    coordinates outside of the chip                                       word error: WORD_REJECTED
    dead or noisy in the gain table                                       dropped
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import NO_MODULE, WORD_ROW_COL, Detector
from hltfarm.proto.results import EventFlag

MAX_FEDS = 4096
FIRST_ERROR_ROC = 25

Ints = NDArray[np.int64]
Words = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Valid pixels in word order (a pixel that was read out twice is listed twice) and the counts of the event."""

    module: Ints
    row: Ints
    col: Ints
    electrons: Ints
    words: int
    word_errors: int
    fed_errors: int
    rejected: tuple[int, ...]  # FED ids of the rejected entries, in table order
    flags: EventFlag


@dataclass
class _Tally:
    word_errors: int = 0
    fed_errors: int = 0
    flags: EventFlag = EventFlag(0)  # noqa: RUF009 - an enum member is immutable


def unpack(payload: NDArray[np.uint8], detector: Detector) -> Pixels:
    """Decode and calibrate one event's payload (FED-table format, uint8)."""
    tally = _Tally()
    rejected: list[int] = []
    streams: list[tuple[int, Words]] = []
    known = {int(fed): index for index, fed in enumerate(detector.cabling.fed_ids)}
    seen: set[int] = set()

    table, position, end = _table(payload, tally)
    for fed, size in table:
        start = position
        position += -(-size // 4) * 4
        if size == 0:
            continue
        repeated = fed in seen
        seen.add(fed)
        if size % 8 or start + size > end:
            tally.flags |= EventFlag.PAYLOAD_MALFORMED
            words = None
        elif fed not in known:
            continue
        elif repeated:
            words = None
        else:
            words = _pixel_words(np.ascontiguousarray(payload[start : start + size]).view("<u4"), fed, tally)
        if words is None:
            tally.fed_errors += 1
            tally.flags |= EventFlag.FED_REJECTED
            rejected.append(fed)
        else:
            streams.append((known[fed], words))

    found = [_decode(index, words, detector, tally) for index, words in streams]
    module, row, col, adc = (np.concatenate([f[i] for f in found] or [np.zeros(0, np.int64)]) for i in range(4))
    electrons, usable = calibrate(module, row, col, adc, detector)
    return Pixels(
        module[usable],
        row[usable],
        col[usable],
        electrons[usable],
        words=sum(len(words) for _, words in streams),
        word_errors=tally.word_errors,
        fed_errors=tally.fed_errors,
        rejected=tuple(rejected),
        flags=tally.flags,
    )


def _table(payload: NDArray[np.uint8], tally: _Tally) -> tuple[list[tuple[int, int]], int, int]:
    """Entries (FED id, size in bytes), where their data start, and the end of the payload (whole 32-bit words)."""
    words = np.ascontiguousarray(payload[: len(payload) // 4 * 4]).view("<u4")
    n = int(words[0]) if len(words) else -1
    if not 0 <= n <= MAX_FEDS or 1 + 2 * n > len(words):
        tally.flags |= EventFlag.PAYLOAD_MALFORMED
        return [], 0, 0
    entries = words[1 : 1 + 2 * n].astype(np.int64).reshape(n, 2)
    return [(int(fed), int(size)) for fed, size in entries], 4 * (1 + 2 * n), 4 * len(words)


def _pixel_words(frame: Words, fed: int, tally: _Tally) -> Words | None:
    """The words between headers and trailers of one FED frame, or None if the frame is broken."""
    pairs = frame.astype(np.int64).reshape(-1, 2)  # 64-bit words: (low, high)
    if len(pairs) < 2:
        return None

    headers = 0
    while True:
        low, high = pairs[headers]
        if high >> 28 != 0x5:
            return None
        headers += 1
        if not low >> 3 & 1:
            break
        if headers == len(pairs):
            return None

    trailers = 0
    while True:
        low, high = pairs[len(pairs) - 1 - trailers]
        if high >> 28 != 0xA:
            return None
        if trailers == 0 and low >> 2 & 1:
            return None
        trailers += 1
        if not low >> 3 & 1:
            break
        if trailers == len(pairs):
            return None

    if pairs[0][0] >> 8 & 0xFFF != fed:
        tally.fed_errors += 1
    return frame[2 * headers : len(frame) - 2 * trailers]


def _decode(fed_index: int, words: Words, detector: Detector, tally: _Tally) -> tuple[Ints, Ints, Ints, Ints]:
    """Module, row, column and ADC count of the usable words of one FED."""
    cabling, topology = detector.cabling, detector.topology
    w = words.astype(np.int64)
    w = w[w != 0]

    from_readout = (w >> 21 & 31) >= FIRST_ERROR_ROC
    if from_readout.any():
        tally.flags |= EventFlag.FED_ERROR_WORD
    w = w[~from_readout]

    link, roc = w >> 26, w >> 21 & 31
    exists = (link >= 1) & (link <= cabling.links) & (roc >= 1) & (roc <= cabling.rocs)
    _reject(~exists, tally)
    w, link, roc = w[exists], link[exists] - 1, roc[exists] - 1

    connected = cabling.module[fed_index, link, roc] != NO_MODULE
    _reject(~connected, tally)
    w, link, roc = w[connected], link[connected], roc[connected]

    enabled = cabling.disabled[fed_index, link, roc] == 0
    w, link, roc = w[enabled], link[enabled], roc[enabled]

    dcol, pxid = w >> 16 & 31, w >> 8 & 255
    by_row_col = cabling.word_format[fed_index, link, roc] == WORD_ROW_COL
    chip_row = np.where(by_row_col, w >> 8 & 127, topology.chip_rows - pxid // 2)
    chip_col = np.where(by_row_col, w >> 15 & 63, 2 * dcol + pxid % 2)
    inside = (chip_row >= 0) & (chip_row < topology.chip_rows) & (chip_col >= 0) & (chip_col < topology.chip_cols)
    _reject(~inside, tally)
    w, link, roc, chip_row, chip_col = w[inside], link[inside], roc[inside], chip_row[inside], chip_col[inside]

    chip = (fed_index, link, roc)
    row = cabling.row0[chip].astype(np.int64) + cabling.row_step[chip].astype(np.int64) * chip_row
    col = cabling.col0[chip].astype(np.int64) + cabling.col_step[chip].astype(np.int64) * chip_col
    return cabling.module[chip].astype(np.int64), row, col, w & 255


def _reject(bad: NDArray[np.bool_], tally: _Tally) -> None:
    if bad.any():
        tally.flags |= EventFlag.WORD_REJECTED
        tally.word_errors += int(bad.sum())


def calibrate(module: Ints, row: Ints, col: Ints, adc: Ints, detector: Detector) -> tuple[Ints, NDArray[np.bool_]]:
    """Electrons of pixels, and whether they are usable (not dead, not noisy).

    Every operation is one float32 operation, in this order, none fused:

        gain      = float(gain code) * gain_precision + gain_min
        pedestal  = float(pedestal code) * pedestal_precision + pedestal_min
        vcal      = float(adc) * gain - pedestal * gain
        electrons = max(min_electrons, int(vcal * electrons_per_vcal + electrons_offset)),     int() truncates toward zero
    """
    f32 = np.float32
    g = detector.gains
    codes = g.codes[module, col, row // g.rows_per_block]
    gain = codes[:, 0].astype(f32) * f32(g.gain_precision) + f32(g.gain_min)
    pedestal = codes[:, 1].astype(f32) * f32(g.pedestal_precision) + f32(g.pedestal_min)
    vcal = adc.astype(f32) * gain - pedestal * gain
    charge = vcal * detector.modules.electrons_per_vcal[module] + detector.modules.electrons_offset[module]
    electrons = np.maximum(np.trunc(charge).astype(np.int64), detector.min_electrons)
    usable = (codes[:, 1] != g.dead) & (codes[:, 1] != g.noisy)
    return electrons, usable
