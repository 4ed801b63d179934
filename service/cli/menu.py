"""`hltfarm menu`: a trigger menu as its author meets it: checked, shown to start from, and its rates before it goes live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hltfarm.service.cli import EXIT_FAILED, EXIT_USAGE
from hltfarm.service.cli.options import EngineOption, EventModelOption, ModelOption, WorkingPointOption
from hltfarm.service.cli.outputs import check_file

if TYPE_CHECKING:
    from hltfarm.loadgen.source import EventSource
    from hltfarm.workers.configuration import Configuration
    from hltfarm.workers.menu import Menu
    from hltfarm.workers.menu.report import SampleRates


def check(
    file: Annotated[Path, typer.Argument(help="A menu (YAML).")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table; faults too.")] = False,
) -> int:
    """Check a menu: its paths as a table, or everything that is wrong with it, one line each."""
    from json import dumps

    from hltfarm.workers.menu.menu import Menu
    from hltfarm.workers.menu.menu import check as checked
    from hltfarm.workers.menu.report import faults_document, menu_document, print_menu
    from hltfarm.workers.menu.yaml_source import read_file

    menu = checked(read_file(file))
    valid = isinstance(menu, Menu)
    if json:
        body = menu_document(menu) if isinstance(menu, Menu) else {"faults": faults_document(menu)}
        typer.echo(dumps({"file": str(file), "valid": valid, **body}, indent=1))
    elif isinstance(menu, Menu):
        print_menu(menu, str(file))
    else:
        for fault in menu:
            typer.echo(fault.at(str(file)), err=True)
    return 0 if valid else EXIT_USAGE


def show() -> None:
    """Print the built-in menu, to start one's own from."""
    from hltfarm.workers.menu.menu import DEFAULT_MENU

    typer.echo(DEFAULT_MENU, nl=False)


def rates(
    file: Annotated[Path, typer.Argument(help="A menu (YAML).")],
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Samples (.hlt files or data directories), a table each.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    events: Annotated[int | None, typer.Option(min=1, help="Events of each source, at most what it has; default: all.")] = None,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0: all cores of this process.")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Events that are reconstructed together.")] = 64,
    config: Annotated[str, typer.Option(help="Reconstruction: default, or patatrack-phase1.")] = "default",
    input_rate: Annotated[float | None, typer.Option(help="Events per second (Hz) that the first SOURCE stands for.")] = None,
    budget: Annotated[float | None, typer.Option(help="Largest total rate (Hz) of the first SOURCE; exit 1 if it is exceeded.")] = None,
    model: ModelOption = None,
    working_point: WorkingPointOption = None,
    engine: EngineOption = None,
    event_model: EventModelOption = None,
    compare: Annotated[list[Path] | None, typer.Option(help="Another menu to set beside FILE; may be repeated.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every number to this file.")] = None,
) -> int:
    """What a menu would write: rates of paths and streams, what each path adds, how paths and menus overlap.

    Every sample is reconstructed once, however many menus are compared.
    """
    from json import dumps

    from hltfarm.loadgen.source import open_source
    from hltfarm.proto.errors import ConfigError
    from hltfarm.workers.configuration import configuration, with_models
    from hltfarm.workers.menu.report import print_rates, rates_document, verdict

    for option, value in (("--input-rate", input_rate), ("--budget", budget)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{option} {value:g}: a rate is a positive number of Hz")
    if budget is not None and input_rate is None:
        raise ConfigError("--budget needs --input-rate: the rate of the events that the first SOURCE stands for")
    check_file("--json", json)
    files = list(dict.fromkeys([file, *(compare or [])]))
    menus = {str(path): menu_of(path) for path in files}
    opened = [open_source(source) for source in sources]
    reconstruction = with_models(configuration(config), model, working_point, engine, event_model)
    samples = []
    for i, (path, source) in enumerate(zip(sources, opened, strict=True)):
        sample = sample_rates(str(path), source, menus, reconstruction, backend, events, batch, threads, input_rate if i == 0 else None)
        print_rates(sample)
        samples.append(sample)
    within = None
    if budget is not None and input_rate is not None:
        within, sentence = verdict(samples[0].first, input_rate, budget)
        typer.echo(sentence)
    if json:
        document = {"budget_hz": budget, "within_budget": within, "sources": [rates_document(sample) for sample in samples]}
        json.write_text(dumps(document, indent=1) + "\n")
    return EXIT_FAILED if within is False else 0


def menu_of(path: Path) -> Menu:
    """The menu of a file. Raises ConfigError with one line that names file and line."""
    from hltfarm.workers.menu import Menu
    from hltfarm.workers.menu.yaml_source import read_file

    return Menu.parse(read_file(path), origin=str(path))


def sample_rates(
    name: str,
    source: EventSource,
    menus: dict[str, Menu],
    config: Configuration,
    backend: str,
    events: int | None,
    batch: int,
    threads: int,
    input_rate_hz: float | None,
) -> SampleRates:
    """One pass over a source, and every menu on its rows.

    Raises what `reconstruct` raises, and BackendError if the kernel decided otherwise than the definition.
    """
    import numpy as np

    from hltfarm.proto.errors import BackendError
    from hltfarm.workers.menu.evaluate import evaluate
    from hltfarm.workers.menu.rates import difference
    from hltfarm.workers.menu.rates import rates as rates_of
    from hltfarm.workers.menu.report import SampleRates
    from hltfarm.workers.reconstruct import reconstruct

    n = min(events or len(source), len(source))
    first, *others = menus
    job = reconstruct(source, menus[first], config, backend=backend, events=n, batch=batch, threads=threads)
    runs = np.array([source[i].id.run for i in range(n)], np.uint64)
    decisions = {file: evaluate(menu, job.rows, runs, job.ids) for file, menu in menus.items()}
    wrong = np.flatnonzero((decisions[first].path_raw != job.rows["path_raw"]) | (decisions[first].path_bits != job.rows["path_bits"]))
    if len(wrong):
        raise BackendError(f"{job.device} decides event {job.ids[wrong[0]]} of {name} otherwise than the menu says; please report this")
    return SampleRates(
        name,
        n,
        {"backend": f"{job.backend} ({job.device})", "configuration": job.config.name, "selector": job.selector},
        {file: rates_of(menu, decisions[file]) for file, menu in menus.items()},
        {file: difference(decisions[first].accept, decisions[file].accept) for file in others},
        input_rate_hz,
    )


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Trigger menus.", no_args_is_help=True)
    group.command()(check)
    group.command()(show)
    group.command()(rates)
    app.add_typer(group, name="menu")
