"""Tracks: chains of cells that share hits and point the same way (a cellular automaton), before the fit.

Cells are linked to the cells that continue them; cells that duplicate a shorter one are removed; every path from a starting cell to
an end becomes a track candidate (ntuplet); candidates that share a cell with a longer one are marked as duplicates.
"""

from hltfarm.proto.soa import Column, Params, Schema
from hltfarm.workers.kernel import Kernel, Stage

#: Most hits of a track that the memory layout provides for; `max_track_hits` of a configuration is at most this.
MAX_TRACK_HITS = 6

TRACK_CUTS = Params(
    "TrackCuts",
    "Cuts and capacities of the track finding",
    (
        Column("pt_min", "f4", "momentum for which the alignment cut allows for scattering", unit="GeV"),
        Column("max_curvature", "f4", "largest curvature of a triplet", unit="1/cm"),
        Column("cut_both_charges", "u4", "0: only positive curvatures are cut, as the reference program does"),
        Column("min_alignment2", "f4", "cells on one outer hit with at least this cos^2 are duplicates of the shortest"),
        Column("min_track_hits", "u4", "hits of a track at least"),
        Column("max_track_hits", "u4", "hits of a track at most; longer paths end there"),
        Column("used_cells_per_word", "u4", "capacity: cells of an event that take part in a triplet per word of its payload"),
        Column("tracks_per_word", "u4", "capacity: tracks of an event per word of its payload"),
        Column("max_steps", "u4", "cells that the search from one starting cell visits at most"),
        Column("link_scratch", "u4", "team memory of the linking", unit="bytes"),
    ),
)

CELL_LINKS = Schema(
    "CellLinks",
    "One entry per cell; written for cells that have links only",
    (Column("mask", "u8", "bit k: one of the k-th 1, 2, 4, ... cells that start at the outer hit continues this one"),),
)

CELL_CHUNKS = Schema(
    "CellChunks",
    "What comes before, and one entry more for the total: per 4096 cells, per 1024 used cells",
    (
        Column("used", "u8", "used cells before the chunk of cells"),
        Column("tracks", "u8", "track candidates before the chunk of used cells"),
    ),
)

USED_CELLS = Schema(
    "UsedCells",
    "Cells that take part in a triplet, in the order of Cells",
    (
        Column("inner", "u4", "inner hit, as sorted"),
        Column("outer", "u4", "outer hit, as sorted"),
        Column("event", "u4", "event in the batch"),
        Column("first_next", "u4", "first of the used cells that start at the outer hit"),
        Column("n_next", "u4", "number of them; 0 if none continues this cell"),
        Column("mask", "u8", "bit k: one of the k-th 1, 2, 4, ... of them continues this cell"),
        Column("state", "u4", "bits: may begin a track, killed as a duplicate"),
        Column("tracks", "u4", "track candidates that start here"),
        Column("track_place", "u4", "candidates of the used cells of its chunk before it"),
        Column("longest", "u4", "hits of the longest track candidate through the cell"),
        Column("best", "u8", "least (|tip|, track) of the loose tracks through the cell"),
    ),
)

HIT_USES = Schema(
    "HitUses",
    "One entry per hit",
    (
        Column("longest", "u4", "hits of the longest loose track through the hit"),
        Column("loose", "u4", "loose tracks through the hit, duplicates left out"),
        Column("best", "u8", "least (|tip|, track) of the loose tracks through the hit"),
    ),
)

ENDINGS = Schema(
    "Endings",
    "One entry per sorted hit",
    (
        Column("n", "u4", "used cells that end at the hit"),
        Column("first", "u4", "first of them in EndingCells"),
        Column("cursor", "u4", "next free entry while the list is filled"),
    ),
)

ENDING_CELLS = Schema(
    "EndingCells", "Used cells grouped by outer hit, in arbitrary order within a group", (Column("cell", "u4", "used cell"),)
)

TRACKS = Schema(
    "Tracks",
    "Track candidates of the batch, ordered by starting cell and path; kinematics as in docs/reconstruction.md",
    (
        Column("event", "u4", "event in the batch"),
        Column("n_hits", "u4", "number of hits"),
        Column("hit", "u4", "hits from the inside out", shape=(MAX_TRACK_HITS,)),
        Column("cell", "u4", "cells from the inside out", shape=(MAX_TRACK_HITS - 1,)),
        Column("quality", "u4", "0 bad, 1 duplicate, 2 loose, 3 high purity"),
        Column("pt", "f4", "transverse momentum", unit="GeV"),
        Column("eta", "f4", "pseudorapidity"),
        Column("phi", "f4", "azimuth of the direction at the point of closest approach (PCA) to the beam line"),
        Column("tip", "f4", "transverse impact parameter, positive if the PCA is right of the direction", unit="cm"),
        Column("qpt", "f4", "charge over transverse momentum", unit="1/GeV"),
        Column("cot", "f4", "cotangent of the polar angle"),
        Column("zip", "f4", "z at the PCA", unit="cm"),
        Column("chi2", "f4", "chi square per degree of freedom"),
        Column("score", "f4", "selector's score; 0 without one"),
        Column("cov", "f4", "covariance of (phi, tip, qpt, cot, zip), upper triangle by rows", shape=(15,)),
    ),
)

STAGE = Stage(
    "tracks",
    columns=(
        (CELL_LINKS, "cells"),
        (CELL_CHUNKS, "cell_chunks"),
        (USED_CELLS, "used_cells"),
        (HIT_USES, "hits"),
        (ENDINGS, "hits"),
        (ENDING_CELLS, "used_cells"),
        (TRACKS, "tracks"),
    ),
    params=(TRACK_CUTS,),
    steps=(
        Kernel("clear_hits", "Batch.n_hits", ("HitUses", "Endings")),
        Kernel(
            "link_cells",
            "Batch.n_link_groups",
            ("Layers", "TrackCuts", "Batch", "HitPoints", "HitCells", "Cells", "CellBits", "CellLinks"),
            team=32,
            scratch="TrackCuts.link_scratch",
        ),
        Kernel("number_used", "Batch.n_cell_chunks", ("Batch", "CellBits", "CellChunks"), team=128),
        Kernel("place_used", "Batch.one", ("TrackCuts", "Batch", "Events", "CellBits", "CellChunks", "Results"), team=1024),
        Kernel(
            "write_used",
            "Batch.n_cell_blocks",
            (
                *("Layers", "LayerPairs", "TrackCuts", "Batch", "Events", "HitPoints", "HitCells", "Cells", "CellBits", "CellLinks"),
                *("CellChunks", "UsedCells", "Endings"),
            ),
            team=32,
        ),
        Kernel("number_uses", "Batch.n_events", ("Events", "Endings"), team=512),
        Kernel("group_uses", "Batch.n_used", ("UsedCells", "Endings", "EndingCells")),
        Kernel("kill_duplicate_cells", "Batch.n_used", ("TrackCuts", "SortedHits", "HitPoints", "UsedCells", "Endings", "EndingCells")),
        Kernel(
            "count_tracks",
            "Batch.n_used",
            ("Layers", "TrackCuts", "HitPoints", "HitCells", "UsedCells", "CellChunks", "Results"),
        ),
        Kernel("number_tracks", "Batch.n_used_chunks", ("Batch", "UsedCells"), team=256),
        Kernel("place_tracks", "Batch.one", ("TrackCuts", "Batch", "Events", "UsedCells", "CellChunks", "FitQueue", "Results"), team=1024),
        Kernel(
            "fill_tracks",
            "Batch.n_used_groups",
            ("Layers", "TrackCuts", "Batch", "Events", "SortedHits", "HitPoints", "HitCells", "UsedCells", "CellChunks", "Tracks"),
            team=32,
        ),
        Kernel("drop_shorter_tracks", "Batch.n_tracks", ("UsedCells", "Tracks")),
    ),
)
