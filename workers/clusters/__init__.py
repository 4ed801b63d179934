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
        Column("cluster", "u4", "number of the digi's cluster within the module, NONE if the cluster was cut"),
    ),
)

_EXTENT = (
    Column("min_row", "u4", "first row"),
    Column("max_row", "u4", "last row"),
    Column("min_col", "u4", "first column"),
    Column("max_col", "u4", "last column"),
    Column("charge", "u8", "charge", unit="electrons"),
    Column("first_row_charge", "u8", "charge in the first row", unit="electrons"),
    Column("last_row_charge", "u8", "charge in the last row", unit="electrons"),
    Column("first_col_charge", "u8", "charge in the first column", unit="electrons"),
    Column("last_col_charge", "u8", "charge in the last column", unit="electrons"),
)

CLUSTERS = Schema("Clusters", "Clusters above the charge cut; those of a module follow one another from ModulePixels.begin on", _EXTENT)

CLUSTER_SUMS = Schema(
    "ClusterSums",
    "Of large modules: one entry per digi, sums at the first digi of the cluster",
    (
        *_EXTENT,
        Column("root", "u4", "first digi of the cluster, counted within the module"),
        Column("rank", "u4", "number of the cluster within the module, NONE if cut"),
    ),
)

LARGE_MODULES = Schema(
    "LargeModules",
    "Modules with many pixels, or with one that was read out twice; in arbitrary order",
    (Column("n", "u4", "number of them", scalar=True), Column("item", "u4", "event * modules + module")),
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

SMALL_MODULE = 256  # pixels; as in clusters.cuh

_ARGS = ("Detector", "ModuleTable", "ModulePixels", "Pixels", "Digis", "Clusters")

STAGE = Stage(
    "clusters",
    columns=((DIGIS, "words"), (CLUSTERS, "words"), (CLUSTER_SUMS, "words"), (LARGE_MODULES, "modules"), (MODULE_CLUSTERS, "modules")),
    steps=(
        Kernel(
            "cluster_small",
            "Batch.n_modules",
            (*_ARGS, "ModuleClusters", "LargeModules", "Events", "Results"),
            team=32,
            scratch="Detector.small_scratch",
        ),
        Kernel(
            "cluster_large",
            "LargeModules.n",
            (*_ARGS, "ClusterSums", "ModuleClusters", "LargeModules", "Events", "Results"),
            team=256,
            scratch="Detector.cluster_scratch",
        ),
    ),
)
