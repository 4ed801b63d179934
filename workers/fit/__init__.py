"""Fit: helix parameters of track candidates by broken lines, quality, and removal of duplicates.

Positions relative to the beam spot; the formula and its sources are in docs/reconstruction.md. Double precision inside, float32 results.
"""

from hltfarm.proto.soa import Column, Params, Schema
from hltfarm.workers.kernel import Kernel, Stage

FIT_CUTS = Params(
    "FitCuts",
    "The fit and the quality cuts",
    (
        Column("field", "f8", "field times speed of light: momentum per radius of curvature", unit="GeV/cm"),
        Column("max_fit_hits", "u4", "fit the innermost hits only, if there are more"),
        Column("upstream", "u4", "1: the formula of the reference programs, with its known errors; 0: the right one"),
        Column("min_pt", "f4", "least pt of loose tracks of four and more hits", unit="GeV"),
        Column("chi2_scale", "f4", "chi2 < chi2_scale * (chi2_0 + chi2_1 pt + chi2_2 pt^2 + chi2_3 pt^3), pt at most chi2_max_pt"),
        Column("chi2_0", "f4", "see chi2_scale"),
        Column("chi2_1", "f4", "see chi2_scale", unit="1/GeV"),
        Column("chi2_2", "f4", "see chi2_scale", unit="1/GeV^2"),
        Column("chi2_3", "f4", "see chi2_scale", unit="1/GeV^3"),
        Column("chi2_max_pt", "f4", "see chi2_scale", unit="GeV"),
        Column("queue_scratch", "u4", "team memory of the queueing", unit="bytes"),
        Column("triplet_chi2_scale", "f4", "the same for triplets"),
        Column("triplet_max_tip2", "f4", "largest tip^2 of loose triplets, in variances of tip"),
        Column("triplet_max_tip", "f4", "largest |tip| of loose triplets", unit="cm"),
        Column("triplet_min_pt", "f4", "least pt of loose triplets", unit="GeV"),
        Column("max_tip", "f4", "largest |tip| of loose tracks of four and more hits", unit="cm"),
        Column("max_zip", "f4", "largest |zip| of loose tracks", unit="cm"),
    ),
)

FIT_QUEUE = Schema(
    "FitQueue",
    "Candidates that are fitted, by number of fitted hits",
    (
        *(Column(f"n{n}", "u4", f"candidates of {n} hits", scalar=True) for n in (3, 4, 5, 6)),
        Column("track", "u4", "track; a plane for 3, 4, 5 and 6 hits each", shape=(4,)),
    ),
)

_FIT = ("FitCuts", "ModuleTable", "Hits", "FitQueue", "Tracks")

STAGE = Stage(
    "fit",
    columns=((FIT_QUEUE, "tracks"),),
    params=(FIT_CUTS,),
    steps=(
        Kernel(
            "queue_fits",
            "Batch.n_fit_groups",
            ("FitCuts", "Batch", "Tracks", "FitQueue"),
            team=256,
            scratch="FitCuts.queue_scratch",
        ),
        Kernel("fit_triplets", "FitQueue.n3", _FIT, several="LANES", blocks=4),
        Kernel("fit_quadruplets", "FitQueue.n4", _FIT, several="LANES"),
        Kernel("fit_quintuplets", "FitQueue.n5", _FIT, several="LANES"),
        Kernel("fit_sextuplets", "FitQueue.n6", _FIT, several="LANES"),
        Kernel("classify_tracks", "Batch.n_tracks", ("FitCuts", "UsedCells", "Tracks")),
        Kernel("choose_by_cell", "Batch.n_tracks", ("UsedCells", "HitUses", "Tracks")),
        Kernel("choose_by_hit", "Batch.n_tracks", ("HitUses", "Tracks")),
        Kernel("resolve_hits", "Batch.n_tracks", ("HitUses", "Tracks", "Results")),
    ),
)
