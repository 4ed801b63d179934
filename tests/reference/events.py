"""Synthetic events: patterns of pixels, whole events at random, and payloads that break every rule.

`PATTERNS` maps a name to pixels of one module (row, col, adc); `CORRUPT` maps a name to a payload builder; `Fed` and `assemble` build
payloads word by word and do not care whether they make sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import NO_MODULE, Detector, Topology
from hltfarm.proto.raw import locate, pack_event, split_payload

Payload = NDArray[np.uint8]
Words = NDArray[np.uint32]
Shape = list[tuple[int, int, int]]  # row, col, adc

HEADER_MARK, TRAILER_MARK = 0x5 << 28, 0xA << 28
MORE, CRC_MODIFIED = 1 << 3, 1 << 2


# --- payloads word by word ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fed:
    """One table entry: id, the frame's 32-bit words, and the size that the table claims (None: the true one)."""

    id: int
    words: tuple[int, ...]
    size: int | None = None


def frame(fed: int, words: Iterable[int] = (), *, headers: int = 1, trailers: int = 1) -> tuple[int, ...]:
    """A correct frame, if `fed` fits 12 bits, with so many headers and trailers."""
    body = list(words)
    body += [0] * (len(body) % 2)
    length = headers + len(body) // 2 + trailers
    front = [w for k in range(headers) for w in (fed << 8 & 0xFFF00 | (MORE if k < headers - 1 else 0), HEADER_MARK | 1)]
    back = [w for k in range(trailers) for w in (MORE if k > 0 else 0, TRAILER_MARK | length)]
    return tuple(front + body + back)


def assemble(feds: Sequence[Fed], *, n_feds: int | None = None, tail: Iterable[int] = ()) -> Payload:
    """FED table and frames; `n_feds` overrides the count of the table, `tail` words follow the last frame."""
    table = [len(feds) if n_feds is None else n_feds]
    for fed in feds:
        table += [fed.id, 4 * len(fed.words) if fed.size is None else fed.size]
    return _bytes([*table, *(w for fed in feds for w in fed.words), *tail])


def disassemble(payload: Payload) -> list[Fed]:
    """The entries of a sound payload."""
    return [Fed(fed, tuple(np.ascontiguousarray(data).view("<u4").tolist())) for fed, data in split_payload(payload)]


def shuffled(payload: Payload, rng: np.random.Generator) -> Payload:
    """The same event with the FEDs of the table and the words within each FED in another order (one header, one trailer)."""
    feds = [replace(f, words=(*f.words[:2], *rng.permutation(f.words[2:-2]).tolist(), *f.words[-2:])) for f in disassemble(payload)]
    return assemble([feds[i] for i in rng.permutation(len(feds))])


def _bytes(words: Iterable[int]) -> Payload:
    return np.array(list(words), np.uint32).astype("<u4").view(np.uint8)


# --- patterns of pixels in one module ----------------------------------------------------------------------------------------------------


def _spiral(t: Topology) -> Shape:
    """One path that winds inwards with a gap of one pixel: a single cluster, as long as it can be."""
    on = np.zeros((t.rows, t.cols), bool)
    row, col, d_row, d_col, turns = 0, 0, 0, 1, 0
    path = [(0, 0)]
    on[0, 0] = True

    def free(r: int, c: int) -> bool:
        return 0 <= r < t.rows and 0 <= c < t.cols and not on[r, c]

    def clear(r: int, c: int) -> bool:
        return not (0 <= r < t.rows and 0 <= c < t.cols) or not on[r, c]

    while turns < 2:
        if free(row + d_row, col + d_col) and clear(row + 2 * d_row, col + 2 * d_col):
            row, col, turns = row + d_row, col + d_col, 0
            on[row, col] = True
            path.append((row, col))
        else:
            d_row, d_col, turns = d_col, -d_row, turns + 1
    return [(r, c, 200) for r, c in path]


def _grid(t: Topology, step: int, adc: int) -> Shape:
    return [(r, c, adc) for c in range(0, t.cols, step) for r in range(0, t.rows, step)]


def _comb(t: Topology) -> Shape:
    """Teeth of every other row, joined in the last column only: all labels merge at the very end."""
    return [(r, c, 120) for r in range(0, t.rows, 2) for c in range(t.cols)] + [(r, t.cols - 1, 120) for r in range(1, t.rows, 2)]


def _u_shapes(t: Topology) -> Shape:
    """U, inverted U, and both lying down, nested into each other without touching."""
    u = [(r, c) for c in (0, 6) for r in range(7)] + [(6, c) for c in range(7)] + [(r, 3) for r in range(4)]
    places = [(0, 0, 1, 1), (t.rows - 1, 0, -1, 1), (0, t.cols - 1, 1, -1), (t.rows - 1, t.cols - 1, -1, -1)]
    return [(r0 + sr * r, c0 + sc * c, 90 + r) for r0, c0, sr, sc in places for r, c in u]


def _edges(t: Topology) -> Shape:
    """Single pixels, pairs and squares at corners, edges and around the double-size pixels between chips."""
    out: Shape = []
    for r in (0, t.chip_rows - 1, t.chip_rows, t.rows - 1):
        for c in (0, t.chip_cols - 1, t.chip_cols, t.cols - 1):
            out.append((r, c, 150 + r % 7))
    out += [(t.chip_rows // 2, c, 100 + c % 50) for c in (0, 2, 3, t.chip_cols - 1, t.chip_cols + 2, t.cols - 1)]
    out += [(t.chip_rows // 2 + 3 + k, 4, 40 + 60 * k) for k in range(2)]
    return out


PATTERNS: dict[str, Callable[[Topology], Shape]] = {
    "one pixel": lambda t: [(t.rows // 2 + 3, t.cols // 2 + 3, 200)],
    "below the charge cut": lambda t: [(5, 5, 1)],
    "diagonal": lambda t: [(k, k, 100) for k in range(min(t.rows, t.cols))],
    "antidiagonal": lambda t: [(k, t.cols - 1 - k, 100) for k in range(min(t.rows, t.cols))],
    "zigzag": lambda t: [(4 + k % 2, k, 60 + k % 90) for k in range(t.cols)],
    "u shapes": lambda t: _u_shapes(t),
    "spiral": _spiral,
    "comb": _comb,
    "full module": lambda t: _grid(t, 1, 255),
    "isolated pixels": lambda t: _grid(t, 2, 220),
    "checkerboard": lambda t: [(r, c, 130) for c in range(t.cols) for r in range(t.rows) if (r + c) % 2],
    "one full row": lambda t: [(t.rows - 1, c, c % 256) for c in range(t.cols)],
    "one full column": lambda t: [(r, 0, r % 256) for r in range(t.rows)],
    "edges and corners": _edges,
    "one pixel 6000 times": lambda t: [(7, 8, k % 256) for k in range(6000)] + [(8, 9, 5)],
    "every pixel of a patch twice": lambda t: [(r, c, 17 * (r + c) % 256) for _ in range(2) for c in range(9) for r in range(9)],
    "adc 0": lambda t: [(r, c, 0) for c in range(2, 6) for r in range(2, 6)],
}


def pattern_event(detector: Detector, name: str, modules: Sequence[int] | None = None) -> Payload:
    """The pattern in the first, a middle and the last module (or in those given)."""
    shape = np.array(PATTERNS[name](detector.topology), np.int64)
    chosen = modules if modules is not None else (0, detector.n_modules // 2, detector.n_modules - 1)
    module = np.repeat(np.array(chosen, np.int64), len(shape))
    row, col, adc = (np.tile(shape[:, i], len(chosen)) for i in range(3))
    return pack(detector, module, row, col, adc)


# --- events at random --------------------------------------------------------------------------------------------------------------------


def pack(detector: Detector, module: NDArray[np.int64], row: NDArray[np.int64], col: NDArray[np.int64], adc: NDArray[np.int64]) -> Payload:
    """`pack_event` without the pixels on ROCs that the cabling does not name."""
    t, c = detector.topology, detector.cabling
    connected = np.zeros((detector.n_modules, t.rows // t.chip_rows, t.cols // t.chip_cols), bool)
    on = c.module != NO_MODULE
    connected[c.module[on], c.row0[on] // t.chip_rows, c.col0[on] // t.chip_cols] = True
    ok = connected[module, row // t.chip_rows, col // t.chip_cols]
    return pack_event(detector, module[ok], row[ok], col[ok], adc[ok])


def random_event(detector: Detector, rng: np.random.Generator, *, clusters: int, noise: int) -> Payload:
    """Rectangular clusters of up to 3 x 8 pixels and single pixels in random modules; overlaps (repeated pixels) happen."""
    t = detector.topology
    parts = [
        np.stack(
            [rng.integers(0, detector.n_modules, noise), rng.integers(0, t.rows, noise), rng.integers(0, t.cols, noise),
             rng.integers(0, 256, noise)]
        )
    ]  # fmt: skip
    place = np.stack([rng.integers(0, detector.n_modules, clusters), rng.integers(0, t.rows, clusters), rng.integers(0, t.cols, clusters)])
    extent = np.stack([rng.integers(1, 4, clusters), rng.integers(1, 9, clusters)])
    for d_row in range(3):
        for d_col in range(8):
            p = place[:, (extent[0] > d_row) & (extent[1] > d_col)] + np.array([[0], [d_row], [d_col]])
            p = p[:, (p[1] < t.rows) & (p[2] < t.cols)]
            parts.append(np.concatenate([p, rng.integers(0, 256, (1, p.shape[1]))]))
    module, row, col, adc = np.concatenate(parts, axis=1)
    return pack(detector, module, row, col, adc)


# --- payloads that break the rules -------------------------------------------------------------------------------------------------------


def some_feds(detector: Detector, n: int = 4, clusters: int = 12) -> list[Fed]:
    """The first n FEDs of the cabling with a few clusters each, correct."""
    payload = random_event(detector, np.random.default_rng(7), clusters=clusters * len(detector.cabling.fed_ids), noise=0)
    return disassemble(payload)[:n]


def _poke(fed: Fed, index: int, value: int, *, keep: int = 0) -> Fed:
    """The FED with word `index` (may be negative) replaced by (word & keep) | value."""
    words = list(fed.words)
    words[index] = words[index] & keep | value
    return replace(fed, words=tuple(words))


def _second(change: Callable[[Fed], Fed]) -> Callable[[Detector], Payload]:
    """An event whose second FED is changed."""

    def build(detector: Detector) -> Payload:
        feds = some_feds(detector)
        return assemble([feds[0], change(feds[1]), *feds[2:]])

    return build


def _body(words: Callable[[Detector, int], Iterable[int]]) -> Callable[[Detector], Payload]:
    """An event in which these words stand before and after the good ones of the second FED."""

    def build(detector: Detector) -> Payload:
        feds = some_feds(detector)
        extra = list(words(detector, feds[1].id))
        feds[1] = Fed(feds[1].id, frame(feds[1].id, [*extra, *feds[1].words[2:-2], *extra]))
        return assemble(feds)

    return build


def word(link: int, roc: int, low: int) -> int:
    """A pixel word from its fields; `low` holds bits 20..0."""
    return link << 26 | roc << 21 | low


def _on_every_roc(low: Iterable[int]) -> Callable[[Detector, int], Iterable[int]]:
    lows = list(low)

    def words(detector: Detector, fed: int) -> Iterable[int]:
        c = detector.cabling
        return [word(link, roc, x) for link in range(1, c.links + 1) for roc in range(1, c.rocs + 1) for x in lows]

    return words


def _reheadered(fed: Fed, headers: int, trailers: int) -> Fed:
    return Fed(fed.id, frame(fed.id, fed.words[2:-2], headers=headers, trailers=trailers))


def _wrapping(detector: Detector) -> Payload:
    """Claimed sizes that sum to 2^32: a 32-bit position would come back to the good frames behind them."""
    feds = some_feds(detector)
    return assemble([Fed(5000, (), 0x80000000), Fed(5001, (), 0x80000000), *feds])


def _bad_cable(detector: Detector, fed: int) -> Iterable[int]:
    c = detector.cabling
    index = c.fed_ids.tolist().index(fed)
    return [word(int(k) + 1, int(r) + 1, 0x0A0A50) for k, r in np.argwhere(c.module[index] == NO_MODULE)]


def _noise_words(detector: Detector, fed: int) -> Iterable[int]:
    words: list[int] = np.random.default_rng(fed).integers(0, 1 << 32, 4000).tolist()
    return words


def _noise_bytes(detector: Detector) -> Payload:
    return np.random.default_rng(3).integers(0, 256, 40000).astype(np.uint8)


def _noise_frames(detector: Detector) -> Payload:
    """A sound table over random data."""
    rng = np.random.default_rng(4)
    return assemble([Fed(int(f), tuple(rng.integers(0, 1 << 32, 200).tolist())) for f in detector.cabling.fed_ids])


CORRUPT: dict[str, Callable[[Detector], Payload]] = {
    "empty payload": lambda d: _bytes([]),
    "no FEDs": lambda d: assemble([]),
    "no FEDs, but data": lambda d: assemble([], tail=frame(1)),
    "count beyond 4096": lambda d: assemble(some_feds(d), n_feds=4097, tail=[0] * 10000),
    "count of all ones": lambda d: assemble(some_feds(d), n_feds=0xFFFFFFFF),
    "table beyond the payload": lambda d: assemble([], n_feds=4, tail=[1200, 16, 1201, 16, 1202, 16, 1203]),
    "table ends with the payload": lambda d: assemble([], n_feds=3, tail=[1200, 0, 1201, 16, 1202, 0]),
    "4096 empty FEDs": lambda d: assemble([Fed(k, ()) for k in range(4096)]),
    "4096 FEDs of the largest size": lambda d: assemble([Fed(k, (), 0xFFFFFFF8) for k in range(4096)]),
    "4096 times the same FED": lambda d: assemble([Fed(int(d.cabling.fed_ids[0]), frame(int(d.cabling.fed_ids[0])))] * 4096),
    "payload cut in the last FED": lambda d: assemble(some_feds(d))[:-12],
    "payload cut in the second FED": lambda d: assemble(some_feds(d))[: 4 * (9 + len(some_feds(d)[0].words) + 3)],
    "bytes after the last FED": lambda d: assemble(some_feds(d), tail=[0xFFFFFFFF] * 33),
    "size beyond the payload": _second(lambda f: replace(f, size=4 * len(f.words) + 80000)),
    "size of all ones": _second(lambda f: replace(f, size=0xFFFFFFFF)),
    "size wraps to 0": _second(lambda f: replace(f, size=0xFFFFFFFC)),
    "sizes wrap around": _wrapping,
    "size too large by one word pair": _second(lambda f: replace(f, size=4 * len(f.words) + 8)),
    "size too small by one word pair": _second(lambda f: replace(f, size=4 * len(f.words) - 8)),
    "size not a multiple of 8": _second(lambda f: Fed(f.id, (*f.words, 0))),
    "size not a multiple of 4": _second(lambda f: Fed(f.id, (*f.words, 0), 4 * len(f.words) + 1)),
    "size odd, unknown FED": _second(lambda f: Fed(4094, (*f.words, 0), 4 * len(f.words) + 3)),
    "size 0": _second(lambda f: Fed(f.id, ())),
    "size 8": _second(lambda f: Fed(f.id, f.words[:2])),
    "header and trailer only": _second(lambda f: Fed(f.id, frame(f.id))),
    "unknown FED": _second(lambda f: replace(f, id=4094)),
    "FED id beyond 12 bits": _second(lambda f: replace(f, id=f.id + 4096)),
    "FED id beyond 16 bits": _second(lambda f: replace(f, id=f.id + 65536)),
    "FED id of all ones": _second(lambda f: replace(f, id=0xFFFFFFFF)),
    "FED repeated": lambda d: assemble([*some_feds(d), some_feds(d)[1]]),
    "FED repeated, other data": lambda d: assemble([*some_feds(d), Fed(some_feds(d)[1].id, frame(some_feds(d)[1].id))]),
    "FED repeated three times": lambda d: assemble([f for f in some_feds(d) for _ in range(3)]),
    "FED repeated after an empty one": lambda d: assemble([Fed(some_feds(d)[1].id, ()), *some_feds(d)]),
    "FED repeated before an empty one": lambda d: assemble([*some_feds(d), Fed(some_feds(d)[1].id, ())]),
    "FED repeated after a broken one": lambda d: assemble([_poke(some_feds(d)[1], 1, 0), *some_feds(d)]),
    "FED repeated after one of a bad size": lambda d: assemble([Fed(some_feds(d)[1].id, (0, 0, 0), 12), *some_feds(d)]),
    "unknown FED repeated": lambda d: assemble([Fed(4094, frame(4094)), *some_feds(d), Fed(4094, frame(4094))]),
    "FEDs in reverse order": lambda d: assemble(some_feds(d)[::-1]),
    "header without marker": _second(lambda f: _poke(f, 1, 0x4 << 28, keep=0xFFFFFFF)),
    "trailer without marker": _second(lambda f: _poke(f, -1, 0xB << 28, keep=0xFFFFFFF)),
    "header and trailer swapped": _second(lambda f: Fed(f.id, (*f.words[-2:], *f.words[2:-2], *f.words[:2]))),
    "three headers": _second(lambda f: _reheadered(f, 3, 1)),
    "three trailers": _second(lambda f: _reheadered(f, 1, 3)),
    "four headers, five trailers": _second(lambda f: _reheadered(f, 4, 5)),
    "headers and trailers only": _second(lambda f: Fed(f.id, frame(f.id, headers=9, trailers=7))),
    "second header without marker": _second(lambda f: _poke(_reheadered(f, 3, 1), 3, 0)),
    "last header announces another": _second(lambda f: _poke(f, 0, MORE, keep=0xFFFFFFFF)),
    "headers without end": _second(lambda f: Fed(f.id, (f.id << 8 | MORE, HEADER_MARK) * 40)),
    "trailers without end": _second(lambda f: Fed(f.id, (MORE, TRAILER_MARK) * 40)),
    "headers up to the trailer": _second(lambda f: Fed(f.id, (*((f.id << 8 | MORE, HEADER_MARK) * 9), 0, TRAILER_MARK))),
    "first trailer announces another": _second(lambda f: _poke(f, -2, MORE, keep=0xFFFFFFFF)),
    "inner trailer without marker": _second(lambda f: _poke(_reheadered(f, 1, 3), -3, 0)),
    "CRC modified": _second(lambda f: _poke(f, -2, CRC_MODIFIED, keep=0xFFFFFFFF)),
    "CRC modified in an inner trailer": _second(lambda f: _poke(_reheadered(f, 1, 2), -4, CRC_MODIFIED, keep=0xFFFFFFFF)),
    "CRC modified and header broken": _second(lambda f: _poke(_poke(f, -2, CRC_MODIFIED), 1, 0)),
    "other id in the header": _second(lambda f: _poke(f, 0, 0xABC00, keep=0xFFF000FF)),
    "other id in the second header": _second(lambda f: _poke(_reheadered(f, 2, 1), 2, 0xABC00, keep=0xFFF000FF)),
    "other id and trailer broken": _second(lambda f: _poke(_poke(f, 0, 0xABC00), -1, 0)),
    "other length in the trailer": _second(lambda f: _poke(f, -1, TRAILER_MARK | 0xFFFFFF)),
    "every other bit of header and trailer": _second(
        lambda f: _poke(_poke(_poke(_poke(f, 0, 0xFFF000F7, keep=0xFFFFFFFF), 1, 0x5FFFFFFF), -2, 0xFFFFFFF3), -1, 0xAFFFFFFF)
    ),
    "padding": _body(lambda d, f: [0] * 501),
    "error words": _body(lambda d, f: [word(link, roc, 0x1FFFFF) for roc in range(25, 32) for link in (0, 1, 63)]),
    "links that do not exist": _body(lambda d, f: [word(link, 1, 0x0A0A50) for link in (0, *range(d.cabling.links + 1, 64))]),
    "ROCs that do not exist": _body(lambda d, f: [word(1, roc, 0x0A0A50) for roc in (0, *range(d.cabling.rocs + 1, 25))]),
    "ROC 0 and ADC only": _body(lambda d, f: [255]),
    "ROCs that are not connected": _body(_bad_cable),
    "coordinates outside": _body(_on_every_roc([0x1A0A50, 0x1F0A50, 0x0A0050, 0x0A0150, 0x0AA250, 0x0AFF50, 0x1FFFFF, 0x0000FF])),
    "all coordinates of a link": _body(lambda d, f: [word(1, 1 + k % d.cabling.rocs, k << 8 | k % 251) for k in range(1 << 13)]),
    "random words": _body(_noise_words),
    "random frames": _noise_frames,
    "random bytes": _noise_bytes,
}


def rejected_words(detector: Detector) -> list[int]:
    """Words that are nobody's pixel, whatever the FED: padding, error words, bad links and ROCs."""
    c = detector.cabling
    return [0, word(1, 25, 0), word(3, 31, 0x1FFFFF), word(0, 1, 0x0A0A50), word(c.links + 1, 1, 0x0A0A50), word(1, c.rocs + 1, 0x0A0A50)]


def scattered_event(detector: Detector, rng: np.random.Generator) -> Payload:
    """Modules whose words are not contiguous: words of a FED in random order with words of no module in between."""
    payload = random_event(detector, rng, clusters=4 * detector.n_modules, noise=detector.n_modules)
    feds = []
    junk = np.array(rejected_words(detector), np.int64)
    for fed in disassemble(payload):
        body = np.concatenate([np.array(fed.words[2:-2], np.int64), rng.choice(junk, 6)])
        feds.append(Fed(fed.id, frame(fed.id, rng.permutation(body).tolist())))
    return assemble([feds[i] for i in rng.permutation(len(feds))])


def first_chip(detector: Detector, module: int) -> tuple[int, int, int]:
    """(FED id, link, ROC) that reads pixel (0, 0) of a module."""
    chip = locate(detector, [module], [0], [0])
    return int(chip.fed[0]), int(chip.link[0]), int(chip.roc[0])
