"""`hltfarm bench farm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.options import BATCH, LARGEST_BATCH, SLOTS
from hltfarm.service.cli.outputs import check_file
from hltfarm.service.cli.serve import backend_name, cores, detector_name, device_numbers, worker_count


def positive(option: str, text: str) -> list[float]:
    """Positive numbers from a comma-separated list. Raises ConfigError for anything else."""
    from hltfarm.proto.errors import ConfigError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < 1e6 for value in values):
        raise ConfigError(f"{option} {text!r}: give positive numbers, separated by commas")
    return values


def transports(text: str) -> list[str]:
    """Transports from a comma-separated list. Raises ConfigError for an unknown one."""
    from hltfarm.proto.errors import ConfigError

    found = [part.strip() for part in text.split(",")]
    if not set(found) <= {"tcp", "ipc"}:
        raise ConfigError(f"--transport {text!r}: give tcp, ipc, or both separated by a comma")
    return found


def farm(
    source: Annotated[Path, typer.Argument(help="Sample whose events are sent in a circle: a .hlt file or a data directory.")],
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    ingests: Annotated[str, typer.Option(help="Ingest processes; several numbers are measured one after the other.")] = "1",
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes (default: one, or one a device).")] = None,
    devices: Annotated[str | None, typer.Option(help="GPUs, such as 0,1: a worker for each (default: the first one).")] = None,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads of each worker; 0 shares the cores out.")] = 0,
    transport: Annotated[str, typer.Option(help="Between clients and ingests: tcp, ipc or both.")] = "tcp",
    deadlines: Annotated[str, typer.Option(help="Batching deadlines in ms; a curve for each, a short one for all but the first.")] = "2",
    batch: Annotated[int, typer.Option(min=0, max=LARGEST_BATCH, help=BATCH)] = 0,
    slots: Annotated[int, typer.Option(min=1, max=1 << 16, help=SLOTS)] = 256,
    clients: Annotated[int, typer.Option(min=0, max=64, help="Client processes; 0: one for each ingest.")] = 0,
    connections: Annotated[int, typer.Option(min=0, max=256, help="Client connections; at least one for each ingest and process.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="Length of each load.")] = 5.0,
    fractions: Annotated[str, typer.Option(help="Offered rates, as parts of the rate at full speed.")] = "0.2,0.5,0.7,0.8,0.9,1.0,1.1",
    few: Annotated[str, typer.Option(help="The same for further deadlines.")] = "0.2,0.5,0.8",
    arrival: Annotated[str, typer.Option(help="Spacing of the events: uniform or poisson.")] = "poisson",
    limit_ms: Annotated[float, typer.Option(min=0.1, help="Latency that 99 % of the events must keep.")] = 20.0,
    chain_events: Annotated[int, typer.Option(min=0, help="Events of the measurement in process, 0 leaves it out.")] = 4096,
    chain_batches: Annotated[str, typer.Option(help="CUDA: batch sizes of that measurement.")] = "64,128",
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> int:
    """A farm of real processes under a rising load: rates, latencies, CPU use and the books, to the knee and beyond.

    The rate at full speed comes first, then rates that rise to the first with which the farm does not keep up. The exit code is 0 only
    if every event of every load was answered once and the ledgers agree.
    """
    from rich.console import Console

    from hltfarm.loadgen.load.report import write_json
    from hltfarm.loadgen.load.schedule import Arrival
    from hltfarm.loadgen.source import open_source
    from hltfarm.proto.errors import ConfigError, SampleError
    from hltfarm.service.bench.farm import Curve, Plan, chain_rate, run_plan
    from hltfarm.service.bench.points import Setting
    from hltfarm.service.bench.report import closed, print_curve, to_json
    from hltfarm.service.cli.bench import numbers
    from hltfarm.workers.reconstructor import cuda_available

    check_file("--json", json)
    if arrival not in list(Arrival):
        raise ConfigError(f"--arrival {arrival!r}: give one of {', '.join(Arrival)}")
    if len(open_source(source)) == 0:
        raise SampleError(f"{source}: no events in it")
    chosen = device_numbers(devices)
    backend = backend_name(backend, chosen)
    if backend == "auto":
        backend = "cuda" if cuda_available() else "cpu"
    count = worker_count(workers, chosen, backend)
    threads = threads or max(1, cores() // count)
    settings = [
        Setting(number, name, deadline)
        for number in numbers(ingests)
        for name in transports(transport)
        for deadline in positive("--deadlines", deadlines)
    ]
    serve = [*("--backend", backend), *("--threads", str(threads)), *("--batch", str(batch)), *("--slots", str(slots))]
    serve += [*("--workers", str(count)), *(("--devices", devices) if devices else ()), *("--detector", _detector(source))]
    console, errors = Console(width=160), Console(stderr=True)
    parts, shorter = positive("--fractions", fractions), positive("--few", few)
    with errors.status("") as status:
        say = status.update if errors.is_terminal else errors.print  # a line each where nothing can be overwritten
        say("the chain in process")
        chain = chain_rate(source, backend, threads * count, chain_events, min(1.0, seconds), chain_batches) if chain_events else None
        chain_hz = None if chain is None else float(chain["events_per_second"]) * (max(1, len(chosen)) if backend == "cuda" else 1)
        plan = Plan(
            source=source,
            settings=settings,
            serve=serve,
            clients=clients,
            connections=connections,
            seconds=seconds,
            fractions=parts,
            few=shorter,
            limit_ms=limit_ms,
            arrival=Arrival(arrival),
            chain_hz=chain_hz,
        )
        options = {"backend": backend, "workers": count, "devices": list(chosen), "threads": threads, "batch": batch, "slots": slots}
        curves: list[Curve] = []
        if chain is not None:
            told = f"{chain_hz:,.0f} events/s ({chain['device']}, batches of {chain['batch']})"
            console.print(f"the chain in process: {told}", soft_wrap=True)
        for curve in run_plan(plan, say):
            curves.append(curve)
            print_curve(curve, console)
            if json is not None:  # what was measured is kept if the rest is interrupted
                write_json(json, to_json(curves, source.name, chain, options))
    return 0 if all(closed(point) for curve in curves for point in curve.points) else 1


def _detector(source: Path) -> str:
    """What `hltfarm serve` has to be told of a sample's detector."""
    return detector_name(str(source)) if source.is_dir() else "phase1"
