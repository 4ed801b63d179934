"""The detector as it is drawn: layers, and the outlines of its modules. Pure. Lengths in cm, in the global frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import Detector

DECIMALS = 3  # 10 um: less than a pixel of any screen


def corners(detector: Detector) -> NDArray[np.float64]:
    """Corners of the sensitive area of each module, in order around it: (modules, 4, 3)."""
    topology, modules = detector.topology, detector.modules
    x = (topology.edge_x[[0, -1]] - topology.centre_x) * topology.pitch_x
    y = (topology.edge_y[[0, -1]] - topology.centre_y) * topology.pitch_y
    local = np.array([[x[0], y[0], 0.0], [x[1], y[0], 0.0], [x[1], y[1], 0.0], [x[0], y[1], 0.0]])
    # global = R^T local + position
    turned = np.einsum("nji,kj->nki", modules.rotation.astype(np.float64), local)
    found: NDArray[np.float64] = turned + modules.position.astype(np.float64)[:, None, :]
    return found


def nearest_to_axis(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least distance of each outline's area from the beam line, in the transverse plane: a flat module is nearest within an edge."""
    ends = outline[:, :, :2]
    starts, steps = ends, np.roll(ends, -1, axis=1) - ends
    length2 = np.maximum((steps**2).sum(axis=2), 1e-30)
    along = np.clip(-(starts * steps).sum(axis=2) / length2, 0.0, 1.0)
    nearest: NDArray[np.float64] = np.hypot(*np.moveaxis(starts + along[:, :, None] * steps, 2, 0)).min(axis=1)
    return nearest


def geometry(detector: Detector, *, outlines: bool) -> dict[str, Any]:
    """Layers with their extent; `outlines`: with the corners of all modules, twelve numbers each."""
    outline = corners(detector)
    inner, outer = nearest_to_axis(outline), np.hypot(outline[:, :, 0], outline[:, :, 1]).max(axis=1)
    layers = []
    for number, layer in enumerate(detector.layers):
        mine = slice(layer.first, layer.first + layer.count)
        layers.append(
            {
                "id": number,
                "name": layer.name,
                "part": "barrel" if layer.is_barrel else "endcap",
                "r_min": _round(inner[mine].min()),
                "r_max": _round(outer[mine].max()),
                "z_min": _round(outline[mine, :, 2].min()),
                "z_max": _round(outline[mine, :, 2].max()),
                "modules": layer.count,
            }
        )
    spot = detector.beam_spot
    return {
        "detector": detector.name,
        "layers": layers,
        "modules": {
            "layer": detector.modules.layer.tolist() if outlines else [],
            "corners": outline.round(DECIMALS).ravel().tolist() if outlines else [],
        },
        "beam_spot": {name: round(float(getattr(spot, name)), 6) for name in ("x", "y", "z", "sigma_x", "sigma_y", "sigma_z")},
        "field_tesla": round(float(detector.field_tesla), 6),
    }


def _round(value: float) -> float:
    return round(float(value), DECIMALS)
