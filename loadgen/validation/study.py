"""The whole study, event by event: what the command runs, and what tests call with hand-made events."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hltfarm.loadgen.validation.definitions import Cuts
from hltfarm.loadgen.validation.event import EventReco, Geometry, check_truth
from hltfarm.loadgen.validation.hits import HitStudy
from hltfarm.loadgen.validation.matching import Truth, hit_crossings, hit_particles, pixel_crossings
from hltfarm.loadgen.validation.tracks import TrackStudy
from hltfarm.loadgen.validation.vertices import VertexStudy
from hltfarm.proto.errors import SampleError

NO_TRACKS = "The events came without tracks: only hits were validated."
NO_COVARIANCE = "The tracks came without a covariance: there are no pulls."
NO_HIGH_PURITY = "No track has the quality high purity: the selection is left out."


class Study:
    """Sums over any number of events in constant memory: `add` every event, then `document`."""

    def __init__(self, geometry: Geometry, cuts: Cuts | None = None) -> None:
        self.geometry, self.cuts = geometry, cuts or Cuts()
        self.events = 0
        self._hits = HitStudy(geometry)
        self._tracks: TrackStudy | None = None
        self._vertices: VertexStudy | None = None

    def add(self, reco: EventReco, truth: Truth | None, name: str = "event") -> None:
        """Count an event. Raises SampleError if it has no truth, or not the arrays that are needed; `name` is for the message."""
        if truth is None:
            raise SampleError(f"{name}: no truth to compare with; simulate the sample with --truth")
        check_truth(truth, name)
        self.events += 1
        n_hits = len(reco.hits.module)
        crossing = pixel_crossings(reco.digis, truth)
        crossings = hit_crossings(reco.digis, crossing, n_hits)
        particles = hit_particles(crossings, truth)
        self._hits.add(reco, truth, crossing, crossings, particles)
        if reco.tracks is not None:
            self._tracks = self._tracks or TrackStudy(self.geometry, self.cuts)
            self._tracks.add(reco.tracks, truth, particles)
        if reco.vertices is not None:
            self._vertices = self._vertices or VertexStudy(self.geometry, self.cuts)
            self._vertices.add(reco.vertices, truth)

    def document(self, **about: Any) -> dict[str, Any]:
        """Everything as JSON-able values, `about` (source, backend, ...) in front. Sections are None where nothing was to be seen."""
        tracks = self._tracks.document() if self._tracks else None
        vertices = self._vertices.document() if self._vertices else None
        notes = []
        if tracks is None:
            notes.append(NO_TRACKS)
        else:
            if tracks["pulls"] is None:
                notes.append(NO_COVARIANCE)
            if "high_purity" not in tracks["selections"]:
                notes.append(NO_HIGH_PURITY)
        return {
            **about,
            "events": self.events,
            "notes": notes,
            "cuts": asdict(self.cuts),
            "hits": self._hits.document() if self.events else None,
            "tracks": tracks,
            "vertices": vertices,
        }
