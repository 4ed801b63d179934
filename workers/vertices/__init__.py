"""Vertices: clusters of tracks along the beam line, by density.

Each track points to its nearest neighbour with more neighbours; the roots of these trees are vertices. They are fitted, split where
two fit better, and ordered by the sum of squared transverse momenta: vertex 0 is the hardest.
"""

from hltfarm.proto.soa import Column, Params, Schema
from hltfarm.workers.kernel import Kernel, Stage

Z_BINS = 512
#: Warps that share the vertices of an event: as in vertices.cuh.
VERTEX_SHARES = 16

VERTEX_CUTS = Params(
    "VertexCuts",
    "Selection of tracks, clustering, fit and splitting of vertices",
    (
        Column("min_hits", "u4", "hits of the tracks at least"),
        Column("min_pt", "f4", "transverse momentum of the tracks at least", unit="GeV"),
        Column("eps", "f4", "neighbours are at most so far apart along the beam line", unit="cm"),
        Column("max_error2", "f4", "only tracks with a smaller variance of z count their neighbours", unit="cm^2"),
        Column("max_chi2", "f4", "neighbours have dz^2 of at most so many variances"),
        Column("min_neighbours", "u4", "neighbours of the track at a vertex's root, at least"),
        Column("outlier", "f4", "tracks with a larger chi2 to their vertex leave it before it is split"),
        Column("final_outlier", "f4", "and after that"),
        Column("split_min_ndof", "u4", "degrees of freedom of a vertex that may be split, at least"),
        Column("split_chi2", "f4", "chi2 per degree of freedom from which on a split is tried"),
        Column("split_distance2", "f4", "squared distance of both halves in variances, at least"),
        Column("split_rounds", "u4", "rounds of the two-means at most"),
        Column("near_cm", "f4", "selected tracks belong to the nearest vertex within this distance", unit="cm"),
        Column("near_errors", "f4", "and so many errors of their z besides"),
        Column("ht_min_pt", "f4", "least pt of tracks in the sum of pt", unit="GeV"),
        Column("near_max_pt", "f4", "a harder track counts as this much", unit="GeV"),
        Column("sort_scratch", "u4", "team memory of the sort", unit="bytes"),
    ),
)

VERTEX_TRACKS = Schema(
    "VertexTracks",
    "Tracks that take part, in their order; an event starts at Events.track_offset",
    (
        Column("track", "u4", "track"),
        Column("z", "f4", "z at the beam line", unit="cm"),
        Column("error2", "f4", "variance of z", unit="cm^2"),
        Column("pt", "f4", "transverse momentum", unit="GeV"),
        Column("neighbours", "u4", "neighbours, 0 for imprecise tracks"),
        Column("parent", "u4", "place of the track it points to; itself for a root"),
        Column("vertex", "u4", "vertex in the order of roots, NONE if noise or an outlier"),
        Column("half", "u4", "half of the vertex that the track is in"),
        Column("member", "u4", "places by vertex, in their order"),
        Column("sorted", "u4", "places by bin of z, in arbitrary order within one"),
    ),
)

VERTICES = Schema(
    "Vertices",
    "Vertices of the batch; an event starts at Events.track_offset. The first columns are in the order of roots, the last ones sorted",
    (
        Column("fit_z", "f8", "position", unit="cm"),
        Column("fit_weight", "f8", "inverse variance", unit="1/cm^2"),
        Column("fit_chi2", "f8", "chi square"),
        Column("fit_ndof", "i4", "degrees of freedom"),
        Column("members", "u4", "tracks that led to its root"),
        Column("first_member", "u4", "first of them in VertexTracks.member"),
        Column("split", "u4", "1: the second half becomes a vertex of its own"),
        Column("fit_sum_pt", "f8", "sum of transverse momenta", unit="GeV"),
        Column("fit_sum_pt2", "f8", "sum of squared transverse momenta", unit="GeV^2"),
        Column("z", "f4", "position relative to the beam spot", unit="cm"),
        Column("error", "f4", "its error, scaled by the chi square", unit="cm"),
        Column("chi2", "f4", "chi square"),
        Column("ndof", "i4", "degrees of freedom: tracks - 1"),
        Column("sum_pt2", "f4", "sum of squared transverse momenta; descending", unit="GeV^2"),
        Column("ht", "u8", "sum of pt of the selected tracks near it", unit="GeV / 1024"),
        Column("pt2", "u8", "sum of their pt^2", unit="GeV^2 / 1024"),
    ),
)

STAGE = Stage(
    "vertices",
    columns=((VERTEX_TRACKS, "tracks"), (VERTICES, "tracks")),
    params=(VERTEX_CUTS,),
    steps=(
        Kernel(
            "find_vertices",
            "Batch.n_events",
            ("Selection", "VertexCuts", "Events", "Tracks", "VertexTracks", "Vertices", "Results"),
            team=256,
            scratch="VertexCuts.sort_scratch",
        ),
        Kernel("fit_vertices", "Batch.n_vertex_shares", ("VertexCuts", "Events", "VertexTracks", "Vertices", "Results"), team=32),
        Kernel("split_vertices", "Batch.n_events", ("Events", "VertexTracks", "Vertices", "Results"), team=64),
        Kernel("refit_vertices", "Batch.n_vertex_shares", ("VertexCuts", "Events", "VertexTracks", "Vertices", "Results"), team=32),
        Kernel("order_vertices", "Batch.n_events", ("Events", "Vertices", "Results"), team=64),
        Kernel("assign_tracks", "Batch.n_tracks", ("Selection", "VertexCuts", "Events", "Tracks", "Vertices", "Results")),
        Kernel("sum_vertices", "Batch.n_events", ("Events", "Vertices", "Results")),
    ),
)
