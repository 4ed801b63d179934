"""Features of the tracks that a selector scores, one track after the other; the kernel is `make_features`.

Every formula is float64 from the stored columns, from left to right; a feature is rounded to float32 once, at its end. Numbers that are
no numbers count as the least allowed value, and a feature that would not be finite is 0. Hits of a track are i = 0 .. n-1 from the inside
out. With the helix k = qpt * field, a = 1 + k * tip and the rotation Q, thickness T and charge_width_x W of the module of a hit:

    e     = (k y + a cos phi, a sin phi - k x)                direction of flight at the hit, transverse; normalised to length 1
    u     = Q (e_x, e_y, cot)                                 in the frame of the module; |u_z| is at least 1e-3
    ca,cb = u_x / u_z, u_y / u_z
    lq    = ln(charge * 0.0285 / (T sqrt(1 + ca^2 + cb^2)))   electrons on 285 um of track
    dx    = size_x - min(8 |T ca - W| / pitch_x, 1023)        observed size minus the expected one in eighths of a pixel;
    dy    = size_y - min(8 T |cb| / pitch_y, 1023)            0 for a cluster at the edge of its module (size < 0)

What a track shares with its event is counted over all loose tracks: the neighbours along the beam among those of four and more hits in
a histogram of zip with bins of 0.01 cm, and the other tracks on its hits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import cos, isfinite, log, sin, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector.description import Detector

LOOSE = 2
#: Of the histogram along the beam: bins, bins per cm, and where it begins.
BINS, BINS_PER_CM, BEGIN_CM = 2560, 100.0, -12.8
WINDOWS = (1, 2, 4, 8, 16, 64)

NAMES = (
    *("log_chi2", "log_pt", "eta", "abs_eta", "tip", "zip", "n_hits", "n_layers", "tip_significance"),
    *("log_tip_error", "log_zip_error", "log_cot_error", "log_pt_error"),
    *("charge_min", "charge_max", "charge_mean", "charge_first", "charge_last"),
    *("size_y_first", "size_y_second", "size_y_last", "size_y_min", "size_y_max", "size_y_mean"),
    *("size_x_first", "size_x_last", "size_x_min", "size_x_max", "size_x_mean"),
    *("r_first", "abs_z_first", "r_last", "abs_z_last"),
    *(f"neighbours_{width}" for width in WINDOWS),
    "shared_hits",
)

Columns = Mapping[str, NDArray[Any]]


def features(tracks: Columns, hits: Columns, detector: Detector, field: float, loose: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
    """Features by name, each (loose.sum(),), of the tracks of one event that are loose when the selector sees them.

    `tracks` as BatchResult.tracks has them, `hits` as BatchResult.hits; `field` in GeV/cm.
    """
    rows = np.flatnonzero(loose)
    at = {int(t): [int(h) for h in tracks["hits"][t] if h >= 0] for t in rows}
    histogram = Counter(_bin(float(tracks["zip"][t])) for t in rows if len(at[int(t)]) >= 4)
    uses = Counter(h for track in at.values() for h in track)
    out = [_track(tracks, hits, detector, field, t, at[t], histogram, uses) for t in map(int, rows)]
    return {name: np.array([values[name] for values in out], np.float64).astype(np.float32) for name in NAMES}


def _track(
    tracks: Columns, hits: Columns, detector: Detector, field: float, t: int, at: list[int], histogram: Counter[int], uses: Counter[int]
) -> dict[str, float]:
    value = {name: float(tracks[name][t]) for name in ("pt", "eta", "phi", "tip", "qpt", "cot", "zip", "chi2")}
    variance = {name: _floor(float(tracks["cov"][t][k]), 1e-20) for name, k in (("tip", 5), ("qpt", 9), ("cot", 12), ("zip", 14))}
    n = len(at)
    clusters = [_cluster(value, hits, detector, field, h) for h in at]
    charge, dx, dy = ([c[k] for c in clusters] for k in range(3))
    log_pt = log(_floor(value["pt"], 1e-3))
    f = {
        "log_chi2": log(_floor(value["chi2"], 0.0) + 1e-4),
        "log_pt": log_pt,
        "eta": value["eta"],
        "abs_eta": abs(value["eta"]),
        "tip": value["tip"],
        "zip": value["zip"],
        "n_hits": float(n),
        "n_layers": float(len({int(detector.modules.layer[hits["module"][h]]) for h in at})),
        "tip_significance": abs(value["tip"]) / sqrt(variance["tip"]),
        "log_tip_error": 0.5 * log(variance["tip"]),
        "log_zip_error": 0.5 * log(variance["zip"]),
        "log_cot_error": 0.5 * log(variance["cot"]),
        "log_pt_error": 0.5 * log(variance["qpt"]) + log_pt,
        "charge_min": min(charge),
        "charge_max": max(charge),
        "charge_mean": sum(charge) / n,
        "charge_first": charge[0],
        "charge_last": charge[-1],
        "size_y_first": dy[0],
        "size_y_second": dy[1],
        "size_y_last": dy[-1],
        "size_y_min": min(dy),
        "size_y_max": max(dy),
        "size_y_mean": sum(abs(d) for d in dy) / n,
        "size_x_first": dx[0],
        "size_x_last": dx[-1],
        "size_x_min": min(dx),
        "size_x_max": max(dx),
        "size_x_mean": sum(abs(d) for d in dx) / n,
        "r_first": float(hits["r"][at[0]]),
        "abs_z_first": abs(float(hits["z"][at[0]])),
        "r_last": float(hits["r"][at[-1]]),
        "abs_z_last": abs(float(hits["z"][at[-1]])),
    }
    middle = _bin(value["zip"])
    for width in WINDOWS:
        near = sum(histogram[b] for b in range(max(middle - width, 0), min(middle + width, BINS - 1) + 1))
        f[f"neighbours_{width}"] = log(1.0 + near - (n >= 4))
    f["shared_hits"] = float(sum(uses[h] - 1 for h in at))
    return {name: v if isfinite(v) else 0.0 for name, v in f.items()}


def _cluster(value: Mapping[str, float], hits: Columns, detector: Detector, field: float, h: int) -> tuple[float, float, float]:
    """lq, dx, dy of one hit of a track."""
    modules, topology, m = detector.modules, detector.topology, int(hits["module"][h])
    x, y = float(hits["x"][h]), float(hits["y"][h])
    k = value["qpt"] * field
    a = 1.0 + k * value["tip"]
    ex, ey = k * y + a * cos(value["phi"]), a * sin(value["phi"]) - k * x
    norm = _floor(sqrt(ex * ex + ey * ey), 1e-9)
    q = modules.rotation[m].astype(np.float64)
    ux, uy, uz = (float(q[i, 0]) * (ex / norm) + float(q[i, 1]) * (ey / norm) + float(q[i, 2]) * value["cot"] for i in range(3))
    if abs(uz) < 1e-3:
        uz = -1e-3 if uz < 0 else 1e-3
    ca, cb = ux / uz, uy / uz
    thickness, width = float(modules.thickness[m]), float(modules.charge_width_x[m])
    lq = log(_floor(float(hits["charge"][h]), 1.0) * 0.0285 / (thickness * sqrt(1.0 + ca * ca + cb * cb)))
    expected_x = min(8.0 * abs(thickness * ca - width) / float(np.float32(topology.pitch_x)), 1023.0)
    expected_y = min(8.0 * thickness * abs(cb) / float(np.float32(topology.pitch_y)), 1023.0)
    size_x, size_y = int(hits["size_x"][h]), int(hits["size_y"][h])
    return lq, size_x - expected_x if size_x > 0 else 0.0, size_y - expected_y if size_y > 0 else 0.0


def _floor(value: float, least: float) -> float:
    return value if value > least else least


def _bin(z: float) -> int:
    return int(min(max((z - BEGIN_CM) * BINS_PER_CM, 0.0), BINS - 1.0))
