"""A configuration for a detector that brings its own layer pairs and cuts (`Detector.reconstruction`, docs/detector-file.md)."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector, Layer
from hltfarm.proto.errors import ConfigError
from hltfarm.workers.configuration import (
    MAX_PHI_CUT,
    PHI_UNITS,
    SPEED_OF_LIGHT,
    CellConfig,
    Configuration,
    LayerPair,
)

#: Momenta down to which cells and tracks are found unless the file says otherwise (as in the configurations of the built-in detector).
CELL_PT_GEV = 0.5
TRACK_PT_GEV = 0.35
#: Windows of azimuth are that much wider than the bend of a track of CELL_PT_GEV from the beam line: scattering, other origins.
PHI_MARGIN = 1.15
PHI_FLOOR_RAD = 0.01
#: Room around the extent of layers, cm.
MARGIN_CM = 0.5
SECTIONS = ("cells", "tracks", "fit", "vertices", "selection")
NOT_HERE = ("pairs", "model", "working_point", "engine", "event_model", "shipped_model", "shipped_event_model", "field_gev_per_cm")


class PairFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A layer pair of a detector file; what is left out follows from where the layers are."""

    inner: str
    outer: str
    phi_cut_rad: float | None = None
    min_z_cm: float | None = None
    max_z_cm: float | None = None
    max_dr_cm: float | None = None
    min_size_y: int = 0
    max_size_difference: int | None = None
    max_size_deviation: int | None = None
    starts_tracks: bool = True


def for_detector(config: Configuration, detector: Detector) -> Configuration:
    """The configuration that a detector asks for: as it is, if the detector brings nothing (so does the built-in one).

    Layer pairs and cuts are the detector's; models that were not asked for by name are left out, since those that are shipped were trained
    on the built-in detector. Applying it twice changes nothing more. Raises ConfigError for what cannot be used, with its place.
    """
    if not detector.reconstruction:
        return config
    where = f"detector {detector.name}: reconstruction"
    said: dict[str, Any] = json.loads(detector.reconstruction)
    if unknown := sorted(set(said) - {"pairs", *SECTIONS}):
        raise ConfigError(f"{where}: {', '.join(unknown)} unknown; known are pairs, {', '.join(SECTIONS)}")
    pt_scale = SPEED_OF_LIGHT * abs(detector.field_tesla)  # GeV per cm of radius of curvature
    cells = CellConfig(
        pairs=_pairs(said.get("pairs"), detector, where),
        max_z0_cm=max(3.0 * detector.beam_spot.sigma_z, 0.1),
        min_radius_cm=CELL_PT_GEV / pt_scale,
        size_y_per_slope=8 * float(detector.modules.thickness[0]) / detector.topology.pitch_y,
    )
    selection = replace(
        config.selection,
        model=None if config.selection.shipped_model else config.selection.model,
        event_model=None if config.selection.shipped_event_model else config.selection.event_model,
    )
    adapted = replace(
        config,
        cells=cells,
        tracks=replace(config.tracks, max_curvature=pt_scale / TRACK_PT_GEV),
        fit=replace(config.fit, field_gev_per_cm=None),
        selection=selection,
    )
    return replace(adapted, **{name: _changed(getattr(adapted, name), said[name], f"{where}.{name}") for name in SECTIONS if name in said})


def _pairs(said: object, detector: Detector, where: str) -> tuple[LayerPair, ...]:
    try:
        pairs = msgspec.convert(said or [], tuple[PairFile, ...], strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}.pairs: {error}") from error
    if not pairs:
        raise ConfigError(f"{where}.pairs: none; without layer pairs there are no tracks")
    layers = {layer.name: layer for layer in detector.layers}
    for pair in pairs:
        for name in (pair.inner, pair.outer):
            if name not in layers:
                raise ConfigError(f"{where}.pairs: there is no layer {name!r}; there are {', '.join(layers)}")
    return tuple(_pair(pair, Extent(layers[pair.inner], detector), Extent(layers[pair.outer], detector), detector) for pair in pairs)


def _pair(pair: PairFile, inner: Extent, outer: Extent, detector: Detector) -> LayerPair:
    reach = max(outer.r_high - inner.r_low, 0.0)
    bend = PHI_MARGIN * reach * SPEED_OF_LIGHT * abs(detector.field_tesla) / (2 * CELL_PT_GEV)
    phi = max(bend, PHI_FLOOR_RAD) if pair.phi_cut_rad is None else pair.phi_cut_rad
    return LayerPair(
        pair.inner,
        pair.outer,
        phi_cut=min(round(phi * PHI_UNITS), MAX_PHI_CUT) if pair.phi_cut_rad is None else round(phi * PHI_UNITS),
        min_z=inner.z_low - MARGIN_CM if pair.min_z_cm is None else pair.min_z_cm,
        max_z=inner.z_high + MARGIN_CM if pair.max_z_cm is None else pair.max_z_cm,
        max_dr=reach + MARGIN_CM if pair.max_dr_cm is None else pair.max_dr_cm,
        min_size_y=pair.min_size_y,
        max_size_difference=pair.max_size_difference,
        max_size_deviation=pair.max_size_deviation,
        starts_tracks=pair.starts_tracks,
    )


class Extent:
    """Radii and z that the sensors of a layer reach, cm."""

    def __init__(self, layer: Layer, detector: Detector) -> None:
        m, t = detector.modules, detector.topology
        s = slice(layer.first, layer.first + layer.count)
        half = 0.5 * np.array([t.edge_x[-1] * t.pitch_x, t.edge_y[-1] * t.pitch_y])
        steps = np.array([[u, v] for u in (-1.0, 0.0, 1.0) for v in (-1.0, 0.0, 1.0)]) * half
        points: NDArray[np.float64] = m.position[s, None, :] + np.einsum("pj,njk->npk", steps, m.rotation[s, :2].astype(np.float64))
        r = np.hypot(points[..., 0] - detector.beam_spot.x, points[..., 1] - detector.beam_spot.y)
        z = points[..., 2] - detector.beam_spot.z
        self.r_low, self.r_high = float(r.min()), float(r.max())
        self.z_low, self.z_high = float(z.min()), float(z.max())


def _changed(section: Any, said: object, where: str) -> Any:
    """A section with the fields that the file names. Raises ConfigError for unknown ones and for values of another type."""
    known = {f.name: f.type for f in fields(section) if f.name not in NOT_HERE}
    if not isinstance(said, dict):
        raise ConfigError(f"{where}: a mapping of {', '.join(known)} is expected")
    changes: dict[str, Any] = {}
    for name, value in said.items():
        if name not in known:
            raise ConfigError(f"{where}: {name!r} unknown; known are {', '.join(known)}")
        kind = type(getattr(section, name))
        if isinstance(value, list):
            value = tuple(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            raise ConfigError(f"{where}.{name}: {value!r} is no {kind.__name__}")
        changes[name] = value
    return replace(section, **changes)
