"""What the reconstruction says about one event: the row that travels from device to ledger to client."""

from __future__ import annotations

import re
from enum import IntFlag
from typing import Any

import numpy as np

from hltfarm.proto.errors import LayoutError


class EventFlag(IntFlag):
    """Conditions of one event that did not stop its reconstruction; the outcome stays deterministic."""

    FED_REJECTED = 1 << 0  # at least one FED broke the format and was left out
    WORD_REJECTED = 1 << 1  # at least one pixel word was invalid (bad link, ROC, coordinate)
    FED_ERROR_WORD = 1 << 2  # the readout itself reported an error (ROC field 25..31)
    PAYLOAD_MALFORMED = 1 << 3  # the FED table did not fit the payload
    DUPLICATE_PIXEL = 1 << 4  # a pixel was read out more than once; the charges were added
    HIT_OVERFLOW = 1 << 8  # more clusters than the configured maximum; the last ones (by module, cluster) were left out
    DOUBLET_OVERFLOW = 1 << 9
    TRACK_OVERFLOW = 1 << 10
    VERTEX_OVERFLOW = 1 << 11
    COLUMNS_LEFT_OUT = 1 << 30  # set by the ingest in its reply: columns were asked for and this decision comes without them
    UNPROCESSED = 1 << 31  # force-accepted to the error stream without a reconstruction


OVERFLOW_FLAGS = EventFlag.HIT_OVERFLOW | EventFlag.DOUBLET_OVERFLOW | EventFlag.TRACK_OVERFLOW | EventFlag.VERTEX_OVERFLOW

#: One row per event. Counts are per event; `path_bits` are the accepts after prescale, `path_raw` before it.
#: `tracks` are loose or better, `tracks_high_purity` those that the selector promoted. The next three and `leading_pt` (GeV) count selected
#: tracks (high-purity ones; loose ones without a selector) as SelectionConfig says: off the beam line, hard, and the sum of their pt.
#: `best_*` are of the hardest vertex: tracks, sums of pt (GeV) and pt^2 (GeV^2), z (cm, relative to the beam spot); `second_sum_pt2` of the
#: next one; 0 where there is none. `vertex_ht` (GeV) and `vertex_pt2` (GeV^2): the largest sums over the vertices of pt and of pt^2 of the
#: selected tracks near them, triplets too, hard tracks counting as 20 GeV (docs/reconstruction.md). `event_score`: of the event classifier,
#: 0 without one.
RESULT = np.dtype(
    [
        ("digest", "<u8"),
        ("path_bits", "<u8"),
        ("path_raw", "<u8"),
        ("flags", "<u4"),
        ("accept", "<u4"),
        ("modules", "<u4"),
        ("digis", "<u4"),
        ("pixels", "<u4"),
        ("clusters", "<u4"),
        ("hits", "<u4"),
        ("doublets", "<u4"),
        ("ntuplets", "<u4"),
        ("tracks", "<u4"),
        ("tracks_high_purity", "<u4"),
        ("vertices", "<u4"),
        ("fed_errors", "<u4"),
        ("word_errors", "<u4"),
        ("displaced_tracks", "<u4"),
        ("hard_tracks", "<u4"),
        ("best_tracks", "<u4"),
        ("leading_pt", "<f4"),
        ("sum_pt", "<f4"),
        ("best_sum_pt", "<f4"),
        ("best_sum_pt2", "<f4"),
        ("second_sum_pt2", "<f4"),
        ("best_z", "<f4"),
        ("vertex_ht", "<f4"),
        ("vertex_pt2", "<f4"),
        ("event_score", "<f4"),
    ]
)

#: What an output stream keeps of a decision: the menu's hash and the number of the models that made it, and its result.
OUTPUT_DECISION = np.dtype([("menu", "<u8"), ("models", "<u8"), *((name, RESULT[name].str) for name in RESULT.names or ())])
_SCALAR = re.compile(r"\|[ui]1|<[ui][248]|<f[48]")
_MOST_FIELDS = 1024


def layout_fields(dtype: np.dtype[Any]) -> list[list[str]]:
    """Fields of a packed record as JSON has them: name and type of each, in their order."""
    return [[name, dtype[name].str] for name in dtype.names or ()]


def layout_dtype(fields: Any) -> np.dtype[np.void]:
    """The record that `layout_fields` described, which may be of another version. Raises LayoutError for anything else."""
    if not isinstance(fields, list) or not 0 < len(fields) <= _MOST_FIELDS:
        raise LayoutError(f"a list of 1 to {_MOST_FIELDS} fields is needed, not {str(fields)[:40]}")
    for field in fields:
        texts = isinstance(field, list) and len(field) == 2 and all(isinstance(part, str) for part in field)
        if not texts or not _SCALAR.fullmatch(field[1]):
            raise LayoutError(f"{str(field)[:40]} is no name with the type of a number")
    try:
        return np.dtype([(name, code) for name, code in fields])
    except (ValueError, TypeError) as error:
        raise LayoutError(f"they are no record: {error}") from None
