"""Raw data of the pixel front end in NumPy: S-LINK frames, pixel words, and the FED-table payload that carries an event.

Payload (docs/architecture.md): u32 n_feds, n_feds x (u32 fed_id, u32 size_bytes), then the frames in table order. A frame is
64-bit words: header, 32-bit pixel words (an even number, padded with 0), trailer. Everything little-endian.
Encoding is for simulation and tests; decoding here is the plain definition, the farm itself decodes in `workers/unpack`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hltfarm.proto.detector.description import NO_MODULE, WORD_ROW_COL, Detector
from hltfarm.proto.errors import ConditionsError, WireCode, WireError

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
I32 = NDArray[np.int32]

MAX_FEDS = 4096

# Pixel word: link, ROC, then 16 bits of position (see `Cabling.word_format`), then the ADC value.
LINK_SHIFT, LINK_MASK = 26, 0x3F
ROC_SHIFT, ROC_MASK = 21, 0x1F
DCOL_SHIFT, DCOL_MASK = 16, 0x1F
PXID_SHIFT, PXID_MASK = 8, 0xFF
COL_SHIFT, COL_MASK = 15, 0x3F
ROW_SHIFT, ROW_MASK = 8, 0x7F
ADC_MASK = 0xFF

#: ROC numbers from here on mark error words
ROC_FIRST_ERROR = 25
ERROR_WORDS = {
    25: "invalid ROC",
    26: "gap",
    27: "dummy",
    28: "FIFO nearly full",
    29: "timeout",
    30: "TBM trailer or overflow",
    31: "event number",
}

# S-LINK frame, each 64-bit word as (low, high) 32-bit words.
HEADER_TAG = 0x5  # high word of the header, bits 31..28
TRAILER_TAG = 0xA
TAG_SHIFT = 28
HEADER_BX_SHIFT, HEADER_BX_MASK = 20, 0xFFF
HEADER_FED_SHIFT, HEADER_FED_MASK = 8, 0xFFF
HEADER_EVENT_MASK = 0xFFFFFF
MORE_WORDS = 1 << 3  # low word: another header (trailer) follows (precedes)
TRAILER_CRC_MODIFIED = 1 << 2  # low word: the frame is not to be used
TRAILER_LENGTH_MASK = 0xFFFFFF
FRAME_WORDS = 4  # header and trailer, in 32-bit words


class ChipPixels(NamedTuple):
    """Pixels in front-end coordinates; int32 arrays of one length. `fed` is the FED id, `link` and `roc` start at 1."""

    fed: I32
    link: I32
    roc: I32
    row: I32
    col: I32


class Digis(NamedTuple):
    """Pixels in module coordinates, in the order of the words; arrays of one length."""

    module: NDArray[np.uint16]
    row: NDArray[np.uint16]
    col: NDArray[np.uint16]
    adc: U8


@dataclass(frozen=True, eq=False)
class _Inverse:
    """(module, chip row, chip column) -> entry of the cabling tables or -1, and the order of modules on the wire."""

    entry: NDArray[np.int32]
    rank: NDArray[np.int64]


def pack_event(
    detector: Detector, module: ArrayLike, row: ArrayLike, col: ArrayLike, adc: ArrayLike, *, event_number: int = 0, bx: int = 0
) -> U8:
    """An event as FED-table payload, uint8; every FED of the cabling is present, empty ones with header and trailer only.

    Words of a module are contiguous, in the order of the cabling; pixels of one chip keep the order given. `adc` is 0..255; the trailer
    CRC is left 0 (nobody verifies it). Raises ConditionsError for a pixel outside the module or without a connected chip, ValueError for
    arrays of different lengths or an ADC value beyond 8 bits.
    """
    m, r, c, a = (np.asarray(x).astype(np.int64).ravel() for x in (module, row, col, adc))
    if not len(m) == len(r) == len(c) == len(a):
        raise ValueError(f"module, row, col, adc have {len(m)}, {len(r)}, {len(c)}, {len(a)} entries")
    if len(a) and (a.min() < 0 or a.max() > ADC_MASK):
        raise ValueError(f"adc values {a.min()}..{a.max()} do not fit 0..{ADC_MASK}")
    cabling = detector.cabling
    entry = _entries(detector, m, r, c)
    per_fed = cabling.links * cabling.rocs
    fed = entry // per_fed
    order = np.lexsort((entry, _inverse(detector).rank[m], fed))
    entry, fed = entry[order], fed[order]
    words = _pixel_words(detector, entry, r[order], c[order], a[order])

    n_feds = len(cabling.fed_ids)
    counts = np.bincount(fed, minlength=n_feds)
    sizes = FRAME_WORDS + counts + counts % 2  # in words
    table = 1 + 2 * n_feds
    start = table + np.cumsum(sizes) - sizes
    out = np.zeros(table + int(sizes.sum()), "<u4")
    ids = cabling.fed_ids.astype(np.int64)
    out[0] = n_feds
    out[1:table:2] = ids
    out[2:table:2] = sizes * 4
    out[start] = (bx & HEADER_BX_MASK) << HEADER_BX_SHIFT | (ids & HEADER_FED_MASK) << HEADER_FED_SHIFT
    out[start + 1] = HEADER_TAG << TAG_SHIFT | (event_number & HEADER_EVENT_MASK)
    out[start + sizes - 1] = TRAILER_TAG << TAG_SHIFT | (sizes // 2)
    first = np.cumsum(counts) - counts
    out[start[fed] + 2 + np.arange(len(words)) - first[fed]] = words
    return out.view(np.uint8)


def locate(detector: Detector, module: ArrayLike, row: ArrayLike, col: ArrayLike) -> ChipPixels:
    """Front-end coordinates of module pixels (the inverse of the cabling's affine maps).

    Raises ConditionsError for a pixel outside the module or without a connected chip.
    """
    m, r, c = (np.asarray(x).astype(np.int64).ravel() for x in (module, row, col))
    cabling = detector.cabling
    entry = _entries(detector, m, r, c)
    chip_row, chip_col = _chip_coordinates(detector, entry, r, c)
    fed, rest = np.divmod(entry, cabling.links * cabling.rocs)
    link, roc = np.divmod(rest, cabling.rocs)
    return ChipPixels(*(x.astype(np.int32) for x in (cabling.fed_ids[fed], link + 1, roc + 1, chip_row, chip_col)))


_MULTIPLES_OF_8 = bytes(range(0, 256, 8))


def check_payload(payload: U8) -> int:
    """Number of FEDs of a payload whose table is sound; looks at the table only (about 4 us).

    Raises WireError MALFORMED_PAYLOAD: too short, not whole words, too many FEDs, a size that is not a multiple of 8, table or frames
    longer than the payload. Bytes after the last frame are allowed.
    """
    n_bytes = payload.nbytes
    if n_bytes < 4 or n_bytes % 4:
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"payload of {n_bytes} bytes: not a whole, positive number of 32-bit words")
    n_feds = int.from_bytes(payload[:4].tobytes(), "little")
    if n_feds > MAX_FEDS:
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"payload names {n_feds} FEDs, at most {MAX_FEDS} are allowed")
    table = 4 + 8 * n_feds
    if table > n_bytes:
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"table of {n_feds} FEDs needs {table} bytes, the payload has {n_bytes}")
    sizes = payload[4:table].view("<u4")[1::2]
    if payload[8:table:8].tobytes().translate(None, _MULTIPLES_OF_8):  # the lowest bytes of the sizes
        k = int(np.argmax(sizes & np.uint32(7) != 0))
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"FED number {k} of the table has {int(sizes[k])} bytes, not a multiple of 8")
    total = table + int(np.add.reduce(sizes, dtype=np.uint64))
    if total > n_bytes:
        raise WireError(WireCode.MALFORMED_PAYLOAD, f"table and frames need {total} bytes, the payload has {n_bytes}")
    return n_feds


def split_payload(payload: U8) -> list[tuple[int, U8]]:
    """(fed_id, frame) pairs in table order; frames are views of the payload. Raises WireError like `check_payload`."""
    n_feds = check_payload(payload)
    table = payload[4 : 4 + 8 * n_feds].view("<u4").reshape(n_feds, 2).tolist()
    out: list[tuple[int, U8]] = []
    at = 4 + 8 * n_feds
    for fed_id, size in table:
        out.append((fed_id, payload[at : at + size]))
        at += size
    return out


def join_payload(frames: Iterable[tuple[int, U8 | bytes]]) -> U8:
    """The payload of these (fed_id, frame) pairs: the inverse of `split_payload`. Raises WireError if a frame is not whole 64-bit words."""
    pairs = [(fed_id, bytes(frame)) for fed_id, frame in frames]
    for fed_id, frame in pairs:
        if len(frame) % 8:
            raise WireError(WireCode.MALFORMED_PAYLOAD, f"frame of FED {fed_id} has {len(frame)} bytes, not a multiple of 8")
    table = struct.pack(f"<{1 + 2 * len(pairs)}I", len(pairs), *(x for fed_id, frame in pairs for x in (fed_id, len(frame))))
    return np.frombuffer(table + b"".join(frame for _, frame in pairs), np.uint8)


def unpack_event(detector: Detector, payload: U8) -> Digis:
    """All pixels of an event in decoding order (FEDs in the order of the cabling, absent ones skipped).

    Words that name no pixel (padding, error words, bad numbers, disabled or unconnected chips) and frames that are not usable are left
    out silently; dead and noisy pixels stay in. Raises WireError if the table is malformed.
    """
    frames: dict[int, list[U32]] = {}
    for fed_id, frame in split_payload(payload):
        frames.setdefault(fed_id, []).append(_frame_words(frame))
    parts: list[tuple[I32, U32]] = []
    for k, fed_id in enumerate(detector.cabling.fed_ids.tolist()):
        parts += [(np.full(len(words), k, np.int32), words) for words in frames.get(fed_id, ())]
    if not parts:
        return Digis(np.zeros(0, np.uint16), np.zeros(0, np.uint16), np.zeros(0, np.uint16), np.zeros(0, np.uint8))
    return _decode(detector, np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))


def pixel_word(link: int, roc: int, position: int, adc: int = 0) -> int:
    """A 32-bit word from its fields; `position` is the 13-bit field in bits 20..8. Also for error words (roc >= 25)."""
    return (link & LINK_MASK) << LINK_SHIFT | (roc & ROC_MASK) << ROC_SHIFT | (position & 0x1FFF) << PXID_SHIFT | (adc & ADC_MASK)


def frame(fed_id: int, words: ArrayLike, *, event_number: int = 0, bx: int = 0) -> U8:
    """One S-LINK frame around 32-bit words (padded to an even number), uint8."""
    body = np.asarray(words, np.uint32).ravel()
    n = FRAME_WORDS + len(body) + len(body) % 2
    out = np.zeros(n, "<u4")
    out[0] = (bx & HEADER_BX_MASK) << HEADER_BX_SHIFT | (fed_id & HEADER_FED_MASK) << HEADER_FED_SHIFT
    out[1] = HEADER_TAG << TAG_SHIFT | (event_number & HEADER_EVENT_MASK)
    out[2 : 2 + len(body)] = body
    out[-1] = TRAILER_TAG << TAG_SHIFT | n // 2
    return out.view(np.uint8)


@lru_cache(maxsize=4)
def _inverse(detector: Detector) -> _Inverse:
    c, t = detector.cabling, detector.topology
    module = c.module.ravel()
    entry = np.flatnonzero(module != NO_MODULE)
    m = module[entry].astype(np.int64)
    corners = []
    for origin, step, size in ((c.row0, c.row_step, t.chip_rows), (c.col0, c.col_step, t.chip_cols)):
        o, s = (x.ravel()[entry].astype(np.int64) for x in (origin, step))
        corners.append(np.minimum(o, o + s * (size - 1)) // size)
    table = np.full((detector.n_modules, t.rows // t.chip_rows, t.cols // t.chip_cols), -1, np.int32)
    table[m, corners[0], corners[1]] = entry
    rank = np.full(detector.n_modules, len(module), np.int64)
    np.minimum.at(rank, m, entry)
    return _Inverse(table, rank)


def _entries(detector: Detector, m: NDArray[np.int64], r: NDArray[np.int64], c: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat index into the cabling tables of each pixel."""
    t = detector.topology
    outside = (m < 0) | (m >= detector.n_modules) | (r < 0) | (r >= t.rows) | (c < 0) | (c >= t.cols)
    if outside.any():
        k = int(np.argmax(outside))
        raise ConditionsError(
            f"pixel {k}: module {m[k]}, row {r[k]}, column {c[k]} is outside {detector.n_modules} modules of {t.rows} x {t.cols} pixels"
        )
    entry = _inverse(detector).entry[m, r // t.chip_rows, c // t.chip_cols].astype(np.int64)
    if (entry < 0).any():
        k = int(np.argmax(entry < 0))
        raise ConditionsError(f"pixel {k}: module {m[k]}, row {r[k]}, column {c[k]} has no chip in the cabling of {detector.name}")
    return entry


def _chip_coordinates(
    detector: Detector, entry: NDArray[np.int64], r: NDArray[np.int64], c: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    k = detector.cabling
    return (r - k.row0.ravel()[entry]) * k.row_step.ravel()[entry], (c - k.col0.ravel()[entry]) * k.col_step.ravel()[entry]


def _pixel_words(
    detector: Detector, entry: NDArray[np.int64], r: NDArray[np.int64], c: NDArray[np.int64], adc: NDArray[np.int64]
) -> NDArray[np.int64]:
    k = detector.cabling
    row, col = _chip_coordinates(detector, entry, r, c)
    rest, roc = np.divmod(entry, k.rocs)
    pxid = 2 * (detector.topology.chip_rows - row) + (col & 1)
    position = np.where(
        k.word_format.ravel()[entry] == WORD_ROW_COL, col << COL_SHIFT | row << ROW_SHIFT, (col >> 1) << DCOL_SHIFT | pxid << PXID_SHIFT
    )
    words: NDArray[np.int64] = (rest % k.links + 1) << LINK_SHIFT | (roc + 1) << ROC_SHIFT | position | adc
    return words


def _frame_words(data: U8) -> U32:
    """Pixel words between headers and trailers; none if the frame is not usable."""
    none = np.zeros(0, np.uint32)
    words = np.frombuffer(data.tobytes(), "<u4").astype(np.uint32)
    first, last = 0, len(words)
    while True:
        if first + 2 > last or int(words[first + 1]) >> TAG_SHIFT != HEADER_TAG:
            return none
        first += 2
        if not int(words[first - 2]) & MORE_WORDS:
            break
    while True:
        if last - 2 < first or int(words[last - 1]) >> TAG_SHIFT != TRAILER_TAG or int(words[last - 2]) & TRAILER_CRC_MODIFIED:
            return none
        last -= 2
        if not int(words[last]) & MORE_WORDS:
            break
    return words[first:last]


def _decode(detector: Detector, fed: I32, words: U32) -> Digis:
    k, t = detector.cabling, detector.topology
    w = words.astype(np.int64)
    link, roc = (w >> LINK_SHIFT) & LINK_MASK, (w >> ROC_SHIFT) & ROC_MASK
    ok = (w != 0) & (link >= 1) & (link <= k.links) & (roc >= 1) & (roc <= k.rocs)
    w, link, roc = w[ok], link[ok], roc[ok]
    entry = (fed[ok].astype(np.int64) * k.links + link - 1) * k.rocs + roc - 1
    direct = k.word_format.ravel()[entry] == WORD_ROW_COL
    dcol, pxid = (w >> DCOL_SHIFT) & DCOL_MASK, (w >> PXID_SHIFT) & PXID_MASK
    row = np.where(direct, (w >> ROW_SHIFT) & ROW_MASK, t.chip_rows - pxid // 2)
    col = np.where(direct, (w >> COL_SHIFT) & COL_MASK, 2 * dcol + pxid % 2)
    module = k.module.ravel()[entry]
    good = (module != NO_MODULE) & (k.disabled.ravel()[entry] == 0)
    good &= (row >= 0) & (row < t.chip_rows) & (col < t.chip_cols)
    entry, row, col = entry[good], row[good], col[good]
    row = k.row0.ravel()[entry] + k.row_step.ravel()[entry] * row
    col = k.col0.ravel()[entry] + k.col_step.ravel()[entry] * col
    return Digis(module[good], row.astype(np.uint16), col.astype(np.uint16), (w[good] & ADC_MASK).astype(np.uint8))
