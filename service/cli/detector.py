"""`hltfarm detector`: what a detector description says, and whether tracks are found in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from hltfarm.proto.detector import Detector
    from hltfarm.workers.configuration import CellConfig

STRAIGHT = 100


def check(
    detector: Annotated[str, typer.Argument(help="phase1, a detector file (.yaml), or a folder with conditions.")],
) -> None:
    """Read a detector, show its layers, its readout and where tracks are looked for, and send straight tracks through it.

    The last line says how many of them the reconstruction finds. Straight tracks cross every layer once, so few means that layers, layer
    pairs or cuts are not what was meant.
    """
    from rich.console import Console

    from hltfarm.proto.detector import load_detector
    from hltfarm.workers.configuration import DEFAULT
    from hltfarm.workers.detector_cuts import for_detector

    described = load_detector(detector)
    config = for_detector(DEFAULT, described)
    out = Console()
    t, c = described.topology, described.cabling
    out.print(
        f"{described.name}: {described.n_modules} modules of {t.rows} x {t.cols} pixels, digest {described.digest()}", highlight=False
    )
    chips = (t.rows // t.chip_rows) * (t.cols // t.chip_cols)
    feds = f"{len(c.fed_ids)} FEDs from {int(c.fed_ids.min())} on, {c.links} links of {c.rocs} chips each" if len(c.fed_ids) else "no FEDs"
    out.print(f"readout: {chips} chips of {t.chip_rows} x {t.chip_cols} pixels a module; {feds}", highlight=False)
    out.print(f"field {described.field_tesla:g} T, beam spot at ({described.beam_spot.x:g}, {described.beam_spot.y:g}, "
              f"{described.beam_spot.z:g}) cm, {described.beam_spot.sigma_z:g} cm long", highlight=False)  # fmt: skip
    _layers(out, described)
    _pairs(out, config.cells)
    _straight(out, described)


def _layers(out: Console, detector: Detector) -> None:
    from rich.table import Table

    from hltfarm.workers.detector_cuts import Extent

    table = Table("layer", "modules", "radius, cm", "z, cm")
    for layer in detector.layers:
        at = Extent(layer, detector)
        kind = "barrel" if layer.is_barrel else "disk"
        table.add_row(
            f"{layer.name} ({kind})", str(layer.count), f"{at.r_low:.2f} to {at.r_high:.2f}", f"{at.z_low:.1f} to {at.z_high:.1f}"
        )
    out.print(table)


def _pairs(out: Console, cells: CellConfig) -> None:
    from rich.table import Table

    from hltfarm.workers.configuration import PHI_UNITS

    table = Table("tracks from", "to", "azimuth within, rad", "z of the inner hit, cm", "radius grows by, cm")
    for p in cells.pairs:
        table.add_row(p.inner, p.outer, f"{p.phi_cut / PHI_UNITS:.3f}", f"{p.min_z:.1f} to {p.max_z:.1f}", f"up to {p.max_dr:.1f}")
    out.print(table)


def _straight(out: Console, detector: Detector) -> None:
    import numpy as np

    from hltfarm.loadgen.straight import straight_tracks
    from hltfarm.proto.events import EventId, RawEvent
    from hltfarm.workers.menu import DEFAULT_MENU, Menu
    from hltfarm.workers.reconstructor import Reconstructor

    event = RawEvent(EventId(1, 1, 1, 1), straight_tracks(detector, STRAIGHT, max_slope=1.0))
    with Reconstructor(detector, Menu.parse(DEFAULT_MENU), backend="cpu", threads=1) as reconstructor:
        batch = reconstructor.run([event], keep=True)
    row, hits = batch.results[0], batch.hits(0)
    per_layer = np.bincount(detector.modules.layer[hits["module"]], minlength=len(detector.layers))
    crossed = ", ".join(f"{layer.name} {n}" for layer, n in zip(detector.layers, per_layer.tolist(), strict=True))
    out.print(f"{STRAIGHT} straight tracks leave hits in {crossed}", highlight=False, soft_wrap=True)
    out.print(f"and the reconstruction finds {int(row['tracks'])} of them", highlight=False)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Descriptions of detectors.", no_args_is_help=True)
    group.command()(check)
    app.add_typer(group, name="detector")
