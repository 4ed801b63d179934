"""`hltfarm serve`: a whole farm on one machine."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hltfarm.service.cli.options import (
    BATCH,
    BATCH_TIMEOUT,
    DEADLINE,
    LARGEST_BATCH,
    SLOTS,
    AllowOption,
    CurveKeyOption,
    EngineOption,
    EventModelOption,
    InsecureOption,
    ModelOption,
    OpenMetricsOption,
    TokensOption,
    WorkingPointOption,
)
from hltfarm.service.cli.output_options import (
    ColumnsOption,
    FileOption,
    FsyncOption,
    GraceOption,
    KeepOption,
    ReserveOption,
    UrlOption,
    output_settings,
)
from hltfarm.service.cli.trace_options import SHARE, OtlpOption, OtlpShareOption, trace_settings
from hltfarm.service.output.settings import Fsync

if TYPE_CHECKING:
    from hltfarm.proto.messages import RunConfig

LARGEST_THREADS = 1024
NVIDIA = Path("/dev/nvidiactl")  # is there where the driver is loaded


def menu_text(menu: Path | None) -> str:
    """Text of a menu file, checked; empty for the built-in one. Raises ConfigError with one line that names the file."""
    from hltfarm.workers.menu.menu import Menu
    from hltfarm.workers.menu.yaml_source import read_file

    if menu is None:
        return ""
    text = read_file(menu)
    Menu.parse(text, origin=str(menu))
    return text


def model_name(model: str | None) -> str:
    """A model for the workers of this machine: a folder becomes an absolute path, a name stays, None is empty. Raises ConfigError."""
    from hltfarm.workers.models.registry import find, shipped

    if model is None or model == "none" or model.partition("@")[0] in shipped():
        return model or ""
    return str(find(model).resolve())


def detector_name(detector: str) -> str:
    """`phase1`, or the absolute path of a detector file or a conditions folder. ConfigError or ConditionsError if it cannot be used."""
    from hltfarm.proto.detector import is_detector_file, load_detector
    from hltfarm.proto.errors import ConfigError

    if detector == "phase1":
        return detector
    path = Path(detector)
    if not path.is_dir() and not is_detector_file(detector):
        raise ConfigError(f"detector {detector!r}: neither 'phase1' nor a detector file (.yaml), nor a folder with conditions")
    load_detector(detector)
    return str(path.resolve())


def backend_name(backend: str, devices: tuple[int, ...] = ()) -> str:
    """A backend that may work here; who names devices wants cuda.

    Raises ConfigError for an unknown one, BackendError for cuda without CuPy (which is not loaded).
    """
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.supervisor.workers import check_backend

    if backend not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"--backend {backend!r}: choose cpu, cuda or auto")
    if backend == "auto" and devices:
        backend = "cuda"
    check_backend(backend)
    return backend


def fallback_wanted(asked: bool | None, backend: str) -> bool:
    """Whether a farm of this backend gets a CPU worker for what GPUs fail on: as asked, else where there are GPUs."""
    if asked is not None:
        return asked
    return backend == "cuda" or (backend == "auto" and importlib.util.find_spec("cupy") is not None and NVIDIA.exists())


def check_models(run: RunConfig) -> None:
    """Load the models of a run as a worker would. Raises ConfigError if that cannot work."""
    from hltfarm.workers.reconstructor import load_selector
    from hltfarm.workers.run_models import check, configuration_of

    check(run)
    load_selector(configuration_of(run).selection)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def device_numbers(text: str | None) -> tuple[int, ...]:
    """GPUs from a comma-separated list of their numbers. Raises ConfigError for anything else, and for one that is named twice."""
    from hltfarm.proto.errors import ConfigError

    if text is None:
        return ()
    numbers = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--devices {text!r}: give different GPUs by their numbers, such as 0,1")
    return tuple(numbers)


def worker_count(workers: int | None, devices: tuple[int, ...], backend: str) -> int:
    """Worker processes: one for each device if devices are given. Raises ConfigError for options that contradict each other."""
    from hltfarm.proto.errors import ConfigError

    if not devices:
        return workers or 1
    if backend == "cpu":
        raise ConfigError("--devices names GPUs; with --backend cpu there is nothing to choose")
    if workers not in (None, len(devices)):
        raise ConfigError(f"--workers {workers} and {len(devices)} --devices: each device has one worker; leave --workers out")
    return len(devices)


def serve(
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes (default: one, or one a device).")] = None,
    ingests: Annotated[int, typer.Option(min=1, max=64, help="Ingest processes, which share the clients; each takes some 2.5 GB/s.")] = 1,
    devices: Annotated[str | None, typer.Option(help="GPUs, such as 0,1: a worker for each (default: the first one).")] = None,
    backend: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is a device.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=LARGEST_THREADS, help="CPU threads of each worker; 0 shares the cores out.")] = 0,
    http: Annotated[str, typer.Option(help="Where the control plane listens, HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:8080",
    ingest: Annotated[
        str, typer.Option(help="Where clients send events, a ZeroMQ endpoint; further ingests at the next ports.")
    ] = "tcp://127.0.0.1:7400",
    menu: Annotated[Path | None, typer.Option(help="Menu file (YAML); the built-in menu if not given.")] = None,
    detector: Annotated[str, typer.Option(help="phase1, a detector file (.yaml), or a folder with conditions.")] = "phase1",
    model: ModelOption = None,
    working_point: WorkingPointOption = None,
    engine: EngineOption = None,
    event_model: EventModelOption = None,
    run: Annotated[int | None, typer.Option(min=1, help="Number of the first run (default: the one after the last).")] = None,
    autostart: Annotated[bool, typer.Option("--autostart/--no-autostart", help="Configure and start a run at once.")] = True,
    data: Annotated[Path, typer.Option(help="Folder for the run registry and the error stream; one farm at a time.")] = Path(
        "hltfarm-data"
    ),
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the files of accepted events (default: output/ in the data folder).")
    ] = None,
    no_output: Annotated[bool, typer.Option("--no-output", help="Write no files of accepted events.")] = False,
    output_url: UrlOption = None,
    fsync: FsyncOption = Fsync.LUMISECTION,
    output_columns: ColumnsOption = True,
    output_file: FileOption = "4G",
    output_keep: KeepOption = "0",
    output_reserve: ReserveOption = "256M",
    output_grace_s: GraceOption = 5.0,
    slots: Annotated[int, typer.Option(min=1, max=1 << 16, help=SLOTS)] = 256,
    batch: Annotated[int, typer.Option(min=0, max=LARGEST_BATCH, help=BATCH)] = 0,
    deadline_ms: Annotated[float, typer.Option(min=0, max=10_000, help=DEADLINE)] = 2.0,
    batch_timeout_s: Annotated[
        float, typer.Option(min=0.1, max=86_400, help=BATCH_TIMEOUT, envvar="HLTFARM_INGEST_BATCH_TIMEOUT_S")
    ] = 60.0,
    fallback: Annotated[
        bool | None,
        typer.Option("--fallback/--no-fallback", help="One more worker on the CPU, for what a GPU fails on (default: beside GPUs)."),
    ] = None,
    otlp: OtlpOption = None,
    otlp_share: OtlpShareOption = SHARE,
    tokens: TokensOption = None,
    open_metrics: OpenMetricsOption = False,
    curve_key: CurveKeyOption = None,
    allow: AllowOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Run a whole farm on this machine until it is interrupted: control plane, ingests and workers."""
    import asyncio

    from hltfarm.proto.errors import ConfigError
    from hltfarm.proto.messages import RunConfig
    from hltfarm.service.cli.security import access_settings, server_curve
    from hltfarm.service.endpoints import check_syntax, client_endpoints
    from hltfarm.service.logs import log_to
    from hltfarm.service.security.binds import check_endpoint
    from hltfarm.service.supervisor.local import run_local_farm
    from hltfarm.service.supervisor.specs import LocalFarmSettings

    if otlp is not None:
        trace_settings(otlp, otlp_share)
    access = access_settings(http, tokens, open_metrics=open_metrics, insecure=insecure)
    curve = server_curve(curve_key, allow)
    check_syntax("--ingest", ingest)
    check_endpoint("--ingest", ingest, curve=curve is not None, insecure=insecure)
    if output_url is not None:
        check_endpoint("--output-url", output_url, curve=curve is not None, insecure=insecure)
        client_endpoints(output_url, ingests)
    if no_output and output is not None:
        raise ConfigError(f"--output {output} and --no-output contradict each other; give one")
    files = None if no_output else (output or data / "output")
    accepted = output_settings(files, output_url, fsync, output_columns, output_file, output_keep, output_reserve, output_grace_s)
    config = RunConfig(
        run=0,
        detector=detector_name(detector),
        menu=menu_text(menu),
        model=model_name(model),
        working_point=working_point or "",
        engine=engine or "",
        event_model=model_name(event_model),
    )
    check_models(config)
    chosen = device_numbers(devices)
    chosen_backend = backend_name(backend, chosen)
    count = worker_count(workers, chosen, backend)
    endpoints = client_endpoints(ingest, ingests)
    settings = LocalFarmSettings(
        workers=count,
        ingests=ingests,
        devices=chosen,
        batch=batch,
        deadline_ms=deadline_ms,
        backend=chosen_backend,
        fallback=fallback_wanted(fallback, chosen_backend),
        batch_timeout_s=batch_timeout_s,
        threads=threads or max(1, cores() // count),
        http=http,
        clients_url=ingest,
        config=config,
        data=data,
        first_run=run,
        autostart=autostart,
        slots=slots,
        output=accepted,
        access=access,
        curve=None if curve_key is None or allow is None else (curve_key.resolve(), allow.resolve()),
        insecure=insecure,
        otlp=otlp or "",
        otlp_share=otlp_share,
    )
    log_to()

    def started(url: str) -> None:
        typer.echo(f"hltfarm: API at {url} (documentation: {url}/docs), events at {' '.join(endpoints)}")
        if files is not None:
            typer.echo(f"hltfarm: accepted events go to {files}")

    asyncio.run(run_local_farm(settings, started))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)
