"""Raw data to calibrated pixels, grouped by module.

Finds the FEDs of every event, checks their frames, decodes and calibrates the pixel words, and groups the pixels by module
(count, scan, fill). The order within a group is arbitrary; the clusters stage makes it canonical.
"""

from hltfarm.proto.soa import Column, Schema
from hltfarm.workers.kernel import Kernel, Stage

FRAMES = Schema(
    "Frames",
    "One entry per (event, FED of the detector): the payload words of an accepted frame",
    (
        Column("table_entry", "u4", "entry of the event's FED table, NONE if the FED is absent"),
        Column("begin", "u4", "first word in Raw: of the frame, then of its pixel words"),
        Column("words", "u4", "number of words: of the frame, then of its pixel words; 0 if rejected"),
    ),
)

WORDS = Schema(
    "Words",
    "One entry per word of Raw inside an accepted frame: the decoded pixel",
    (
        Column("module", "u2", "module, NO_MODULE if there is no valid pixel"),
        Column("position", "u4", "place in the module's raster: column * 32 * column_words + row"),
        Column("charge", "u4", "calibrated charge", unit="electrons"),
    ),
)

MODULE_PIXELS = Schema(
    "ModulePixels",
    "One entry per (event, module)",
    (
        Column("count", "u4", "pixel words of the module"),
        Column("begin", "u4", "first entry of the module in Pixels and Digis"),
        Column("cursor", "u4", "next free entry while the module is filled"),
    ),
)

PIXELS = Schema(
    "Pixels",
    "Pixel words grouped by event and module, in arbitrary order within a group",
    (Column("position", "u4", "place in the module's raster"), Column("charge", "u4", "charge", unit="electrons")),
)

STAGE = Stage(
    "unpack",
    columns=((FRAMES, "frames"), (WORDS, "words"), (MODULE_PIXELS, "modules"), (PIXELS, "words")),
    steps=(
        Kernel(
            "find_frames",
            "Batch.n_events",
            ("Detector", "Batch", "Raw", "FedIndex", "Frames", "ModulePixels", "LargeModules", "Events", "Results"),
            team=128,
        ),
        Kernel(
            "decode_frames",
            "Batch.n_frames",
            ("Detector", "Raw", "FedIndex", "Cabling", "Gains", "ModuleTable", "Frames", "Words", "ModulePixels", "Results"),
            team=128,
        ),
        Kernel("place_modules", "Batch.n_events", ("Detector", "Batch", "ModulePixels", "Results"), team=256),
        Kernel("group_pixels", "Batch.n_frames", ("Detector", "Frames", "Words", "ModulePixels", "Pixels"), team=128),
    ),
)
