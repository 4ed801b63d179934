"""A detector description as the kernels see it: flat tables and one struct of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hltfarm.proto.detector.description import MAX_FED_ID, Detector
from hltfarm.proto.soa import Collection, Column, Params, Schema
from hltfarm.workers.clusters import SMALL_MODULE

DETECTOR = Params(
    "Detector",
    "Numbers of the detector description; lengths in cm",
    (
        Column("n_modules", "u4", "modules"),
        Column("n_feds", "u4", "FEDs in the cabling"),
        Column("links", "u4", "links per FED"),
        Column("rocs", "u4", "ROCs per link"),
        Column("chip_rows", "i4", "rows of a ROC"),
        Column("chip_cols", "i4", "columns of a ROC"),
        Column("rows", "u4", "rows of a module"),
        Column("cols", "u4", "columns of a module"),
        Column("column_words", "u4", "32-bit words that hold the bits of one column in a module's raster"),
        Column("raster_words", "u4", "words of the raster: cols * column_words"),
        Column("small_scratch", "u4", "team memory of a small module", unit="bytes"),
        Column("cluster_scratch", "u4", "team memory of the clustering", unit="bytes"),
        Column("gain_blocks", "u4", "blocks of rows with one gain per column"),
        Column("rows_per_block", "u4", "rows that share a gain"),
        Column("gain_min", "f4", "gain = code * gain_precision + gain_min"),
        Column("gain_precision", "f4", "see gain_min"),
        Column("pedestal_min", "f4", "pedestal = code * pedestal_precision + pedestal_min"),
        Column("pedestal_precision", "f4", "see pedestal_min"),
        Column("dead_code", "u4", "pedestal code of a dead column"),
        Column("noisy_code", "u4", "pedestal code of a noisy column"),
        Column("min_electrons", "i4", "least charge of a calibrated pixel", unit="electrons"),
        Column("pitch_x", "f4", "pixel pitch along rows", unit="cm"),
        Column("pitch_y", "f4", "pixel pitch along columns", unit="cm"),
        Column("centre_x", "f4", "module centre", unit="pitch_x"),
        Column("centre_y", "f4", "module centre", unit="pitch_y"),
        Column("edge_error_x", "f4", "error of hits at the first or last row", unit="cm"),
        Column("edge_error_y", "f4", "error of hits at the first or last column", unit="cm"),
        Column("beam_x", "f4", "beam spot", unit="cm"),
        Column("beam_y", "f4", "beam spot", unit="cm"),
        Column("beam_z", "f4", "beam spot", unit="cm"),
    ),
)

FED_INDEX = Schema(
    "FedIndex",
    "FED ids and their places in the cabling",
    (Column("place", "u4", "by FED id: place, or NONE"), Column("id", "u4", "by place: FED id")),
)

CABLING = Schema(
    "Cabling",
    "One entry per (FED, link, ROC): where its pixels are",
    (
        Column("module", "u2", "module, or NO_MODULE"),
        Column("word_format", "u1", "layout of the pixel words: 0 double column and pixel id, 1 row and column"),
        Column("disabled", "u1", "not 0: words are dropped"),
        Column("row0", "i2", "module row of ROC row 0"),
        Column("col0", "i2", "module column of ROC column 0"),
        Column("row_step", "i1", "+1 or -1"),
        Column("col_step", "i1", "+1 or -1"),
    ),
)

GAINS = Schema(
    "Gains",
    "One entry per (module, column, block of rows)",
    (Column("code", "u2", "gain code in the low byte, pedestal code in the high byte"),),
)

PIXEL_EDGES = Schema(
    "PixelEdges",
    "Lower edges of rows and columns from the first one on, one entry more than pixels",
    (Column("x", "i4", "edge of a row", unit="pitch_x"), Column("y", "i4", "edge of a column", unit="pitch_y")),
)

MODULES = Schema(
    "ModuleTable",
    "One entry per module; the frame is global = R^T local + position",
    (
        Column("position", "f4", "module centre", unit="cm", shape=(3,)),
        Column("rotation", "f4", "rows are the local axes", shape=(9,)),
        Column("origin", "f4", "detector origin in the local frame", unit="cm", shape=(3,)),
        Column("thickness", "f4", "active thickness", unit="cm"),
        Column("shift_x", "f4", "Lorentz shift", unit="cm"),
        Column("shift_y", "f4", "Lorentz shift", unit="cm"),
        Column("charge_width_x", "f4", "Lorentz drift over the thickness", unit="cm"),
        Column("charge_width_y", "f4", "Lorentz drift over the thickness", unit="cm"),
        Column("sigma_x", "f4", "error for size > 1, size 1, size 1 on a double pixel", unit="cm", shape=(3,)),
        Column("sigma_y", "f4", "error for size > 1, size 1, size 1 on a double pixel", unit="cm", shape=(3,)),
        Column("electrons_per_vcal", "f4", "calibration slope", unit="electrons"),
        Column("electrons_offset", "f4", "calibration offset", unit="electrons"),
        Column("min_cluster_charge", "u4", "clusters are kept above it", unit="electrons"),
    ),
)

SCHEMAS = (FED_INDEX, CABLING, GAINS, PIXEL_EDGES, MODULES)
PARAMS = (DETECTOR,)

Allocate = Callable[[Schema, int], Collection]


def detector_params(d: Detector) -> np.ndarray[Any, Any]:
    """The Detector struct."""
    t, g = d.topology, d.gains
    column_words = -(-t.rows // 32)
    raster = t.cols * column_words
    return DETECTOR.pack(
        n_modules=d.n_modules,
        n_feds=len(d.cabling.fed_ids),
        links=d.cabling.links,
        rocs=d.cabling.rocs,
        chip_rows=t.chip_rows,
        chip_cols=t.chip_cols,
        rows=t.rows,
        cols=t.cols,
        column_words=column_words,
        raster_words=raster,
        small_scratch=24 * SMALL_MODULE,
        cluster_scratch=4 * (2 * raster + -(-raster // 32)),
        gain_blocks=g.codes.shape[2],
        rows_per_block=g.rows_per_block,
        gain_min=g.gain_min,
        gain_precision=g.gain_precision,
        pedestal_min=g.pedestal_min,
        pedestal_precision=g.pedestal_precision,
        dead_code=g.dead,
        noisy_code=g.noisy,
        min_electrons=d.min_electrons,
        pitch_x=t.pitch_x,
        pitch_y=t.pitch_y,
        centre_x=t.centre_x,
        centre_y=t.centre_y,
        edge_error_x=d.edge_error_x,
        edge_error_y=d.edge_error_y,
        beam_x=d.beam_spot.x,
        beam_y=d.beam_spot.y,
        beam_z=d.beam_spot.z,
    )


def fill_tables(d: Detector, allocate: Allocate) -> dict[str, Collection]:
    """The tables of SCHEMAS in host memory from `allocate(schema, capacity)`, by struct name."""
    c, m, t = d.cabling, d.modules, d.topology
    n = d.n_modules
    fed = allocate(FED_INDEX, MAX_FED_ID + 1)
    fed.place[:] = 0xFFFFFFFF
    fed.place[c.fed_ids] = np.arange(len(c.fed_ids), dtype=np.uint32)
    fed.id[:] = 0xFFFFFFFF
    fed.id[: len(c.fed_ids)] = c.fed_ids
    cabling = allocate(CABLING, c.module.size)
    for name in ("module", "word_format", "disabled", "row0", "col0", "row_step", "col_step"):
        cabling[name][:] = getattr(c, name).ravel()
    gains = allocate(GAINS, d.gains.codes.size // 2)
    gains.code[:] = np.ascontiguousarray(d.gains.codes).view("<u2").ravel()
    edges = allocate(PIXEL_EDGES, max(t.rows, t.cols) + 1)
    for name, values in (("x", t.edge_x), ("y", t.edge_y)):
        edges[name][:] = 0
        edges[name][: len(values)] = values
    modules = allocate(MODULES, n)
    modules.rotation[:] = m.rotation.reshape(n, 9)
    for name in MODULES.struct.names or ():
        if name not in ("capacity", "reserved_", "rotation"):
            modules[name][:] = getattr(m, name)
    return {x.schema.name: x for x in (fed, cabling, gains, edges, modules)}
