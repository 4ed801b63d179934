"""The reconstruction chain, in order. Start reading here: every stage is a folder of the same name."""

from __future__ import annotations

from hltfarm.proto.soa import Params, Schema
from hltfarm.workers import batch, cells, clusters, conditions, dnn, fit, hits, menu, tracks, unpack, vertices
from hltfarm.workers.kernel import Stage

CHAIN: tuple[Stage, ...] = (
    unpack.STAGE,  # raw words      -> calibrated pixels, grouped by module
    clusters.STAGE,  # pixels        -> digis in raster order, clusters, charge cut
    hits.STAGE,  # clusters       -> rec hits: position, error, global frame
    cells.STAGE,  # hits           -> doublets of hits that point to the beam line
    tracks.STAGE,  # cells         -> chains of cells: track candidates
    fit.STAGE,  # candidates      -> helix parameters, quality, duplicates removed
    dnn.STAGE,  # loose tracks   -> features, score, high-purity tracks
    vertices.STAGE,  # tracks      -> primary vertices along the beam line
    menu.STAGE,  # event counts   -> path bits, prescales, accept; digest
)

#: What every batch holds, and what there is one entry per.
COLUMNS: tuple[tuple[Schema, str], ...] = (*batch.COLUMNS, *(pair for stage in CHAIN for pair in stage.columns))
TABLES: tuple[Schema, ...] = (*conditions.SCHEMAS, *(schema for stage in CHAIN for schema in stage.tables))
PARAMS: tuple[Params, ...] = (*conditions.PARAMS, *(p for stage in CHAIN for p in stage.params))
