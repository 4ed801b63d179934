"""What a selection does on events that it has not seen: efficiencies, fake rates, and other selections beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from hltfarm.loadgen.training.calibration import log_loss, reliability
from hltfarm.loadgen.training.rows import Rows
from hltfarm.loadgen.training.working_points import Scores, Thresholds, kept, passing, roc
from hltfarm.loadgen.validation.binned import Ratio, rate
from hltfarm.loadgen.validation.definitions import PT_EDGES, Axis, Bools, Cuts, Floats
from hltfarm.loadgen.validation.definitions import TRACK_AXES as VALIDATION_AXES

AXES: tuple[Axis, ...] = (
    Axis("pt", "track pT [GeV]", PT_EDGES, log=True, open_high=True),
    *(axis for axis in VALIDATION_AXES if axis.name in ("eta", "tip")),
    Axis("n_hits", "hits of the track", (2.5, 3.5, 4.5, 5.5, 6.5)),
)
_SCORE_BINS = 50


def measured(rows: Rows, logit: Floats, scores: Scores, points: Thresholds, default: str) -> dict[str, Any]:
    """Everything about scores on rows: by group (ROC, reliability, distributions, working points), and against the axes."""
    out: dict[str, Any] = {"events": rows.events, "rows": len(rows), "groups": {}}
    for g, name in enumerate(rows.groups):
        mine = rows.of(g)
        if not mine.any():
            continue
        label, score = rows.label[mine], scores[mine]
        out["groups"][name] = {
            "rows": int(mine.sum()),
            "true": int(label.sum()),
            "log_loss": log_loss(logit[mine], label),
            "roc": roc(score, label),
            "reliability": reliability(score, label),
            "distribution": distribution(score, label),
            "working_points": {
                point: {region: kept(rows, passing(rows, scores, limits), mine & within) for region, within in regions(rows).items()}
                for point, limits in points.items()
            },
        }
    passed = passing(rows, scores, points[default])
    out["against"] = {axis.name: against(rows, passed, axis) for axis in AXES if axis.name in rows.about}
    return out


def regions(rows: Rows) -> dict[str, Bools]:
    """Masks of all rows, and of the tracks above the momentum cut of the validation."""
    every = np.ones(len(rows), np.bool_)
    return {"all": every, "hard": rows.about["pt"] > Cuts().pt_min_gev} if "pt" in rows.about else {"all": every}


def against(rows: Rows, passed: Bools, axis: Axis) -> dict[str, Any]:
    """Efficiency, and fake rate before and after, of every group along an axis; above the momentum cut except on its own axis."""
    within = regions(rows)["hard" if axis.name != "pt" else "all"]
    out: dict[str, Any] = {}
    for g, name in enumerate(rows.groups):
        mine = rows.of(g) & within
        ratios = {kind: Ratio(axis) for kind in ("efficiency", "fake_rate", "fake_rate_before")}
        value = rows.about[axis.name]
        true = mine & rows.label
        ratios["efficiency"].add(value[true], passed[true])
        ratios["fake_rate"].add(value[mine & passed], ~rows.label[mine & passed])
        ratios["fake_rate_before"].add(value[mine], ~rows.label[mine])
        out[name] = {kind: ratio.document() for kind, ratio in ratios.items()}
    return out


def distribution(scores: Scores, label: Bools) -> dict[str, Any]:
    """Rows by score, true and false ones."""
    edges = np.linspace(0.0, 1.0, _SCORE_BINS + 1)
    true, false = (np.histogram(scores[mask], edges)[0].tolist() for mask in (label, ~label))
    return {"edges": edges.tolist(), "true": true, "false": false}


def selection(rows: Rows, passed: Bools, events: int) -> dict[str, Any]:
    """Of the rows that a selection keeps, by group: true ones per event, and the fake rate, of all and of hard tracks."""
    out: dict[str, Any] = {}
    for g, name in enumerate(rows.groups):
        out[name] = {}
        for region, within in regions(rows).items():
            mine = rows.of(g) & within & passed
            true = int((mine & rows.label).sum())
            out[name][region] = {"true_per_event": true / max(1, events), "fake_rate": rate(int(mine.sum()) - true, int(mine.sum()))}
    return out


def tightened(rows: Rows, group: int, features: tuple[str, str], efficiency: float) -> Bools:
    """The best pair of upper cuts on two features for a group at an efficiency: fewest false rows (mask over all rows, False elsewhere).

    Tried are cuts on the first feature that keep from `efficiency` to all of the true rows; the second one makes up for the rest.
    """
    mine = np.flatnonzero(rows.of(group))
    x, y = rows.columns(*features)[mine].T
    true = rows.label[mine]
    out = np.zeros(len(rows), np.bool_)
    need = int(np.ceil(efficiency * true.sum() - 1e-9))
    best = None
    for kept_by_first in np.unique(np.linspace(need, true.sum(), 40).astype(np.int64)):
        if kept_by_first == 0:
            continue
        first = x <= np.sort(x[true])[kept_by_first - 1]
        limit = np.sort(y[true & first])[need - 1]
        passed = first & (y <= limit)
        false = int((passed & ~true).sum())
        if best is None or false < best[0]:
            best = (false, passed)
    if best is not None:
        out[mine[best[1]]] = True
    return out
