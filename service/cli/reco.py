"""`hltfarm reco`: reconstruct a sample on this machine, without the farm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.options import EngineOption, EventModelOption, ModelOption, WorkingPointOption
from hltfarm.service.cli.outputs import check_file


def reco(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file or a pixeltrack-standalone data directory.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    events: Annotated[int | None, typer.Option(min=1, help="Events to reconstruct; more than the source has: it is read again.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Events that are reconstructed together.")] = 64,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0: all cores of this process.")] = 0,
    menu: Annotated[Path | None, typer.Option(help="Trigger menu (YAML); default: the built-in one.")] = None,
    config: Annotated[str, typer.Option(help="Reconstruction: default, or patatrack-phase1 for comparisons.")] = "default",
    model: ModelOption = None,
    working_point: WorkingPointOption = None,
    engine: EngineOption = None,
    event_model: EventModelOption = None,
    profile: Annotated[bool, typer.Option(help="CUDA: time every stage of every batch (slower).")] = False,
    json: Annotated[Path | None, typer.Option(help="Write counts, decision and digest of every event to this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write hits, tracks and vertices to this .npz file.")] = None,
) -> None:
    """Reconstruct events and decide on them; print rates and means."""
    from hltfarm.loadgen.source import open_source
    from hltfarm.workers.configuration import configuration, with_models
    from hltfarm.workers.menu import DEFAULT_MENU, Menu
    from hltfarm.workers.menu.yaml_source import read_file
    from hltfarm.workers.reconstruct import print_summary, reconstruct, write_json, write_npz

    check_file("--json", json)
    check_file("--out", out)
    events_of = open_source(source)
    job = reconstruct(
        events_of,
        Menu.parse(DEFAULT_MENU, "built-in menu") if menu is None else Menu.parse(read_file(menu), str(menu)),
        with_models(configuration(config), model, working_point, engine, event_model),
        backend=backend,
        events=events,
        batch=batch,
        threads=threads,
        profile=profile,
        keep=out is not None,
    )
    if json:
        write_json(job, json)
    if out:
        write_npz(job, out)
    print_summary(job)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reco)
