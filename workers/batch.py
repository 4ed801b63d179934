"""The structures every stage shares: the batch as the host describes it, its raw words, and the result table."""

from __future__ import annotations

import numpy as np

from hltfarm.proto.results import RESULT, RESULT_COLUMNS
from hltfarm.proto.soa import Column, Schema

BATCH = Schema(
    "Batch",
    "A batch of events; written by the host, one entry per event",
    (
        Column("n_events", "u4", "events in the batch", scalar=True),
        Column("n_frames", "u4", "events x FEDs of the detector", scalar=True),
        Column("n_modules", "u4", "events x modules of the detector", scalar=True),
        Column("n_module_groups", "u4", "groups of 32 of them", scalar=True),
        Column("n_vertex_shares", "u4", "events x 16, the warps that share the vertices of an event", scalar=True),
        Column("n_layers", "u4", "events x layers of the detector", scalar=True),
        Column("n_hits", "u4", "hits of the batch; written by the hits stage", scalar=True),
        Column("n_hit_groups", "u4", "groups of 32 hits; written by the hits stage", scalar=True),
        Column("n_cells", "u4", "cells of the batch; written by the cells stage", scalar=True),
        Column("n_cell_groups", "u4", "groups of 32 cells; written by the cells stage", scalar=True),
        Column("n_link_groups", "u4", "groups of 512 cells; written by the cells stage", scalar=True),
        Column("n_cell_blocks", "u4", "blocks of 32 groups of cells; written by the cells stage", scalar=True),
        Column("n_cell_chunks", "u4", "chunks of 4096 cells; written by the cells stage", scalar=True),
        Column("n_used", "u4", "used cells of the batch; written by the tracks stage", scalar=True),
        Column("n_used_groups", "u4", "groups of 32 used cells; written by the tracks stage", scalar=True),
        Column("n_used_chunks", "u4", "chunks of 1024 used cells; written by the tracks stage", scalar=True),
        Column("n_tracks", "u4", "tracks of the batch; written by the tracks stage", scalar=True),
        Column("n_fit_groups", "u4", "groups of 256 tracks; written by the tracks stage", scalar=True),
        Column("n_selected", "u4", "tracks for the selector; written by the dnn stage", scalar=True),
        Column("one", "u4", "1, the item count of kernels that run once", scalar=True),
        Column("payload_begin", "u4", "first word of the payload in Raw"),
        Column("payload_words", "u4", "length of the payload", unit="32-bit words"),
        Column("run", "u4", "run number"),
        Column("event", "u8", "event number"),
    ),
)

RAW = Schema("Raw", "Payloads of the batch, one after the other", (Column("word", "u4", "payload word"),))

RESULTS = Schema(
    "Results",
    "The result table, one entry per event; the only part that always returns to the host",
    RESULT_COLUMNS,
)

EVENTS = Schema(
    "Events",
    "Bookkeeping per event; one entry more than events",
    (
        Column("hit_offset", "u4", "first hit of the event in Hits; the entry after the last event is the total"),
        Column("cell_offset", "u4", "first cell of the event in Cells, as above"),
        Column("used", "u4", "used cells of the event"),
        Column("used_offset", "u4", "first used cell of the event in UsedCells, as above"),
        Column("used_base", "u8", "used cells of the events before, beyond capacities too"),
        Column("track_base", "u8", "track candidates of the events before, likewise"),
        Column("track_offset", "u4", "first track of the event in Tracks, as above"),
        Column("selected", "u4", "tracks of the event that the selector scores"),
        Column("selected_offset", "u4", "first of them in Selected, as above"),
        Column("vertex_tracks", "u4", "tracks of the event that vertices are made of"),
        Column("sum_pt", "u8", "sum of pt of selected tracks", unit="GeV / 1024"),
        Column("digest", "u8", "order-free sum over the hashes of digis, hits, tracks and vertices"),
    ),
)


COLUMNS: tuple[tuple[Schema, str], ...] = ((BATCH, "events"), (RAW, "words"), (RESULTS, "events"), (EVENTS, "event_edges"))


def result_rows(results: object, n: int) -> np.ndarray:
    """The first n entries of a host copy of Results as an array of RESULT rows."""
    rows = np.empty(n, RESULT)
    for name in RESULT.names or ():
        rows[name] = getattr(results, name)[:n]
    return rows
