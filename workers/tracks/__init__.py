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
        Column("links_per_word", "u4", "capacity: links of an event per word of its payload"),
        Column("tracks_per_word", "u4", "capacity: tracks of an event per word of its payload"),
        Column("max_steps", "u4", "cells that the search from one starting cell visits at most"),
    ),
)

CELL_STATES = Schema(
    "CellStates",
    "One entry per cell",
    (
        Column("event", "u4", "event in the batch"),
        Column("mask", "u8", "bit k: the k-th cell that starts at the outer hit continues this one (the first 64)"),
        Column("links", "u4", "number of cells that continue this one"),
        Column("link_place", "u4", "links of the cells of its chunk before it"),
        Column("first_link", "u4", "first of them in Links"),
        Column("state", "u4", "bits: used in a triplet, killed as a duplicate"),
        Column("tracks", "u4", "track candidates that start here"),
        Column("track_place", "u4", "candidates of the cells of its chunk before it"),
        Column("longest", "u4", "hits of the longest track candidate through the cell"),
        Column("best", "u8", "least (|tip|, track) of the loose tracks through the cell"),
    ),
)

LINKS = Schema("Links", "Continuing cells, by cell", (Column("cell", "u4", "cell that continues"),))

CHUNKS = Schema(
    "Chunks",
    "One entry per 1024 cells of the batch, and one for the total: what comes before it",
    (Column("links", "u8", "links"), Column("tracks", "u8", "track candidates")),
)

START_CELLS = Schema(
    "StartCells",
    "Cells that start track candidates, in arbitrary order",
    (Column("n", "u4", "number of them", scalar=True), Column("cell", "u4", "cell")),
)

HIT_POINTS = Schema(
    "HitPoints",
    "Four entries per hit, read together: x, y, z, r as in Hits",
    (Column("value", "f4", "position", unit="cm"),),
)

HIT_USES = Schema(
    "HitUses",
    "One entry per hit",
    (
        Column("cells", "u4", "used cells that end at the hit"),
        Column("first", "u4", "first of them in UsedCells"),
        Column("cursor", "u4", "next free entry while the list is filled"),
        Column("longest", "u4", "hits of the longest loose track through the hit"),
        Column("loose", "u4", "loose tracks through the hit, duplicates left out"),
        Column("best", "u8", "least (|tip|, track) of the loose tracks through the hit"),
    ),
)

USED_CELLS = Schema("UsedCells", "Used cells grouped by outer hit, in arbitrary order within a group", (Column("cell", "u4", "cell"),))

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
        (CELL_STATES, "cells"),
        (CHUNKS, "cell_chunks"),
        (START_CELLS, "cells"),
        (HIT_POINTS, "hit_values"),
        (LINKS, "links"),
        (HIT_USES, "hits"),
        (USED_CELLS, "cells"),
        (TRACKS, "tracks"),
    ),
    params=(TRACK_CUTS,),
    steps=(
        Kernel("clear_hits", "Batch.n_hits", ("Hits", "HitUses", "HitPoints")),
        Kernel("clear_cells", "Batch.n_cells", ("HitCells", "Cells", "CellStates", "Chunks")),
        Kernel("link_cells", "Batch.n_cells", ("Layers", "TrackCuts", "HitPoints", "HitCells", "Cells", "CellStates", "Chunks")),
        Kernel("scan_links", "Batch.one", ("Batch", "Chunks"), team=1024),
        Kernel("number_links", "Batch.n_chunks", ("Batch", "CellStates"), team=256),
        Kernel("place_links", "Batch.one", ("TrackCuts", "Batch", "Events", "CellStates", "Chunks", "StartCells", "Results"), team=128),
        Kernel(
            "fill_links",
            "Batch.n_cells",
            (
                *("Layers", "TrackCuts", "Batch", "Events", "HitPoints", "HitCells", "Cells", "CellStates", "Chunks"),
                *("Links", "HitUses"),
            ),
        ),
        Kernel("number_uses", "Batch.n_events", ("Events", "HitUses"), team=512),
        Kernel("group_uses", "Batch.n_cells", ("Cells", "CellStates", "HitUses", "UsedCells")),
        Kernel("kill_duplicate_cells", "Batch.n_cells", ("TrackCuts", "Hits", "HitPoints", "Cells", "CellStates", "HitUses", "UsedCells")),
        Kernel(
            "count_tracks",
            "Batch.n_cells",
            ("LayerPairs", "TrackCuts", "Cells", "CellStates", "Links", "Chunks", "StartCells", "Results"),
        ),
        Kernel("scan_tracks", "Batch.one", ("Batch", "Chunks"), team=1024),
        Kernel("number_tracks", "Batch.n_chunks", ("Batch", "CellStates"), team=256),
        Kernel("place_tracks", "Batch.one", ("TrackCuts", "Batch", "Events", "CellStates", "Chunks", "FitQueue", "Results"), team=128),
        Kernel(
            "fill_tracks",
            "StartCells.n",
            ("TrackCuts", "Batch", "Events", "Cells", "CellStates", "Links", "Chunks", "StartCells", "Tracks"),
        ),
        Kernel("drop_shorter_tracks", "Batch.n_tracks", ("CellStates", "Tracks")),
    ),
)
