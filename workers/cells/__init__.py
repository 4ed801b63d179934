"""Cells: doublets of hits on two layers that may belong to one particle from the beam line.

Hits are sorted by azimuth within their layer; each hit then looks at the window of azimuth that its layer pairs allow. The cells that
start at a hit are contiguous, so the cells that continue a cell need no search.
"""

from hltfarm.proto.soa import Column, Params, Schema
from hltfarm.workers.kernel import Kernel, Stage

#: Bins of azimuth of the sort, and 64-bit words of a mask: as in cells.cuh.
PHI_BINS, MASK_WORDS = 1024, 4

LAYERS = Schema(
    "Layers",
    "One entry per layer, one more for the end",
    (
        Column("first_module", "u4", "first module of the layer"),
        Column("first_pair", "u4", "first entry in LayerPairs with this inner layer"),
        Column("theta_cut", "f4", "alignment in r-z of triplets whose middle hit is here", unit="cm GeV"),
        Column("dca_cut", "f4", "largest distance of the circle to the beam line for triplets that start here", unit="cm"),
    ),
)

LAYER_PAIRS = Schema(
    "LayerPairs",
    "Pairs of layers that form cells, ordered by inner layer",
    (
        Column("outer", "u4", "outer layer"),
        Column("phi_cut", "i4", "largest difference of azimuth, 32768 = pi"),
        Column("min_z", "f4", "least z of the inner hit", unit="cm"),
        Column("max_z", "f4", "largest z of the inner hit", unit="cm"),
        Column("max_dr", "f4", "largest distance in r", unit="cm"),
        Column("min_size_y", "i4", "inner hits with a positive size_y below it are skipped (eighths of a pixel)"),
        Column("max_size_difference", "i4", "largest difference of the size_y of both hits; negative: not compared"),
        Column(
            "max_size_deviation",
            "i4",
            "largest difference of the inner size_y from the one the cell's slope predicts; negative: not compared",
        ),
        Column("starts_tracks", "u4", "1: cells of this pair may be the innermost of a track"),
    ),
)

CELL_CUTS = Params(
    "CellCuts",
    "Cuts on cells that do not depend on the layer pair",
    (
        Column("n_layers", "u4", "layers of the detector"),
        Column("pairs_per_layer", "u4", "layer pairs that begin at one layer, at most"),
        Column("max_z0", "f4", "largest |z| at the beam line of the line through both hits", unit="cm"),
        Column("min_radius", "f4", "least radius of curvature of the circle through beam line and hits", unit="cm"),
        Column("size_y_per_slope", "f4", "size_y that a slope dz/dr = 1 makes: 8 * thickness / pitch_y"),
        Column("cells_per_word", "u4", "capacity: cells of an event per word of its payload; more are left out and flagged"),
        Column("search_scratch", "u4", "team memory of the search", unit="bytes"),
        Column("fill_scratch", "u4", "team memory of the writing", unit="bytes"),
        Column("sort_scratch", "u4", "team memory of the sort", unit="bytes"),
    ),
)

HIT_CELLS = Schema(
    "HitCells",
    "One entry per sorted hit; event and layer are those of the hit with this number, too, since layers take the same places",
    (
        Column("event", "u4", "event of the hit in the batch"),
        Column("layer", "u4", "layer of the hit"),
        Column("count", "u4", "cells that start at the hit"),
        Column("begin", "u4", "first of them in Cells"),
    ),
)

SORTED_HITS = Schema(
    "SortedHits",
    "Hits of each layer in order of azimuth, ties in order of their number; layers take the same places as in Hits",
    (
        Column("unsorted", "u4", "hits by azimuth bin, in arbitrary order within one"),
        Column("hit", "u4", "hit"),
        Column("phi", "i2", "azimuth, 32768 = pi"),
        Column("size_y", "i2", "see Hits"),
        Column("module", "u2", "see Hits"),
        Column("z", "f4", "see Hits", unit="cm"),
        Column("r", "f4", "see Hits", unit="cm"),
    ),
)

HIT_POINTS = Schema(
    "HitPoints",
    "Four entries per sorted hit, read together: x, y, z, r as in Hits",
    (Column("value", "f4", "position", unit="cm"),),
)

PHI_BIN_EDGES = Schema(
    "PhiBins",
    "One entry per (event, layer, bin of azimuth), and one more per layer for the end",
    (Column("begin", "u4", "first hit of the bin in SortedHits"),),
)

CELLS = Schema(
    "Cells",
    "Cells of the batch, ordered by inner hit (as sorted), layer pair and azimuth of the outer hit",
    (
        Column("inner", "u4", "inner hit, as sorted"),
        Column("outer", "u4", "outer hit, as sorted"),
        Column("outer_r", "f4", "r of the outer hit", unit="cm"),
        Column("outer_z", "f4", "z of the outer hit", unit="cm"),
    ),
)

CELL_MASKS = Schema(
    "CellMasks",
    "One entry per layer pair of a layer, word and sorted hit, in this order",
    (Column("bits", "u8", "bit i: the hit forms a cell with hit i of the word of its window"),),
)

CELL_BITS = Schema(
    "CellBits",
    "One entry per 32 cells, one bit per cell",
    (
        Column("used", "u4", "cells that take part in a triplet"),
        Column("linking", "u4", "cells that another one continues"),
        Column("before", "u4", "used cells of the chunk of 4096 cells before this group"),
    ),
)

STAGE = Stage(
    "cells",
    columns=(
        (HIT_CELLS, "hits"),
        (SORTED_HITS, "sorted_hits"),
        (HIT_POINTS, "hit_values"),
        (PHI_BIN_EDGES, "phi_bins"),
        (CELL_MASKS, "hit_masks"),
        (CELLS, "cells"),
        (CELL_BITS, "cell_groups"),
    ),
    tables=(LAYERS, LAYER_PAIRS),
    params=(CELL_CUTS,),
    steps=(
        Kernel(
            "sort_hits",
            "Batch.n_layers",
            (
                "Detector",
                "CellCuts",
                "Layers",
                "ModuleClusters",
                "Events",
                "Results",
                "Hits",
                "HitCells",
                "SortedHits",
                "HitPoints",
                "PhiBins",
            ),
            team=256,
            scratch="CellCuts.sort_scratch",
        ),
        Kernel(
            "count_cells",
            "Batch.n_hit_groups",
            ("CellCuts", "Layers", "LayerPairs", "Batch", "HitCells", "SortedHits", "PhiBins", "CellMasks"),
            team=32,
            scratch="CellCuts.search_scratch",
        ),
        Kernel("number_cells", "Batch.n_events", ("CellCuts", "Batch", "Events", "HitCells", "Results"), team=512),
        Kernel("place_cells", "Batch.one", ("Batch", "Events", "Results"), team=128),
        Kernel(
            "fill_cells",
            "Batch.n_hit_groups",
            (
                *("CellCuts", "Layers", "LayerPairs", "Batch", "Events", "HitCells", "SortedHits", "PhiBins", "CellMasks", "Cells"),
                "CellBits",
            ),
            team=32,
            scratch="CellCuts.fill_scratch",
        ),
    ),
)
