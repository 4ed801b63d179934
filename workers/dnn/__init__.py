"""Selection of high-purity tracks by a model, before vertexing: features, score, threshold.

Models are data (`workers.models`): cuts, dense networks and forests are evaluated by kernels of this stage, the same bits on every
backend; any other model is a torch program that reads the feature columns and writes the score column in place.
"""

from hltfarm.proto.soa import Column, Params, Schema
from hltfarm.workers.dnn.features import FEATURE_COLUMNS, FEATURES, PROFILE_BINS
from hltfarm.workers.kernel import Inference, Kernel, Stage

__all__ = ["FEATURES", "PROFILE_BINS", "STAGE"]

#: Largest width of a dense network in the kernels, inputs included, and what rows of its weights are padded to.
MLP_MAX_WIDTH, MLP_BLOCK = 128, 16

SELECTION = Params(
    "Selection",
    "The selector of tracks, the event classifier, and which tracks count for vertices and the event's quantities",
    (
        Column("min_quality", "u4", "quality of selected tracks at least"),
        Column("min_hits", "u4", "hits of tracks that count for the event's quantities, at least"),
        Column("words_per_selected", "u4", "capacity: one track of an event for so many words of its payload"),
        Column("exact_scores", "u4", "1: scores are the same bits everywhere and part of the digest"),
        Column("triplet_threshold", "f4", "least score of triplets of high purity"),
        Column("longer_threshold", "f4", "least score of longer tracks of high purity"),
        Column("first_input", "u4", "dense network: first of its inputs in ModelInputs"),
        Column("first_layer", "u4", "dense network: first of its layers in ModelLayers"),
        Column("n_layers", "u4", "dense network: layers"),
        Column("n_trees", "u4", "forest: trees"),
        Column("forest_base", "f4", "forest: what the leaves' values are added to"),
        Column("n_cuts", "u4", "cuts"),
        Column("event_input", "u4", "event classifier: first of its inputs in ModelInputs"),
        Column("event_layer", "u4", "event classifier: first of its layers in ModelLayers"),
        Column("event_layers", "u4", "event classifier: layers, 0 without one"),
        Column("hard_min_pt", "f4", "least pt of hard tracks", unit="GeV"),
        Column("sum_min_pt", "f4", "least pt of tracks in the sum of pt", unit="GeV"),
        Column("sum_max_pt", "f4", "a harder track counts as this much in the sum", unit="GeV"),
        Column("displaced_min_tip", "f4", "least |tip| of displaced tracks", unit="cm"),
        Column("displaced_min_pt", "f4", "and their least pt", unit="GeV"),
        Column("profile_scratch", "u4", "team memory of the profile", unit="bytes"),
    ),
)

SELECTED = Schema(
    "Selected",
    "Tracks that the selector scores, by event; an event starts at Events.selected_offset",
    (Column("track", "u4", "track"), Column("score", "f4", "score, 0 .. 1"), *FEATURE_COLUMNS),
)

Z_PROFILE = Schema(
    "ZProfile",
    "Loose tracks of four and more hits along the beam line; PROFILE_BINS + 1 entries an event",
    (Column("below", "u4", "tracks in the bins of zip before this one"),),
)

MODEL_INPUTS = Schema(
    "ModelInputs",
    "Inputs of dense networks: clamp((value - mean) * scale)",
    (Column("column", "u4", "feature or quantity"), Column("mean", "f4", "mean"), Column("scale", "f4", "inverse spread")),
)
MODEL_LAYERS = Schema(
    "ModelLayers",
    "Layers of dense networks",
    (
        Column("inputs", "u4", "inputs"),
        Column("outputs", "u4", "outputs, padded to whole blocks except for the last layer"),
        Column("weights", "u4", "first weight in ModelWeights, input by input"),
        Column("biases", "u4", "first bias in ModelWeights"),
    ),
)
MODEL_WEIGHTS = Schema("ModelWeights", "Weights and biases of dense networks", (Column("value", "f4", "value"),))
MODEL_TREES = Schema("ModelTrees", "Trees of a forest", (Column("root", "u4", "first node"),))
MODEL_NODES = Schema(
    "ModelNodes",
    "Nodes of a forest",
    (
        Column("feature", "u4", "feature that is compared"),
        Column("threshold", "f4", "values up to it go left"),
        Column("left", "u4", "node; NONE for a leaf"),
        Column("right", "u4", "node"),
        Column("value", "f4", "value of a leaf"),
    ),
)
MODEL_CUTS = Schema(
    "ModelCuts",
    "Cuts on features",
    (
        Column("feature", "u4", "feature"),
        Column("low", "f4", "least value that passes"),
        Column("high", "f4", "largest value that passes"),
        Column("min_hits", "u4", "the cut concerns tracks with so many hits at least"),
        Column("max_hits", "u4", "and at most"),
    ),
)

#: What a kernel or a step may depend on: the kind of the selector; SELECTOR for any of them.
SELECTOR, CUTS, MLP, FOREST, TORCH = "selector", "cuts", "mlp", "forest", "torch"

STAGE = Stage(
    "dnn",
    columns=((SELECTED, "selected"), (Z_PROFILE, "z_edges")),
    tables=(MODEL_INPUTS, MODEL_LAYERS, MODEL_WEIGHTS, MODEL_TREES, MODEL_NODES, MODEL_CUTS),
    params=(SELECTION,),
    steps=(
        Kernel("number_selected", "Batch.n_events", ("Selection", "Batch", "Events", "Results"), when=SELECTOR),
        Kernel("place_selected", "Batch.one", ("Batch", "Events"), team=128, when=SELECTOR),
        Kernel(
            "list_selected",
            "Batch.n_events",
            ("Events", "Tracks", "ZProfile", "Selected"),
            team=512,
            scratch="Selection.profile_scratch",
            when=SELECTOR,
        ),
        Kernel(
            "make_features",
            "Batch.n_selected",
            ("Detector", "FitCuts", "ModuleTable", "Hits", "HitCells", "HitUses", "Tracks", "ZProfile", "Selected"),
            when=SELECTOR,
        ),
        Kernel("score_cuts", "Batch.n_selected", ("Selection", "ModelCuts", "Tracks", "Selected"), when=CUTS),
        Kernel(
            "score_mlp",
            "Batch.n_selected",
            ("Selection", "ModelInputs", "ModelLayers", "ModelWeights", "Selected"),
            several="MLP_ROWS",
            when=MLP,
        ),
        Kernel("score_forest", "Batch.n_selected", ("Selection", "ModelTrees", "ModelNodes", "Selected"), when=FOREST),
        Inference("score_torch", "Batch.n_selected", "Selected", when=TORCH),
        Kernel("apply_scores", "Batch.n_selected", ("Selection", "Tracks", "Selected", "Results"), when=SELECTOR),
        Kernel("count_quantities", "Batch.n_tracks", ("Selection", "Events", "Tracks", "Results")),
        Kernel("digest_tracks", "Batch.n_tracks", ("Selection", "Events", "Tracks"), several="DIGESTS"),
    ),
)
