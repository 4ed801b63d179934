"""`hltfarm validate`: the reconstruction against the truth of a sample, as JSON, figures and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.options import EngineOption, EventModelOption, ModelOption, WorkingPointOption
from hltfarm.service.cli.outputs import check_folder


def validate(
    source: Annotated[Path, typer.Argument(help="A .hlt sample file or a pixeltrack-standalone data directory, with truth.")],
    out: Annotated[Path, typer.Option(help="Folder for validation.json, index.html and the figures; made if it is missing.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    config: Annotated[str, typer.Option(help="Reconstruction: default, or patatrack-phase1 for comparisons.")] = "default",
    model: ModelOption = None,
    working_point: WorkingPointOption = None,
    engine: EngineOption = None,
    event_model: EventModelOption = None,
    events: Annotated[int | None, typer.Option(min=1, help="Events to validate; default: all of the source.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Events that are reconstructed together.")] = 16,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0: all cores of this process.")] = 0,
) -> None:
    """Measure efficiencies, fake rates, resolutions and pulls against truth.

    Needs the extra `validate` (Matplotlib).
    """
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from hltfarm.loadgen.source import open_source
    from hltfarm.loadgen.validation import EventReco, Geometry, Study
    from hltfarm.loadgen.validation.plots import draw
    from hltfarm.loadgen.validation.report import summary, write_report
    from hltfarm.proto.errors import SampleError
    from hltfarm.workers.configuration import configuration, with_models
    from hltfarm.workers.menu import DEFAULT_MENU, Menu
    from hltfarm.workers.reconstructor import Reconstructor

    opened, chosen = open_source(source), with_models(configuration(config), model, working_point, engine, event_model)
    n = min(events or len(opened), len(opened))
    if n == 0:
        raise SampleError(f"{opened.name}: no events in it")
    if opened.truth(0) is None:
        raise SampleError(f"{opened.name}: no truth to compare with; simulate the sample with --truth")
    check_folder("--out", out)
    detector = opened.detector()
    study = Study(Geometry.of(detector))
    largest = max(opened[i].payload.nbytes for i in range(n))
    console = Console(stderr=True)
    with Reconstructor(
        detector,
        Menu.parse(DEFAULT_MENU, "built-in menu"),
        config=chosen,
        backend=backend,
        max_events=min(batch, n),
        max_batch_bytes=-(-largest // 128) * 128 * min(batch, n),
        threads=threads,
    ) as reconstructor:
        starts = range(0, n, batch)
        for first in track(starts, "validating", console=console, transient=True, disable=not console.is_terminal):
            last = min(n, first + batch)
            result = reconstructor.run([opened[i] for i in range(first, last)], keep=True)
            for k in range(last - first):
                reco = EventReco.of(result.hits(k), result.digis(k), result.tracks(k), result.vertices(k))
                study.add(reco, opened.truth(first + k), f"{opened.name}, event {first + k}")
        document = study.document(
            source=opened.name,
            configuration=chosen.name,
            backend=reconstructor.backend,
            device=reconstructor.device,
            detector=f"{detector.name} {detector.digest()}",
        )
    write_report(document, draw(document, out), out)
    stdout = Console()
    for title, rows in summary(document).items():
        table = Table("", "", title=f"{title} ({study.events} events)", title_justify="left", show_header=False)
        for row in rows:
            table.add_row(*row)
        stdout.print(table)
    for note in document["notes"]:
        stdout.print(note)
    stdout.print(f"report: {out / 'index.html'}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(validate)
