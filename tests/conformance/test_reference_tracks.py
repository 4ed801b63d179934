"""The public pixel sample: loose tracks and vertices of an independent program (pixeltrack-standalone, `serial`).

Every track that differs does so by one of the rules in docs/reconstruction.md, "Differences to the reference program".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hltfarm.workers.configuration import PATATRACK_PHASE1
from hltfarm.workers.menu import DEFAULT_MENU, Menu
from hltfarm.workers.reconstructor import BatchResult, Reconstructor
from tests.conformance.test_pixel_sample import payloads, sample_detector
from tests.reference.backends import BACKENDS
from tests.reference.compare import Columns, raw_event

LOOSE = 2
HitList = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Other:
    """What the other program finds in one event; `number` is our number of each of its hits."""

    candidates: int
    loose: dict[HitList, tuple[float, ...]]  # tip, zip, pt, eta, chi2
    vertex_z: NDArray[np.float32]
    hardest_z: float


def canonical(
    module: NDArray[np.generic], charge: NDArray[np.generic], x: NDArray[np.generic], y: NDArray[np.generic]
) -> NDArray[np.int64]:
    """Order of hits that does not depend on the program."""
    return np.lexsort((y, x, charge, module))


def others(directory: Path, hits: list[Columns]) -> Iterator[Other]:
    """Results of the other program, in our numbers of hits."""
    with np.load(directory / "reference.npz") as archive:
        a = {name: archive[name] for name in archive.files}
    for i, ours in enumerate(hits):
        h, t, v = (slice(a[f"{kind}_offsets"][i], a[f"{kind}_offsets"][i + 1]) for kind in ("hit", "track", "vertex"))
        number = np.empty(len(ours["module"]), np.int64)
        theirs = canonical(a["hit_module"][h], a["hit_charge"][h], a["hit_x_local"][h], a["hit_y_local"][h])
        number[theirs] = canonical(ours["module"], ours["charge"], ours["x_local"], ours["y_local"])
        loose = {
            tuple(number[a["track_hits"][t][k, : a["track_n_hits"][t][k]]].tolist()): tuple(
                float(a[f"track_{name}"][t][k]) for name in ("tip", "zip", "pt", "eta", "chi2")
            )
            for k in np.flatnonzero(a["track_quality"][t] == LOOSE)
        }
        z = a["vertex_z"][v]
        yield Other(len(a["track_quality"][t]), loose, z, float(z[np.argmax(a["vertex_sum_pt2"][v])]))


def run(directory: Path, backend: str) -> list[BatchResult]:
    """Every event of the sample, one by one."""
    with Reconstructor(
        sample_detector(directory),
        Menu.parse(DEFAULT_MENU),
        backend=backend,
        config=PATATRACK_PHASE1,
        max_events=1,
        max_batch_bytes=1 << 20,
        threads=1,
    ) as r:
        return [r.run([raw_event(p)], keep=True) for p in payloads(directory)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_program(backend: str, pixel_sample: Path) -> None:
    """At least 99 % of the loose tracks, either way, have the same hits; their numbers and the vertices agree."""
    batches = run(pixel_sample, backend)
    common = ours_total = theirs_total = vertices_found = vertices_total = 0
    for batch, other in zip(batches, others(pixel_sample, [b.hits(0) for b in batches]), strict=True):
        tracks, vertices = batch.tracks(0), batch.vertices(0)
        ours = {
            tuple(h for h in tracks["hits"][k].tolist() if h >= 0): tuple(
                float(tracks[name][k]) for name in ("tip", "zip", "pt", "eta", "chi2")
            )
            for k in np.flatnonzero(tracks["quality"] == LOOSE)
        }
        both = sorted(ours.keys() & other.loose.keys())
        common, ours_total, theirs_total = common + len(both), ours_total + len(ours), theirs_total + len(other.loose)
        values, expected = np.array([ours[k] for k in both]), np.array([other.loose[k] for k in both])
        close = np.isclose(values, expected, rtol=1e-4, atol=1e-5).all(axis=1)
        assert close.mean() > 0.995  # the rest: nearly straight tracks, whose charge the other program takes from other hits
        assert abs(int(batch.results["ntuplets"][0]) - other.candidates) <= 0.005 * other.candidates

        assert abs(len(vertices["z"]) - len(other.vertex_z)) <= 1
        distance = np.abs(other.vertex_z[:, None] - vertices["z"][None]).min(axis=1)
        vertices_found, vertices_total = vertices_found + int((distance < 0.01).sum()), vertices_total + len(distance)
        assert abs(vertices["z"][0] - other.hardest_z) < 0.01
    assert common / theirs_total >= 0.99
    assert common / ours_total >= 0.99
    assert vertices_found / vertices_total >= 0.99
