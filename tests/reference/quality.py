"""Which of the fitted tracks are good: cuts, then the removal of duplicates by shared cells and by shared hits.

All numbers are the float32 values of the fit. Ties of |tip| go to the track with the smaller number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.workers.configuration import FitConfig
from tests.reference.tracks import Candidate

BAD, DUPLICATE, LOOSE, HIGH_PURITY = 0, 1, 2, 3
Columns = dict[str, NDArray[Any]]
f32 = np.float32


def is_loose(n_hits: int, tip: np.float32, variance: np.float32, z: np.float32, pt: np.float32, chi2: np.float32, c: FitConfig) -> bool:
    """The cuts on one track; a chi square that is not a number fails. `variance` is that of tip."""
    triplet = n_hits == 3
    p = min(pt, f32(c.chi2_max_pt_gev))
    c0, c1, c2, c3 = (f32(x) for x in c.chi2_coefficients)
    scale = c.triplet_chi2_scale if triplet else c.chi2_scale
    if not chi2 < f32(scale) * (c0 + p * (c1 + p * (c2 + p * c3))):
        return False
    if triplet and tip * tip > f32(c.triplet_max_significance**2) * variance:
        return False
    max_tip, min_pt = (c.triplet_max_tip_cm, c.triplet_min_pt_gev) if triplet else (c.max_tip_cm, c.min_pt_gev)
    return bool(abs(tip) < f32(max_tip) and pt > f32(min_pt) and abs(z) < f32(c.max_zip_cm))


def qualities(candidates: Sequence[Candidate], fitted: Columns, config: FitConfig) -> list[int]:
    """Quality of each fitted candidate (`fitted` has tip, zip, pt, chi2 and cov of each)."""
    tip = [abs(v) for v in fitted["tip"]]
    quality = [
        LOOSE if is_loose(len(c.hits), *values, config) else BAD
        for c, *values in zip(candidates, fitted["tip"], fitted["cov"][:, 5], fitted["zip"], fitted["pt"], fitted["chi2"], strict=True)
    ]

    def loose() -> list[int]:
        return [t for t, q in enumerate(quality) if q == LOOSE]

    best: dict[int, int] = {}  # by cell
    for t in loose():
        for cell in candidates[t].cells:
            if cell not in best or tip[t] < tip[best[cell]]:
                best[cell] = t
    for t in loose():
        if any(best[cell] != t for cell in candidates[t].cells):
            quality[t] = DUPLICATE

    longest: dict[int, int] = {}  # by hit
    for t in loose():
        for hit in candidates[t].hits:
            longest[hit] = max(longest.get(hit, 0), len(candidates[t].hits))
    best = {}  # by hit
    for t in loose():
        for hit in candidates[t].hits:
            if longest[hit] == 3 and (hit not in best or tip[t] < tip[best[hit]]):
                best[hit] = t
    for t in loose():
        n = len(candidates[t].hits)
        if any(longest[hit] > n or (longest[hit] == 3 and best[hit] != t) for hit in candidates[t].hits):
            quality[t] = DUPLICATE
    return quality
