"""What the reconstruction says about one event: the row that travels from device to ledger to client."""

from __future__ import annotations

import re
from enum import IntFlag
from typing import Any

import numpy as np

from hltfarm.proto.errors import LayoutError
from hltfarm.proto.soa import Column


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

#: The columns of a result, one row per event. Counts are per event. Selected tracks are those of high purity, or loose ones without a
#: selector; what counts as hard or displaced is in SelectionConfig, the rest in docs/reconstruction.md.
RESULT_COLUMNS = (
    Column("digest", "<u8", "digest of the reconstructed event: the same bits give the same number"),
    Column("path_bits", "<u8", "accepting paths of the menu after prescale, bit i is path i"),
    Column("path_raw", "<u8", "the same before prescale"),
    Column("flags", "<u4", "conditions that did not stop the reconstruction (EventFlag)"),
    Column("accept", "<u4", "1: accepted"),
    Column("modules", "<u4", "modules with pixels"),
    Column("digis", "<u4", "distinct pixels"),
    Column("pixels", "<u4", "valid pixel words"),
    Column("clusters", "<u4", "clusters above the charge cut"),
    Column("hits", "<u4", "hits"),
    Column("doublets", "<u4", "cells: pairs of hits on two layers"),
    Column("ntuplets", "<u4", "track candidates"),
    Column("tracks", "<u4", "loose tracks or better"),
    Column("tracks_high_purity", "<u4", "tracks that the selector promoted"),
    Column("vertices", "<u4", "vertices"),
    Column("fed_errors", "<u4", "faults of FED frames"),
    Column("word_errors", "<u4", "pixel words that were left out"),
    Column("displaced_tracks", "<u4", "selected tracks off the beam line"),
    Column("hard_tracks", "<u4", "hard selected tracks"),
    Column("best_tracks", "<u4", "tracks of the hardest vertex"),
    Column("leading_pt", "<f4", "largest pt of the selected tracks", unit="GeV"),
    Column("sum_pt", "<f4", "sum of pt of the selected tracks", unit="GeV"),
    Column("best_sum_pt", "<f4", "sum of pt of the hardest vertex", unit="GeV"),
    Column("best_sum_pt2", "<f4", "sum of pt^2 of the hardest vertex", unit="GeV^2"),
    Column("second_sum_pt2", "<f4", "sum of pt^2 of the second vertex, 0 without one", unit="GeV^2"),
    Column("best_z", "<f4", "z of the hardest vertex relative to the beam spot", unit="cm"),
    Column("vertex_ht", "<f4", "largest sum of pt of selected tracks near a vertex; a hard track counts as 20 GeV", unit="GeV"),
    Column("vertex_pt2", "<f4", "largest sum of pt^2 of selected tracks near a vertex; a hard track counts as 20 GeV", unit="GeV^2"),
    Column("event_score", "<f4", "score of the event classifier, 0 without one"),
)
RESULT = np.dtype([(column.name, column.type.str) for column in RESULT_COLUMNS])

#: What an output stream adds to the result: what made the decision.
DECIDER_COLUMNS = (
    Column("menu", "<u8", "hash of the menu that decided"),
    Column("models", "<u8", "number of the models that decided (models_id), 0 without one"),
)
#: What an output stream keeps of a decision: the menu's hash and the number of the models that made it, and its result.
OUTPUT_DECISION = np.dtype([(column.name, column.type.str) for column in (*DECIDER_COLUMNS, *RESULT_COLUMNS)])
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
