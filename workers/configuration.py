"""Configurations of the reconstruction: every cut, layer pair and capacity, by name.

`PATATRACK_PHASE1` computes what the field's reference program computes, for comparison. `DEFAULT` is what the farm runs.
Other detectors and layer graphs are other values of these classes; kernels do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hltfarm.proto.detector.description import Detector
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.soa import Collection, Schema
from hltfarm.workers.cells import CELL_CUTS, LAYER_PAIRS, LAYERS, PHI_BINS
from hltfarm.workers.dnn import PROFILE_BINS, SELECTION
from hltfarm.workers.dnn.selector import Selector
from hltfarm.workers.fit import FIT_CUTS
from hltfarm.workers.hits import LIMITS
from hltfarm.workers.tracks import MAX_TRACK_HITS, TRACK_CUTS
from hltfarm.workers.vertices import VERTEX_CUTS, Z_BINS

#: Units of the 16-bit azimuth per radian.
PHI_UNITS = 32768 / np.pi
#: Beyond it the window of azimuth would overlap itself.
MAX_PHI_CUT = 32768 - 65536 // PHI_BINS
SPEED_OF_LIGHT = 0.00299792458  # GeV / (cm T)


@dataclass(frozen=True)
class LayerPair:
    """Two layers between which cells are looked for; too tight loses tracks, too loose makes fakes and time.

    `phi_cut` in units of pi / 32768; `min_z`, `max_z` of the inner hit and `max_dr` in cm; sizes in eighths of a pixel.
    `max_size_difference` compares the lengths of both clusters (barrel to barrel), `max_size_deviation` the inner one with
    what the slope predicts (barrel to disk); None: not compared.
    `min_size_y` skips inner clusters too short for a track towards that disk.
    """

    inner: str
    outer: str
    phi_cut: int
    min_z: float
    max_z: float
    max_dr: float
    min_size_y: int = 0
    max_size_difference: int | None = None
    max_size_deviation: int | None = None
    starts_tracks: bool = True


@dataclass(frozen=True)
class CellConfig:
    """Cells. `max_z0_cm`: half length of the luminous region that is searched. `hard_pt_gev`: below it no cell survives the bend cut."""

    pairs: tuple[LayerPair, ...]
    max_z0_cm: float = 12.0
    min_radius_cm: float = 0.5 * 87.78
    size_y_per_slope: float = 8 * 0.0285 / 0.015
    cells_per_word: int = 16

    @property
    def pairs_per_layer(self) -> int:
        """Pairs that begin at one layer, at most (at least 1)."""
        return max((sum(p.inner == pair.inner for p in self.pairs) for pair in self.pairs), default=1)


@dataclass(frozen=True)
class TrackConfig:
    """Track finding. `theta_cut_*`: alignment in r-z by the middle hit's layer; `dca_cut_*`: by the innermost hit's layer, in cm.

    `pt_min_gev` scales the alignment cut: lower admits more scattering, thus more fakes. `max_curvature`: 1/cm, lower loses soft tracks.
    `max_steps` bounds the search from one cell, `*_per_word` are capacities per payload word; all flag the event when they cut.
    """

    theta_cut_barrel: float = 0.002
    theta_cut_forward: float = 0.003
    dca_cut_first_layer_cm: float = 0.15
    dca_cut_cm: float = 0.25
    pt_min_gev: float = 0.9
    max_curvature: float = 0.0328407225
    cut_both_charges: bool = True
    min_alignment2: float = 0.99999
    min_track_hits: int = 3
    max_track_hits: int = MAX_TRACK_HITS
    used_cells_per_word: int = 4
    tracks_per_word: int = 2
    max_steps: int = 1024


@dataclass(frozen=True)
class FitConfig:
    """Fit and quality; see FIT_CUTS. `field_gev_per_cm` None: from the detector's field.

    `triplet_max_significance` of |tip|: lower makes fewer fakes and loses decays far from the beam line.
    """

    field_gev_per_cm: float | None = None
    max_fit_hits: int = MAX_TRACK_HITS
    upstream_formula: bool = False
    min_pt_gev: float = 0.3
    chi2_scale: float = 10.0
    chi2_coefficients: tuple[float, float, float, float] = (0.68177776, 0.74609577, -0.08035491, 0.00315399)
    chi2_max_pt_gev: float = 10.0
    triplet_chi2_scale: float = 10.0
    triplet_max_significance: float = 1e9
    triplet_max_tip_cm: float = 0.3
    triplet_min_pt_gev: float = 0.5
    max_tip_cm: float = 0.5
    max_zip_cm: float = 12.0


@dataclass(frozen=True)
class SelectionConfig:
    """Selection of high-purity tracks, and what the event's quantities count.

    `model`: a model of tracks by name or folder, None: no selector, loose tracks are what counts. `engine`: see workers.dnn.selector.
    `event_model`: a classifier of events. `shipped_*`: nobody asked for that model by name, so that a detector with cuts of its own leaves
    it out. `min_hits`: fewer hits make fakes count, more lose tracks. `words_per_selected`: capacity, lower takes memory, higher leaves
    tracks of busy events unscored (they are flagged).
    """

    model: str | None = None
    working_point: str | None = None
    engine: str = "fused"
    event_model: str | None = None
    shipped_model: bool = False
    shipped_event_model: bool = False
    min_hits: int = 4
    words_per_selected: int = 4
    hard_min_pt_gev: float = 5.0
    sum_min_pt_gev: float = 1.0
    sum_max_pt_gev: float = 1000.0
    displaced_min_tip_cm: float = 0.05
    displaced_min_pt_gev: float = 1.0


@dataclass(frozen=True)
class VertexConfig:
    """Vertices; see VERTEX_CUTS."""

    min_hits: int = 4
    min_pt_gev: float = 0.5
    eps_cm: float = 0.07
    max_error_cm: float = 0.01
    max_chi2: float = 9.0
    min_neighbours: int = 2
    outlier: float = 50.0
    final_outlier: float = 5000.0
    split_min_ndof: int = 4
    split_chi2: float = 9.0
    split_distance2: float = 4.0
    split_rounds: int = 20
    near_cm: float = 0.1
    near_errors: float = 3.0
    ht_min_pt_gev: float = 2.0
    near_max_pt_gev: float = 20.0


@dataclass(frozen=True)
class Configuration:
    """A named set of everything; `max_hits` per event (more are left out and flagged)."""

    name: str
    cells: CellConfig
    tracks: TrackConfig = TrackConfig()
    fit: FitConfig = FitConfig()
    selection: SelectionConfig = SelectionConfig()
    vertices: VertexConfig = VertexConfig()
    max_hits: int = 131072


def _pairs() -> tuple[LayerPair, ...]:
    """The 19 layer pairs of the Patatrack chain for the Phase-1 detector."""
    rows = (
        ("BPIX1", "BPIX2", 522, -20, 20, 20),
        ("BPIX1", "FPIX+1", 730, 0, 30, 9),
        ("BPIX1", "FPIX-1", 730, -30, 0, 9),
        ("BPIX2", "BPIX3", 522, -22, 22, 20),
        ("BPIX2", "FPIX+1", 626, 10, 30, 7),
        ("BPIX2", "FPIX-1", 626, -30, -10, 7),
        ("FPIX+1", "FPIX+2", 522, -70, 70, 5),
        ("FPIX-1", "FPIX-2", 522, -70, 70, 5),
        ("BPIX3", "BPIX4", 626, -22, 22, 20),
        ("BPIX3", "FPIX+1", 626, 15, 30, 6),
        ("BPIX3", "FPIX-1", 626, -30, -15, 6),
        ("FPIX+2", "FPIX+3", 522, -70, 70, 5),
        ("FPIX-2", "FPIX-3", 522, -70, 70, 5),
        ("BPIX1", "BPIX3", 522, -20, 20, 20),
        ("BPIX2", "BPIX4", 522, -22, 22, 20),
        ("BPIX1", "FPIX+2", 522, 0, 30, 9),
        ("BPIX1", "FPIX-2", 522, -30, 0, 9),
        ("FPIX+1", "FPIX+3", 522, -70, 70, 9),
        ("FPIX-1", "FPIX-3", 522, -70, 70, 9),
    )
    pairs = []
    for i, (inner, outer, phi, low, high, dr) in enumerate(rows):
        to_disk = outer.startswith("FPIX")
        from_barrel = inner.startswith("BPIX")
        pairs.append(
            LayerPair(
                inner,
                outer,
                phi,
                low,
                high,
                dr,
                min_size_y={"BPIX1": 36, "BPIX2": 28}.get(inner, 0) if to_disk else 0,
                max_size_difference=None if to_disk else (28 if inner == "BPIX1" else 20),
                max_size_deviation=20 if to_disk and from_barrel else None,
                starts_tracks=i < 8 or i > 12,
            )
        )
    return tuple(pairs)


PATATRACK_PHASE1 = Configuration(
    "patatrack-phase1",
    CellConfig(_pairs()),
    TrackConfig(cut_both_charges=False, max_track_hits=5),
    FitConfig(field_gev_per_cm=float(np.float32(0.0114256972711507)), max_fit_hits=4, upstream_formula=True),
)

DEFAULT = replace(
    PATATRACK_PHASE1,
    name="default",
    tracks=TrackConfig(min_alignment2=0.999985),
    fit=FitConfig(triplet_chi2_scale=3.0, triplet_max_significance=5.0),
    selection=SelectionConfig(model="track-mlp", event_model="event-mlp", shipped_model=True, shipped_event_model=True),
)

CONFIGURATIONS = {c.name: c for c in (DEFAULT, PATATRACK_PHASE1)}


def configuration(name: str) -> Configuration:
    """A configuration by name. Raises ConfigError with the known names."""
    try:
        return CONFIGURATIONS[name]
    except KeyError:
        raise ConfigError(f"configuration {name!r} is unknown; known are {', '.join(CONFIGURATIONS)}") from None


def with_models(
    config: Configuration,
    model: str | None = None,
    working_point: str | None = None,
    engine: str | None = None,
    event_model: str | None = None,
) -> Configuration:
    """A configuration with other models than its own; None leaves it as it is, the model "none" is no model.

    A model other than the configured one has its own default working point. Raises ConfigError for a working point without a selector.
    """
    selection = config.selection
    if model is not None:
        selection = replace(selection, model=None if model == "none" else model, working_point=None, shipped_model=False)
    if working_point is not None:
        if selection.model is None:
            raise ConfigError(f"working point {working_point!r} has no effect without a selector; name one as model")
        selection = replace(selection, working_point=working_point)
    if engine is not None:
        selection = replace(selection, engine=engine)
    if event_model is not None:
        selection = replace(selection, event_model=None if event_model == "none" else event_model, shipped_event_model=False)
    return replace(config, selection=selection)


def fill_tables(config: Configuration, detector: Detector, allocate: Callable[[Schema, int], Collection]) -> dict[str, Collection]:
    """Layers and LayerPairs. Raises ConfigError if the configuration names layers that the detector does not have."""
    number = {layer.name: i for i, layer in enumerate(detector.layers)}
    for pair in config.cells.pairs:
        for layer in (pair.inner, pair.outer):
            if layer not in number:
                raise ConfigError(f"configuration {config.name} needs layer {layer}, detector {detector.name} has {', '.join(number)}")
        if not 0 <= pair.phi_cut <= MAX_PHI_CUT:
            raise ConfigError(
                f"configuration {config.name}: phi_cut {pair.phi_cut} of {pair.inner} to {pair.outer} is not within 0 .. {MAX_PHI_CUT}"
            )
    if len({(p.inner, p.outer) for p in config.cells.pairs}) < len(config.cells.pairs):
        raise ConfigError(f"configuration {config.name} has two pairs of the same layers; cells of both could not be told apart")
    pairs = sorted(config.cells.pairs, key=lambda p: number[p.inner])  # stable: the order within an inner layer stays
    n = len(detector.layers)
    layers = allocate(LAYERS, n + 1)
    t = config.tracks
    layers.first_module[:n], layers.first_module[n] = [layer.first for layer in detector.layers], detector.n_modules
    layers.first_pair[:] = [sum(number[p.inner] < i for p in pairs) for i in range(n + 1)]
    layers.theta_cut[:n] = [t.theta_cut_barrel if layer.is_barrel else t.theta_cut_forward for layer in detector.layers]
    layers.dca_cut[:n] = [t.dca_cut_first_layer_cm if i == 0 else t.dca_cut_cm for i in range(n)]
    table = allocate(LAYER_PAIRS, max(1, len(pairs)))
    for i, p in enumerate(pairs):
        table.outer[i], table.phi_cut[i], table.min_z[i], table.max_z[i], table.max_dr[i] = (
            number[p.outer],
            p.phi_cut,
            p.min_z,
            p.max_z,
            p.max_dr,
        )
        table.min_size_y[i], table.starts_tracks[i] = p.min_size_y, p.starts_tracks
        table.max_size_difference[i] = -1 if p.max_size_difference is None else p.max_size_difference
        table.max_size_deviation[i] = -1 if p.max_size_deviation is None else p.max_size_deviation
    return {"Layers": layers, "LayerPairs": table}


def params(config: Configuration, detector: Detector, selector: Selector) -> dict[str, np.ndarray[Any, Any]]:
    """The parameter structs of the stages from hits on. Raises ConfigError for values that the memory layout cannot hold."""
    c, t, f, s, v = config.cells, config.tracks, config.fit, config.selection, config.vertices
    if not 3 <= t.min_track_hits <= t.max_track_hits <= MAX_TRACK_HITS:
        raise ConfigError(
            f"configuration {config.name}: tracks of {t.min_track_hits} to {t.max_track_hits} hits; possible are 3 to {MAX_TRACK_HITS}"
        )
    field = detector.field_tesla * SPEED_OF_LIGHT if f.field_gev_per_cm is None else f.field_gev_per_cm
    chi2 = {f"chi2_{i}": x for i, x in enumerate(f.chi2_coefficients)}
    return {
        "HitLimits": LIMITS.pack(max_hits=config.max_hits),
        "CellCuts": CELL_CUTS.pack(
            n_layers=len(detector.layers),
            pairs_per_layer=c.pairs_per_layer,
            max_z0=c.max_z0_cm,
            min_radius=c.min_radius_cm,
            size_y_per_slope=c.size_y_per_slope,
            cells_per_word=c.cells_per_word,
            search_scratch=4 * 64,
            fill_scratch=12 * 8 * 32 + 4 * 64,
            sort_scratch=8 * PHI_BINS,
        ),
        "TrackCuts": TRACK_CUTS.pack(
            pt_min=t.pt_min_gev,
            max_curvature=t.max_curvature,
            cut_both_charges=t.cut_both_charges,
            min_alignment2=t.min_alignment2,
            min_track_hits=t.min_track_hits,
            max_track_hits=t.max_track_hits,
            used_cells_per_word=t.used_cells_per_word,
            link_scratch=4 * (8 + 2) * 32,
            tracks_per_word=t.tracks_per_word,
            max_steps=t.max_steps,
        ),
        "FitCuts": FIT_CUTS.pack(
            field=field,
            max_fit_hits=f.max_fit_hits,
            upstream=f.upstream_formula,
            min_pt=f.min_pt_gev,
            chi2_scale=f.chi2_scale,
            **chi2,
            chi2_max_pt=f.chi2_max_pt_gev,
            queue_scratch=4 * 4,
            triplet_chi2_scale=f.triplet_chi2_scale,
            triplet_max_tip2=f.triplet_max_significance**2,
            triplet_max_tip=f.triplet_max_tip_cm,
            triplet_min_pt=f.triplet_min_pt_gev,
            max_tip=f.max_tip_cm,
            max_zip=f.max_zip_cm,
        ),
        "Selection": SELECTION.pack(
            **selector.params(),
            min_hits=s.min_hits,
            words_per_selected=s.words_per_selected,
            hard_min_pt=s.hard_min_pt_gev,
            sum_min_pt=s.sum_min_pt_gev,
            sum_max_pt=s.sum_max_pt_gev,
            displaced_min_tip=s.displaced_min_tip_cm,
            displaced_min_pt=s.displaced_min_pt_gev,
            profile_scratch=4 * PROFILE_BINS,
        ),
        "VertexCuts": VERTEX_CUTS.pack(
            min_hits=v.min_hits,
            min_pt=v.min_pt_gev,
            eps=v.eps_cm,
            max_error2=v.max_error_cm**2,
            max_chi2=v.max_chi2,
            min_neighbours=v.min_neighbours,
            outlier=v.outlier,
            final_outlier=v.final_outlier,
            split_min_ndof=v.split_min_ndof,
            split_chi2=v.split_chi2,
            split_distance2=v.split_distance2,
            split_rounds=v.split_rounds,
            near_cm=v.near_cm,
            near_errors=v.near_errors,
            ht_min_pt=v.ht_min_pt_gev,
            near_max_pt=v.near_max_pt_gev,
            sort_scratch=4 * (2 * Z_BINS + 1),
        ),
    }
