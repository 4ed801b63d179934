"""`hltfarm chaos`: faults in a farm under load, and whether the books close."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.outputs import check_file, check_folder
from hltfarm.service.cli.serve import backend_name, detector_name

FAULTS = (
    "kill, kill-ingest, kill-control, stop, hang, oom, slow, corrupt, disk-full, partition, partition-workers, poison, swap; "
    "joined by + they strike together; or all of them."
)


def chaos(
    fault: Annotated[list[str], typer.Argument(help=FAULTS)],
    seed: Annotated[int, typer.Option(min=0, help="Seed of what goes wrong when; rounds count on from it.")] = 1,
    repeat: Annotated[int, typer.Option(min=1, max=1000, help="Rounds of each fault.")] = 1,
    duration: Annotated[float, typer.Option(min=2.0, max=3600.0, help="Seconds of load in each round.")] = 12.0,
    rate: Annotated[float, typer.Option(min=1.0, help="Events per second over all clients.")] = 40.0,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Client connections.")] = 4,
    workers: Annotated[int, typer.Option(min=2, max=64, help="Worker processes; two at least, for one is lost now and then.")] = 2,
    ingests: Annotated[int, typer.Option(min=1, max=16, help="Ingest processes (with kill-ingest+kill-control two at least).")] = 1,
    backend: Annotated[str, typer.Option(help="Backend of the workers: cpu, cuda or auto.")] = "cpu",
    source: Annotated[Path | None, typer.Option(help="Sample to stream (default: the one that comes with hltfarm).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep logs, registries and error streams of the farms in this folder (a disk that was full is not).")
    ] = None,
) -> int:
    """Put a load on farms of its own, make faults while events are in flight, and check every account of every event.

    The exit code is 0 only if all books close: each event was decided once, and clients, ledger, metrics, registry and error stream agree.
    """
    import tempfile

    from rich.console import Console

    from hltfarm.loadgen.load.report import write_json
    from hltfarm.loadgen.source import read_events
    from hltfarm.proto.errors import SampleError
    from hltfarm.service.chaos.campaign import Campaign, run_campaign
    from hltfarm.service.chaos.farm import FarmSettings
    from hltfarm.service.chaos.plan import faults
    from hltfarm.service.chaos.report import closed, print_table, to_json
    from hltfarm.service.chaos.round import LoadSettings, RoundResult
    from hltfarm.service.cli.demo import demo_menu, demo_source

    chosen = faults(fault)
    check_file("--json", json)
    check_folder("--keep", keep)
    sample = source or demo_source()
    payloads = read_events(sample)
    if not payloads:
        raise SampleError(f"{sample}: no events in it")
    console, errors = Console(width=160), Console(stderr=True)
    results, left = list[RoundResult](), list[str]()
    with tempfile.TemporaryDirectory(prefix="hltfarm-chaos-") as folder:
        campaign = Campaign(
            faults=chosen,
            seed=seed,
            repeat=repeat,
            farm=FarmSettings(
                folder=(keep or Path(folder)).resolve(),
                workers=workers,
                ingests=ingests,
                backend=backend_name(backend),
                detector=detector_name(str(sample)) if sample.is_dir() else "phase1",
                menu=demo_menu() if source is None else None,
            ),
            load=LoadSettings(source=sample.name, payloads=payloads, rate_hz=rate, duration_s=duration, connections=clients),
        )
        campaign.check()
        with errors.status("") as status:
            say = status.update if errors.is_terminal else errors.print  # a line each where nothing can be overwritten
            for result in run_campaign(campaign, say, left):
                results.append(result)
    print_table(results, left, console)
    if json is not None:
        options = {"seed": seed, "repeat": repeat, "duration_s": duration, "rate_hz": rate, "workers": workers, "ingests": ingests}
        write_json(json, to_json(results, left, options | {"clients": clients, "backend": backend, "source": sample.name}))
    return 0 if closed(results, left) else 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(chaos)
