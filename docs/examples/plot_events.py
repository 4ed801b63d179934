"""pt spectrum of tracks, and how many of the true particles have one, from a file of events: .root, .parquet or .arrow.

    hltfarm reco ttbar.hlt --out events.root --table tracks --table particles
    python docs/examples/plot_events.py events.root --out events.png

Where truth is in a file of its own (`hltfarm export ttbar.hlt --out truth.parquet`), `--truth truth.parquet` joins both by event number.
Needs numpy, awkward, matplotlib, and uproot or pyarrow; nothing of hltfarm. A particle counts as found if a track of its charge is near it
in direction: a first look. `hltfarm validate` compares hits, which is the measurement.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import awkward as ak
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

IDENTITY = ["event"]
TRACKS = ["has_tables", "track_pt", "track_eta", "track_phi", "track_charge", "track_quality"]
PARTICLES = ["particle_pt", "particle_eta", "particle_phi", "particle_q", "particle_vtx", "particle_vx", "particle_vy"]
LOOSE, HIGH_PURITY = 2, 3  # of track_quality
EDGES = np.geomspace(0.5, 50, 21)
NEAR = 0.02  # distance in eta and phi


def read(path: Path, columns: list[str]) -> tuple[Any, dict[str, Any]]:
    """Columns of all events as an Awkward array, and the metadata of the file."""
    if path.suffix == ".root":
        import uproot

        with uproot.open(path) as file:  # an RNTuple and a TTree are read in the same way
            return file["events"].arrays(columns), json.loads(str(file["hltfarm"]))
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path.suffix == ".parquet":
        table = parquet.read_table(path, columns=columns)
    else:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()  # mapped: columns that are not used are not read
    return ak.from_arrow(table.select(columns)), json.loads(table.schema.metadata[b"hltfarm"])


def in_order_of(events: Any, truth: Any) -> Any:
    """The entries of `truth` that belong to the events, by their numbers: a farm gives events a run number of its own."""
    place = {number: i for i, number in enumerate(truth.event.tolist())}
    return truth[[place[number] for number in events.event.tolist()]]


def found(tracks: Any, particles: Any) -> Any:
    """For every particle of all events whether a track is near it."""
    near = [np.zeros(0, bool)]
    for t, p in zip(tracks, particles, strict=True):  # an event at a time: all pairs of all events would need gigabytes
        t_eta, t_phi, t_charge = (ak.to_numpy(t[name]) for name in ("eta", "phi", "charge"))
        p_eta, p_phi, p_charge = (ak.to_numpy(p[name])[:, None] for name in ("eta", "phi", "q"))
        d_phi = (p_phi - t_phi + np.pi) % (2 * np.pi) - np.pi
        near.append((((p_eta - t_eta) ** 2 + d_phi**2 < NEAR**2) & (p_charge == t_charge)).any(axis=1))
    return np.concatenate(near)


def interval(k: Any, n: Any) -> tuple[Any, Any]:
    """68 % interval of a share k / n (Wilson)."""
    n = np.maximum(n, 1)
    p, half = (k + 0.5) / (n + 1), np.sqrt(k * (n - k) / n + 0.25) / (n + 1)
    return p - half, p + half


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="pt spectrum and efficiency of a file of events")
    parser.add_argument("events", type=Path)
    parser.add_argument("--truth", type=Path, help="file with the particles, if `events` has none")
    parser.add_argument("--out", type=Path, default=Path("events.png"))
    arguments = parser.parse_args()

    events, about = read(arguments.events, IDENTITY + TRACKS + ([] if arguments.truth else PARTICLES))
    truth = in_order_of(events, read(arguments.truth, IDENTITY + PARTICLES)[0]) if arguments.truth else events
    tracks = ak.zip({name.removeprefix("track_"): events[name] for name in TRACKS[1:]})
    particles = ak.zip({name.removeprefix("particle_"): truth[name] for name in PARTICLES})
    kept = events.has_tables  # nobody kept tracks of events that a farm rejected
    tracks, particles, events = tracks[kept], particles[kept], events[kept]
    loose = tracks[tracks.quality >= LOOSE]
    prompt = (particles.vtx >= 0) & (np.hypot(particles.vx, particles.vy) < 1.0)
    particles = particles[prompt & (particles.q != 0) & (abs(particles.eta) < 2.4)]

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for chosen, label, style in ((loose, "loose", "-"), (loose[loose.quality >= HIGH_PURITY], "high purity", "--")):
        counts, _ = np.histogram(ak.to_numpy(ak.flatten(chosen.pt)), EDGES)
        left.stairs(counts / np.diff(EDGES) / len(events), EDGES, label=f"{label}: {counts.sum() / len(events):.0f} per event", ls=style)
    left.set(xscale="log", yscale="log", xlabel="track $p_T$ [GeV]", ylabel="tracks per event and GeV")
    left.legend(title=f"{len(events)} events")

    near = found(loose, particles)
    pt = ak.to_numpy(ak.flatten(particles.pt))
    k, n = np.histogram(pt[near], EDGES)[0], np.histogram(pt, EDGES)[0]
    use = n > 0
    centre, low_high = np.sqrt(EDGES[1:] * EDGES[:-1])[use], interval(k[use], n[use])
    share = k[use] / n[use]
    errors = np.maximum([share - low_high[0], low_high[1] - share], 0)
    right.errorbar(centre, share, errors, [centre - EDGES[:-1][use], EDGES[1:][use] - centre], fmt="o", ms=4)
    right.set(xscale="log", ylim=(0, 1.05), xlabel="particle $p_T$ [GeV]", ylabel="efficiency (loose tracks)")
    right.grid(alpha=0.3)
    hard = pt > 1.0
    right.set_title(f"charged, |η| < 2.4, r < 1 cm; above 1 GeV: {near[hard].mean():.3f}", fontsize=10)
    sources = "".join(f"of {source['file']}, " for source in about.get("sources", [])[:1])
    left.set_title(f"{arguments.events.name} ({sources}hltfarm {about['version']})", fontsize=10)
    figure.savefig(arguments.out, dpi=110)
    print(f"{len(events)} events, {len(ak.flatten(loose.pt))} loose tracks, {near[hard].sum()} of {hard.sum()} particles above 1 GeV found")


if __name__ == "__main__":
    main()
