"""From hits to vertices with the reference, and the comparison with a backend.

Sets and order of candidates, qualities, counts and flags have to be equal; numbers of the fit, which uses other elementary functions than
the kernels, within a tolerance. Decisions on fitted numbers (quality, vertices) are therefore taken on those of the backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hltfarm.proto.detector import Detector
from hltfarm.proto.events import RawEvent
from hltfarm.proto.results import EventFlag
from hltfarm.workers.configuration import SPEED_OF_LIGHT, Configuration
from tests.reference.cells import make_cells
from tests.reference.fit import Helix, fit_helix
from tests.reference.quality import HIGH_PURITY, LOOSE, qualities
from tests.reference.tracks import Candidate, find_candidates, link_cells, living_cells
from tests.reference.vertices import find_vertices

Columns = dict[str, NDArray[Any]]

#: Rounding to float32 is 6e-8; the rest is for two float64 programs on ill-conditioned systems.
RELATIVE = 1e-6
#: Of a covariance, in units of the standard deviations.
COVARIANCE = 1e-6
Z_CM = 1e-6


class Batch(Protocol):
    """What the comparison needs of a BatchResult."""

    results: NDArray[np.void]

    def hits(self, i: int) -> Columns: ...

    def tracks(self, i: int) -> Columns: ...

    def vertices(self, i: int) -> Columns: ...


@dataclass(frozen=True)
class Found:
    """Cells (with those beyond the capacity), all candidates in order, and the flags of an event."""

    cells: int
    candidates: list[Candidate]
    flags: EventFlag


def find_tracks(hits: Columns, words: int, detector: Detector, config: Configuration) -> Found:
    """Candidates of an event whose payload has so many words."""
    cells = make_cells(hits, detector, config.cells, words)
    links = link_cells(hits, cells, detector, config.tracks, words)
    alive = living_cells(hits, cells, links.used, config.tracks)
    candidates, flags = find_candidates(cells, links, alive, config.tracks, words)
    return Found(len(cells), candidates, cells.flags | links.flags | flags)


def covariances(hits: Columns, chosen: NDArray[np.int64], detector: Detector) -> NDArray[np.float64]:
    """Global covariance (n, 6: xx, xy, yy, xz, yz, zz) of hits: the local variances along the axes of the module."""
    rotation = detector.modules.rotation[hits["module"][chosen].astype(np.int64)].astype(np.float64)
    variance = np.stack([hits["x_error2"][chosen], hits["y_error2"][chosen]], axis=1).astype(np.float64)
    e = np.einsum("na,nai,naj->nij", variance, rotation[:, :2], rotation[:, :2])
    return np.stack([e[:, 0, 0], e[:, 0, 1], e[:, 1, 1], e[:, 0, 2], e[:, 1, 2], e[:, 2, 2]], axis=1)


def fit(candidate: Candidate, hits: Columns, detector: Detector, config: Configuration) -> Helix | None:
    """Fit of a candidate's innermost hits, at most as many as the configuration says."""
    chosen = np.array(candidate.hits[: config.fit.max_fit_hits])
    x = np.stack([hits[name][chosen] for name in ("x", "y", "z")], axis=1)
    field = config.fit.field_gev_per_cm
    if field is None:
        field = detector.field_tesla * SPEED_OF_LIGHT
    return fit_helix(x.astype(np.float64), covariances(hits, chosen, detector), field, config.fit.upstream_formula)


def check_tracking(batch: Batch, i: int, event: RawEvent, detector: Detector, config: Configuration) -> Found:
    """Assert that cells, candidates, fits, qualities and vertices of event i are what the reference says."""
    hits, tracks, row = batch.hits(i), batch.tracks(i), batch.results[i]
    found = find_tracks(hits, event.payload.nbytes // 4, detector, config)
    assert (int(row["doublets"]), int(row["ntuplets"])) == (found.cells, len(found.candidates))
    overflows = EventFlag.DOUBLET_OVERFLOW | EventFlag.TRACK_OVERFLOW
    assert EventFlag(int(row["flags"])) & overflows == found.flags

    fits = {c: fit(c, hits, detector, config) for c in found.candidates if not c.dropped}
    good = [c for c in fits if fits[c] is not None]
    theirs = [tuple(int(h) for h in mine if h >= 0) for mine in tracks["hits"]]
    assert theirs == [c.hits for c in good]
    for t, c in enumerate(good):
        helix = fits[c]
        assert helix is not None
        check_fit({name: column[t] for name, column in tracks.items()}, helix)

    quality = qualities(good, tracks, config.fit)
    np.testing.assert_array_equal(np.minimum(tracks["quality"], LOOSE), quality)
    assert int(row["tracks"]) == quality.count(LOOSE)
    assert int(row["tracks_high_purity"]) == int((tracks["quality"] == HIGH_PURITY).sum())
    check_quantities(tracks, row, config)
    check_vertices(batch, i, config)
    return found


def check_quantities(tracks: Columns, row: Any, config: Configuration) -> None:
    """Assert that the event's quantities count its selected tracks."""
    c = config.selection
    use = (tracks["quality"] >= min_quality(config)) & (tracks["n_hits"] >= c.min_hits)
    pt = tracks["pt"][use]
    off_line = (np.abs(tracks["tip"][use]) >= np.float32(c.displaced_min_tip_cm)) & (pt >= np.float32(c.displaced_min_pt_gev))
    assert int(row["displaced_tracks"]) == int(off_line.sum())
    assert int(row["hard_tracks"]) == int((pt >= np.float32(c.hard_min_pt_gev)).sum())
    assert row["leading_pt"] == pt.max(initial=0)
    in_sum = np.minimum(pt[pt >= np.float32(c.sum_min_pt_gev)], np.float32(c.sum_max_pt_gev))
    assert row["sum_pt"] == np.float32(np.floor(in_sum * np.float32(1024)).astype(np.float64).sum() / 1024)


def min_quality(config: Configuration) -> int:
    """Quality of the tracks that count for vertices and quantities."""
    return LOOSE if config.selection.model is None else HIGH_PURITY


def check_fit(track: dict[str, Any], helix: Helix) -> None:
    """Assert that a track has the parameters of the reference's fit."""
    tiny = 1e-7  # cm, rad, 1/GeV: parameters near 0 have no relative precision
    found = np.array([track[name] for name in ("phi", "tip", "qpt", "cot", "zip")], np.float64)
    np.testing.assert_allclose(found, helix.state, rtol=RELATIVE, atol=tiny)
    np.testing.assert_allclose([track["pt"], track["eta"]], [helix.pt, helix.eta], rtol=RELATIVE, atol=tiny)
    np.testing.assert_allclose(track["chi2"], helix.chi2, rtol=RELATIVE, atol=tiny)
    sigma = np.sqrt(helix.cov[[0, 5, 9, 12, 14]])
    scale = np.outer(sigma, sigma)[np.triu_indices(5)]
    np.testing.assert_allclose(track["cov"] / scale, helix.cov / scale, rtol=0, atol=COVARIANCE)


def near_vertices(tracks: Columns, z: NDArray[np.float32], config: Configuration) -> tuple[float, float]:
    """Largest sums of pt and pt^2, in units of 1/1024, of the selected tracks that belong to a vertex."""
    cuts = config.vertices
    sums: dict[int, list[int]] = {}
    for t in np.flatnonzero(tracks["quality"] >= min_quality(config)) if len(z) else ():
        distance = np.abs(z - tracks["zip"][t])
        v = int(np.argmin(distance))  # the first of equal ones
        error = np.sqrt(max(tracks["cov"][t, 14], np.float32(0)))
        if not distance[v] < np.float32(cuts.near_cm) + np.float32(cuts.near_errors) * error:
            continue
        pt = min(tracks["pt"][t], np.float32(cuts.near_max_pt_gev))
        here = sums.setdefault(v, [0, 0])
        here[0] += int(pt * np.float32(1024)) if tracks["pt"][t] >= np.float32(cuts.ht_min_pt_gev) else 0
        here[1] += int(pt * pt * np.float32(1024))
    return max((h for h, _ in sums.values()), default=0) / 1024, max((q for _, q in sums.values()), default=0) / 1024


def check_vertices(batch: Batch, i: int, config: Configuration) -> None:
    """Assert that the vertices are those of the backend's own tracks, in order."""
    found, expected = batch.vertices(i), find_vertices(batch.tracks(i), config.vertices, min_quality(config))
    assert int(batch.results["vertices"][i]) == len(expected) == len(found["z"])
    np.testing.assert_array_equal(found["ndof"], [v.ndof for v in expected])
    np.testing.assert_allclose(found["z"], [v.z for v in expected], rtol=0, atol=Z_CM)
    np.testing.assert_allclose(found["error"], [v.weight**-0.5 for v in expected], rtol=RELATIVE)
    np.testing.assert_allclose(found["chi2"], [v.chi2 for v in expected], rtol=RELATIVE, atol=1e-6)
    np.testing.assert_allclose(found["sum_pt2"], [v.sum_pt2 for v in expected], rtol=RELATIVE)
    hardest = (found["z"][0], found["sum_pt2"][0], found["ndof"][0] + 1) if expected else (0, 0, 0)
    row = batch.results[i]
    assert (row["best_z"], row["best_sum_pt2"], row["best_tracks"]) == hardest
    assert row["second_sum_pt2"] == (found["sum_pt2"][1] if len(expected) > 1 else 0)
    ht, pt2 = near_vertices(batch.tracks(i), found["z"], config)
    assert row["vertex_ht"] == np.float32(ht)
    assert row["vertex_pt2"] == np.float32(pt2)
    np.testing.assert_allclose(row["best_sum_pt"], expected[0].sum_pt if expected else 0, rtol=RELATIVE)
