"""Tracks against particles: efficiency, fakes, duplicates, charge, and what the resolutions (resolutions.py) need."""

from __future__ import annotations

from typing import Any

import numpy as np

from hltfarm.loadgen.validation.binned import Ratio, rate
from hltfarm.loadgen.validation.definitions import (
    DENOMINATORS,
    HIGH_PURITY,
    PARTICLE_AXES,
    SELECTIONS,
    TRACK_AXES,
    Bools,
    Cuts,
    Floats,
    selected,
)
from hltfarm.loadgen.validation.event import Geometry, Tracks, floats, integers
from hltfarm.loadgen.validation.matching import Links, TrackMatch, Truth, duplicates, layers_crossed, match_tracks
from hltfarm.loadgen.validation.resolutions import ResolutionStudy

#: Selections whose efficiency makes sense; triplets alone do not.
EFFICIENT = tuple(name for name in SELECTIONS if name != "triplets")


class TrackStudy:
    """Sums over events; `add` one event after the other, then `document`."""

    def __init__(self, geometry: Geometry, cuts: Cuts) -> None:
        self._geometry, self._cuts = geometry, cuts
        self._efficiency = {(s, d): {axis.name: Ratio(axis) for axis in PARTICLE_AXES} for s in EFFICIENT for d in DENOMINATORS}
        self._fakes = {s: {axis.name: Ratio(axis) for axis in TRACK_AXES} for s in SELECTIONS}
        self._duplicates = {s: {axis.name: Ratio(axis) for axis in TRACK_AXES} for s in SELECTIONS}
        self._found = {key: [0, 0] for key in self._efficiency}
        names = ("tracks", "fakes", "duplicates", "hard_tracks", "hard_fakes", "hard_duplicates", "signal_duplicates", "wrong_charge")
        self._totals = {s: dict.fromkeys((*names, "matched"), 0) for s in SELECTIONS}
        self._resolutions = ResolutionStudy(geometry, cuts)
        self._events = 0
        self._high_purity = False

    def add(self, tracks: Tracks, truth: Truth, particles: Links) -> TrackMatch:
        """Count an event; returns the match of its tracks."""
        self._events += 1
        match = match_tracks(tracks.hits, particles, self._cuts.match_fraction)
        self._high_purity |= bool((tracks.quality >= HIGH_PURITY).any())
        passes = _particle_cuts(truth, self._geometry, self._cuts)
        layers = layers_crossed(truth, self._geometry)
        values = _particle_values(truth, self._geometry)
        pileup = _pileup(truth)
        for name in SELECTIONS:
            use = selected(tracks.quality, tracks.n_hits, name)
            again = duplicates(match, use, tracks.n_hits, tracks.chi2)
            self._add_tracks(name, tracks, use, match, again, pileup)
            self._totals[name]["signal_duplicates"] += int(np.all(list(passes.values()), axis=0)[match.particle[again]].sum())
            wrong = use & match.matched & (tracks.charge != integers(truth["part_q"])[match.particle])
            self._totals[name]["wrong_charge"] += int(wrong.sum())
            if name in EFFICIENT:
                found = np.zeros(len(layers), np.bool_)
                found[match.particle[use & match.matched]] = True
                for denominator, fewest in DENOMINATORS.items():
                    self._add_particles((name, denominator), found, layers >= fewest, passes, values)
        self._resolutions.add(tracks, truth, match)
        return match

    def _add_particles(
        self, key: tuple[str, str], found: Bools, enough: Bools, passes: dict[str, Bools], values: dict[str, Floats]
    ) -> None:
        every = enough & np.all(list(passes.values()), axis=0)
        self._found[key][0] += int((every & found).sum())
        self._found[key][1] += int(every.sum())
        for name, ratio in self._efficiency[key].items():
            # The cut on a variable does not hold on its own axis.
            use = enough & np.all([mask for cut, mask in passes.items() if cut != name], axis=0)
            ratio.add(values[name][use], found[use])

    def _add_tracks(self, name: str, tracks: Tracks, use: Bools, match: TrackMatch, again: Bools, pileup: int) -> None:
        hard = use & (tracks.pt > self._cuts.pt_min_gev)
        fake = use & ~match.matched
        totals = self._totals[name]
        for prefix, mask in (("", use), ("hard_", hard)):
            totals[f"{prefix}tracks"] += int(mask.sum())
            totals[f"{prefix}fakes"] += int((mask & fake).sum())
            totals[f"{prefix}duplicates"] += int((mask & again).sum())
        totals["matched"] += int((use & match.matched).sum())
        values = {
            "pt": tracks.pt,
            "eta": tracks.eta,
            "phi": tracks.phi,
            "tip": np.abs(tracks.tip),
            "pileup": np.full(len(tracks), float(pileup)),
        }
        cuts = {"pt": tracks.pt > self._cuts.pt_min_gev, "eta": np.abs(tracks.eta) < self._cuts.eta_max}
        for axis, value in values.items():
            kept = use & np.all([mask for cut, mask in cuts.items() if cut != axis], axis=0)
            self._fakes[name][axis].add(value[kept], fake[kept])
            self._duplicates[name][axis].add(value[kept], again[kept])

    def document(self) -> dict[str, Any]:
        """Rates with bands, resolutions and pulls; the selection high_purity only where tracks have that quality."""
        n = max(1, self._events)
        shown = [s for s in SELECTIONS if s != "high_purity" or self._high_purity]
        totals = {}
        for s in shown:
            t = self._totals[s]
            totals[s] = {
                "tracks_per_event": t["tracks"] / n,
                "fake_rate": rate(t["fakes"], t["tracks"]),
                "fake_rate_hard": rate(t["hard_fakes"], t["hard_tracks"]),
                "duplicate_rate": rate(t["duplicates"], t["tracks"]),
                "duplicate_rate_hard": rate(t["hard_duplicates"], t["hard_tracks"]),
                "duplicates_per_event": t["duplicates"] / n,
                "signal_duplicates_per_event": t["signal_duplicates"] / n,
                "wrong_charge": rate(t["wrong_charge"], t["matched"]),
            }
        efficient = [s for s in EFFICIENT if s in shown]
        return {
            "selections": shown,
            "efficiency": {s: {d: rate(*self._found[s, d]) for d in DENOMINATORS} for s in efficient},
            "totals": totals,
            "efficiency_against": {
                s: {d: {a: r.document() for a, r in self._efficiency[s, d].items()} for d in DENOMINATORS} for s in efficient
            },
            "fake_rate_against": {s: {a: r.document() for a, r in self._fakes[s].items()} for s in shown},
            "duplicate_rate_against": {s: {a: r.document() for a, r in self._duplicates[s].items()} for s in shown},
            **self._resolutions.document(),
        }


def _particle_cuts(truth: Truth, geometry: Geometry, cuts: Cuts) -> dict[str, Bools]:
    """Masks of the particles by cut, named as the axis each is on."""
    values = _particle_values(truth, geometry)
    return {
        "charge": truth["part_q"] != 0,
        "pt": values["pt"] > cuts.pt_min_gev,
        "eta": np.abs(values["eta"]) < cuts.eta_max,
        "radius": values["radius"] < cuts.radius_max_cm,
    }


def _particle_values(truth: Truth, geometry: Geometry) -> dict[str, Floats]:
    """What the axes of particles show."""
    x, y, _ = geometry.beam_spot
    radius: Floats = np.hypot(floats(truth["part_vx"]) - x, floats(truth["part_vy"]) - y)
    return {
        "pt": floats(truth["part_pt"]),
        "eta": floats(truth["part_eta"]),
        "phi": floats(truth["part_phi"]),
        "radius": radius,
        "pileup": np.full(len(radius), float(_pileup(truth))),
    }


def _pileup(truth: Truth) -> int:
    """Collisions besides the hard scatter."""
    return int((~truth["vtx_hs"].astype(np.bool_)).sum())
