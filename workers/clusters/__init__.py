"""Clusters: 8-connected groups of pixels in a module, with a charge cut.

Makes the pixels of a module canonical on the way: one digi per distinct pixel, in raster order (column by column), whatever the
order of the words; charges of repeated pixels are added. Clusters are numbered by their first digi.
"""

from hltfarm.proto.soa import Column, Schema
from hltfarm.workers.kernel import Kernel, Stage

DIGIS = Schema(
    "Digis",
    "Pixels of the batch grouped by event and module, in raster order; a module starts at ModulePixels.begin",
    (
        Column("position", "u4", "place in the module's raster: column * 32 * column_words + row"),
        Column("charge", "u4", "charge, summed over repeated words, at most 2^31 - 1", unit="electrons"),
        Column("root", "u4", "first digi of the cluster, counted within the module"),
        Column("hit", "u4", "hit of the event made of the digi's cluster, NONE if the cluster was cut"),
    ),
)

CLUSTERS = Schema(
    "Clusters",
    "Sums over a cluster, stored at the entry of its first digi; other entries are meaningless",
    (
        Column("min_row", "u4", "first row"),
        Column("max_row", "u4", "last row"),
        Column("min_col", "u4", "first column"),
        Column("max_col", "u4", "last column"),
        Column("charge", "u8", "charge", unit="electrons"),
        Column("first_row_charge", "u8", "charge in the first row", unit="electrons"),
        Column("last_row_charge", "u8", "charge in the last row", unit="electrons"),
        Column("first_col_charge", "u8", "charge in the first column", unit="electrons"),
        Column("last_col_charge", "u8", "charge in the last column", unit="electrons"),
        Column("rank", "u4", "number among the kept clusters of the module, NONE if cut"),
    ),
)

MODULE_CLUSTERS = Schema(
    "ModuleClusters",
    "One entry per (event, module)",
    (
        Column("digis", "u4", "distinct pixels"),
        Column("kept", "u4", "clusters above the charge cut"),
        Column("hit_begin", "u4", "first hit of the module, counted within the event"),
    ),
)

STAGE = Stage(
    "clusters",
    columns=((DIGIS, "words"), (CLUSTERS, "words"), (MODULE_CLUSTERS, "modules")),
    steps=(
        Kernel(
            "cluster_module",
            "Batch.n_modules",
            ("Detector", "ModuleTable", "ModulePixels", "Pixels", "Digis", "Clusters", "ModuleClusters", "Results"),
            team=64,
            scratch="Detector.cluster_scratch",
        ),
    ),
)
