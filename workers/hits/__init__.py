"""Rec hits: the position of a particle's crossing from the edges and edge charges of its cluster.

The fast cluster parameter estimator of the CMS pixel local reconstruction (see docs/reconstruction.md for the formula).
"""

from hltfarm.proto.soa import Column, Params, Schema
from hltfarm.workers.kernel import Kernel, Stage

HITS = Schema(
    "Hits",
    "Hits of the batch; event e owns Events.hit_offset[e] .. hit_offset[e + 1], ordered by module and cluster",
    (
        Column("module", "u2", "module"),
        Column("x_local", "f4", "position along rows", unit="cm"),
        Column("y_local", "f4", "position along columns", unit="cm"),
        Column("x_error2", "f4", "variance of x_local", unit="cm^2"),
        Column("y_error2", "f4", "variance of y_local", unit="cm^2"),
        Column("x", "f4", "global position relative to the beam spot", unit="cm"),
        Column("y", "f4", "global position relative to the beam spot", unit="cm"),
        Column("z", "f4", "global position relative to the beam spot", unit="cm"),
        Column("r", "f4", "distance from the beam line", unit="cm"),
        Column("phi", "i2", "azimuth, 32768 = pi"),
        Column("charge", "i4", "cluster charge, at most 2^31 - 1", unit="electrons"),
        Column("size_x", "i2", "cluster size along rows in eighths of a pixel, negative at the module's edge"),
        Column("size_y", "i2", "cluster size along columns in eighths of a pixel, negative at the module's edge"),
    ),
)

LIMITS = Params(
    "HitLimits", "Capacities of the hits stage", (Column("max_hits", "u4", "hits per event; later ones are left out and flagged"),)
)

HIT_SOURCES = Schema(
    "HitSources",
    "One entry per hit",
    (Column("cluster", "u4", "its cluster in Clusters"), Column("event", "u4", "event in the batch")),
)

STAGE = Stage(
    "hits",
    columns=((HITS, "hits"), (HIT_SOURCES, "hits")),
    params=(LIMITS,),
    steps=(
        Kernel("number_hits", "Batch.n_events", ("Detector", "HitLimits", "ModuleClusters", "Results"), team=256),
        Kernel("place_events", "Batch.one", ("Batch", "Events", "Results"), team=128),
        Kernel(
            "assign_hits",
            "Batch.n_module_groups",
            ("Detector", "HitLimits", "Batch", "ModulePixels", "ModuleClusters", "Events", "Hits", "HitSources"),
            team=32,
        ),
        Kernel(
            "build_hits",
            "Batch.n_hits",
            ("Detector", "PixelEdges", "ModuleTable", "Clusters", "HitSources", "Events", "Hits"),
            several="LANES",
        ),
    ),
)
