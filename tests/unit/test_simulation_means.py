"""Simulated events beside the CMS Open Data sample (counts) and beside their own truth (hit residuals), by the reference reconstruction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from hltfarm.loadgen.simulation import generator
from hltfarm.loadgen.simulation.event import Simulator, Truth
from hltfarm.proto.detector import Detector, phase1, read_patatrack
from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import RawEvent
from tests.reference.cluster import cluster
from tests.reference.hits import rec_hits
from tests.reference.unpack import unpack

EVENTS = 16
#: Means over 1000 ttbar events at pileup 50: modules with pixels, 32-bit words, clusters after the charge cut.
OPEN_DATA = np.array([1811.7, 59_825.0, 15_097.0])


@pytest.fixture(scope="module", params=["phase1", "real"])
def detector(request: pytest.FixtureRequest) -> Detector:
    if request.param == "phase1":
        return phase1()
    directory: Path = request.getfixturevalue("pixel_sample")
    return read_patatrack(directory)


@pytest.mark.slow
def test_means_and_residuals_at_pileup_50(detector: Detector, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        generator.generator_version()
    except ConfigError as error:
        pytest.skip(str(error))
    simulator = Simulator(detector, process="ttbar", pileup=50, seed=1)
    counts, barrel, disks = [], [], []
    for k in range(EVENTS):
        event, truth = simulator.event(k)
        modules, words, clusters, found = measure(detector, event, truth)
        counts.append((modules, words, clusters))
        barrel.append(found[found[:, 2] == 1, :2])
        disks.append(found[found[:, 2] == 0, :2])
    means = np.mean(counts, axis=0)
    widths = np.array([width(np.concatenate(barrel)), width(np.concatenate(disks))])
    medians = np.array([np.median(np.concatenate(x), axis=0) for x in (barrel, disks)])
    with capsys.disabled():
        print(f"\n{detector.name}: modules, words, clusters {means.round()}; residuals x, y in um: barrel {widths[0]}, disks {widths[1]}")
    assert np.abs(means / OPEN_DATA - 1).max() < 0.15
    assert (np.abs(medians) < 1.5e-4).all()
    assert (widths < np.array([[14.0, 25.0], [11.0, 15.0]])).all()


def measure(detector: Detector, event: RawEvent, truth: Truth) -> tuple[int, int, int, np.ndarray]:
    """Counts of an event, and (dx, dy, barrel) of hits matched to the first crossings of particles above 0.9 GeV."""
    pixels = unpack(event.payload, detector)
    clusters = cluster(pixels, detector)
    hits = rec_hits(clusters, detector)
    part = truth["hit_part"]
    i = np.flatnonzero((truth["part_src"][part] == 0) & (truth["part_pt"][part] > 0.9) & (truth["hit_pass"] == 0))
    apart = 100.0  # cm between modules, so that only hits of one module match
    true = np.stack([truth["hit_lx"][i], truth["hit_ly"][i], truth["hit_module"][i] * apart], axis=1)
    seen = np.stack([hits["x_local"], hits["y_local"], hits["module"] * apart], axis=1)
    distance, nearest = cKDTree(true).query(seen, distance_upper_bound=0.05)
    ok = np.isfinite(distance)
    barrel = detector.modules.is_barrel[hits["module"][ok]]
    residuals = np.column_stack([(seen[ok] - true[nearest[ok]])[:, :2], barrel])
    return clusters.modules, pixels.words, len(clusters), residuals


def width(x: np.ndarray) -> np.ndarray:
    """Half of the central 68 % in um."""
    low, high = np.percentile(x, [15.87, 84.13], axis=0)
    return ((high - low) * 0.5e4).round(1)
