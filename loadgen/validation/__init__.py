"""Reconstruction against truth: efficiencies, fakes, resolutions, pulls (docs/validation.md).

study = Study(Geometry.of(detector))
for reco, truth in events:
    study.add(reco, truth)
document = study.document()
"""

from __future__ import annotations

from hltfarm.loadgen.validation.definitions import Cuts
from hltfarm.loadgen.validation.event import Digis, EventReco, Geometry, Hits, Tracks, Vertices
from hltfarm.loadgen.validation.study import Study

__all__ = ["Cuts", "Digis", "EventReco", "Geometry", "Hits", "Study", "Tracks", "Vertices"]
