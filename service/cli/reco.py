"""`hltfarm reco`: reconstruct a sample on this machine, without the farm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.export_options import ColumnsOption, LayoutOption, TableOption, layout_of
from hltfarm.service.cli.options import EngineOption, EventModelOption, ModelOption, WorkingPointOption
from hltfarm.service.cli.outputs import check_file

SHOWN = 10  # differences of --check that are told one by one


def reco(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file, a folder of them, a pixeltrack-standalone data directory, or demo.")],
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
    check: Annotated[
        bool,
        typer.Option("--check", help="Output files: decide as recorded there and compare the digests; exit code 1 if one differs."),
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write counts, decision and digest of every event to this file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write hits, tracks and vertices to this file: .npz, or with decisions .root, .parquet, .arrow.")
    ] = None,
    table: TableOption = None,
    columns: ColumnsOption = None,
    root: LayoutOption = "rntuple",
) -> int:
    """Reconstruct events and decide on them; print rates and means.

    Formats other than .npz need the extra `data` (uproot, awkward, pyarrow).
    """
    from contextlib import nullcontext

    from hltfarm.loadgen.source import open_source
    from hltfarm.service.export import check_suffix
    from hltfarm.service.export.reco_sink import RecoFile, npz_only
    from hltfarm.service.output.check import differences, recorded
    from hltfarm.workers.configuration import configuration, with_models
    from hltfarm.workers.menu import DEFAULT_MENU, Menu
    from hltfarm.workers.menu.yaml_source import read_file
    from hltfarm.workers.reconstruct import print_summary, reconstruct, write_json, write_npz
    from hltfarm.workers.reconstructor import load_selector

    layout = layout_of(root)
    check_file("--json", json)
    check_file("--out", out)
    npz = out is None or out.suffix == ".npz"
    if npz:
        npz_only(table, columns)
    elif out is not None:
        check_suffix("--out", out, also=(".npz",))
    events_of = open_source(source)
    before = recorded(events_of) if check else None
    if before is not None:
        model, working_point = model or before.config.model or None, working_point or before.config.working_point or None
        engine, event_model = engine or before.config.engine or None, event_model or before.config.event_model or None
    if menu is not None:
        chosen = Menu.parse(read_file(menu), str(menu))
    elif before is not None and before.config.menu:
        chosen = Menu.parse(before.config.menu, f"menu of {source}")
    else:
        chosen = Menu.parse(DEFAULT_MENU, "built-in menu")
    settings = with_models(configuration(config), model, working_point, engine, event_model)
    with (
        nullcontext()
        if npz or out is None
        else RecoFile(
            out,
            events_of,
            source,
            chosen,
            settings,
            load_selector(settings.selection),
            tables=table or (),
            columns=columns or (),
            layout=layout,
        )
    ) as sink:
        job = reconstruct(
            events_of,
            chosen,
            settings,
            backend=backend,
            events=events,
            batch=batch,
            threads=threads,
            profile=profile,
            keep=npz and out is not None,
            sink=sink,
        )
    if json:
        write_json(job, json)
    if npz and out is not None:
        write_npz(job, out)
    print_summary(job)
    if before is None:
        return 0
    same_menu = job.menu.hash == before.menu_hash
    found = differences(events_of, job.rows, paths=same_menu)
    for item in found[:SHOWN]:
        typer.echo(f"event {item.event}: {item.field} {item.now}, recorded is {item.recorded}", err=True)
    checked = f"digests{' and paths' if same_menu else ''} of {min(len(job.rows), len(events_of))} events"
    typer.echo(f"{checked} are as recorded" if not found else f"{checked} compared with the record: {len(found)} differences")
    return 1 if found else 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reco)
