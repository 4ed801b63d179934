"""`hltfarm bench output`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.options import SLOTS
from hltfarm.service.cli.outputs import check_file, check_folder


def shares(text: str) -> list[float]:
    """Shares from 0 to 1 from a comma-separated list, each once. Raises ConfigError for anything else."""
    from hltfarm.proto.errors import ConfigError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 <= value <= 1 for value in values):
        raise ConfigError(f"--accepted {text!r}: give numbers from 0 to 1, separated by commas")
    return list(dict.fromkeys(values))


def output(
    source: Annotated[Path, typer.Argument(help="Sample whose events are sent in a circle: a .hlt file or a data directory.")],
    accepted: Annotated[str, typer.Option(help="Shares of the events that are accepted, such as 0.02,1.")] = "0.02,1",
    fsync: Annotated[str, typer.Option(help="Policies of the files, of event, lumisection, none.")] = "lumisection",
    seconds: Annotated[float, typer.Option(min=0.2, max=600, help="Length of each load.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, max=99, help="Measurements of each case, in turn; the median counts.")] = 3,
    columns: Annotated[int, typer.Option(min=0, max=1 << 22, help="Bytes of columns of an accepted event; 0: no columns.")] = 32_768,
    slots: Annotated[int, typer.Option(min=1, max=1 << 16, help=SLOTS)] = 256,
    folder: Annotated[Path | None, typer.Option(help="On the disk that is to be measured (default: that of temporary files).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> int:
    """Events/s of one ingest with and without files of accepted events, beside a worker that decides without reconstruction.

    At most 1 GiB of files is kept meanwhile. The exit code is 0 only if every event of every load was answered once and the ledger agrees.
    """
    import tempfile

    from rich.console import Console

    from hltfarm.loadgen.load.report import write_json
    from hltfarm.loadgen.source import open_source
    from hltfarm.proto.errors import ConfigError, SampleError
    from hltfarm.service.bench.output import Measurement, Plan, print_report, run_plan, to_json
    from hltfarm.service.output.settings import Fsync

    policies = list(dict.fromkeys(part.strip() for part in fsync.split(",")))
    if not set(policies) <= set(Fsync):
        raise ConfigError(f"--fsync {fsync!r}: give policies of {', '.join(Fsync)}, separated by commas")
    check_file("--json", json)
    check_folder("--folder", folder)
    if len(open_source(source)) == 0:
        raise SampleError(f"{source}: no events in it")
    plan = Plan(
        source=source,
        shares=shares(accepted),
        policies=[Fsync(policy) for policy in policies],
        rounds=rounds,
        seconds=seconds,
        slots=slots,
        columns_bytes=columns,
        folder=folder or Path(tempfile.gettempdir()),
    )
    console, errors = Console(width=160), Console(stderr=True)
    measurements: list[Measurement] = []
    with errors.status("") as status:
        for measurement in run_plan(plan, status.update if errors.is_terminal else errors.print):
            measurements.append(measurement)
    if json is not None:
        write_json(json, to_json(plan, measurements))
    print_report(plan, measurements, console)
    return 1 if any(measurement.problems for measurement in measurements) else 0
