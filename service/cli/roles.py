"""`hltfarm control`, `hltfarm ingest`, `hltfarm worker`: one role each, for containers and for the supervisor.

Every option can come from the environment, HLTFARM_<ROLE>_<OPTION>.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated

import typer

from hltfarm.service.cli.options import (
    BATCH,
    BATCH_TIMEOUT,
    DEADLINE,
    ENGINE,
    EVENT_MODEL,
    FALLBACK,
    HANG,
    LARGEST_BATCH,
    MODEL,
    SLOTS,
    WORKER_TIMEOUT,
    WORKING_POINT,
    AllowOption,
    CurveKeyOption,
    InsecureOption,
    OpenMetricsOption,
    OwnKeyOption,
    ServerKeyOption,
    StatusOption,
    TokensOption,
)
from hltfarm.service.cli.output_options import (
    ColumnsOption,
    FileOption,
    FsyncOption,
    GraceOption,
    KeepOption,
    RecentOption,
    ReserveOption,
    UrlOption,
    output_settings,
    size,
)
from hltfarm.service.cli.serve import LARGEST_THREADS, cores, menu_text
from hltfarm.service.cli.trace_options import SHARE, OtlpOption, OtlpShareOption, trace_settings
from hltfarm.service.output.settings import Fsync

#: Events of a batch where nothing else is asked for. A GPU is full with some 64 events at a time, and several such parts overlap copies and
#: kernels; CPU threads gain nothing from company, a few events each only keep them all busy until the end of a batch.
CUDA_BATCH = 64
CPU_BATCH = 4  # a thread
DEFAULT_CONTROL = "tcp://127.0.0.1:7402"


def farm_name(name: str) -> str:
    """The name, checked. Raises ConfigError."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.control.settings import FARM_NAME

    if not re.fullmatch(FARM_NAME, name):
        raise ConfigError(f"--farm {name!r}: up to 64 letters, digits, '_', '.' and '-'")
    return name


def default_name() -> str:
    """Name of a worker that was given none: host and process; the host alone where it is the only process of a container."""
    return socket.gethostname() if os.getpid() == 1 else f"{socket.gethostname()}-{os.getpid()}"


def control(
    ingest: Annotated[
        list[str] | None,
        typer.Option(
            help="Control endpoint of an ingest; repeat it for more (default: tcp://127.0.0.1:7402, without --ingest-dns).",
            envvar="HLTFARM_CONTROL_INGEST",
        ),
    ] = None,
    ingest_dns: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which ingests are found, again and again: of SRV records (_control._tcp.SERVICE), or HOST:PORT; repeatable.",
            envvar="HLTFARM_CONTROL_INGEST_DNS",
        ),
    ] = None,
    http: Annotated[str, typer.Option(help="Where to listen, HOST:PORT.", envvar="HLTFARM_CONTROL_HTTP")] = "127.0.0.1:8080",
    database: Annotated[
        str, typer.Option(help="SQLAlchemy URL of the run registry.", envvar="HLTFARM_CONTROL_DATABASE")
    ] = "sqlite:///hltfarm-data/runs.db",
    farm: Annotated[str, typer.Option(help="Name of this farm, where several share a database.", envvar="HLTFARM_CONTROL_FARM")] = "",
    models: Annotated[
        Path | None,
        typer.Option(
            help="Folder for uploaded models, which the workers see under the same name (a shared file system).",
            envvar="HLTFARM_CONTROL_MODELS",
        ),
    ] = None,
    menu: Annotated[Path | None, typer.Option(help="Menu of configurations that name none.", envvar="HLTFARM_CONTROL_MENU")] = None,
    detector: Annotated[
        str,
        typer.Option(
            help="Detector of such configurations: phase1, a detector file, or a folder on the workers' machines.",
            envvar="HLTFARM_CONTROL_DETECTOR",
        ),
    ] = "phase1",
    model: Annotated[str | None, typer.Option(help=MODEL, envvar="HLTFARM_CONTROL_MODEL")] = None,
    working_point: Annotated[str | None, typer.Option(help=WORKING_POINT, envvar="HLTFARM_CONTROL_WORKING_POINT")] = None,
    engine: Annotated[str | None, typer.Option(help=ENGINE, envvar="HLTFARM_CONTROL_ENGINE")] = None,
    event_model: Annotated[str | None, typer.Option(help=EVENT_MODEL, envvar="HLTFARM_CONTROL_EVENT_MODEL")] = None,
    run: Annotated[int | None, typer.Option(min=1, help="Number of the first run.", envvar="HLTFARM_CONTROL_RUN")] = None,
    autostart: Annotated[
        bool, typer.Option("--autostart/--no-autostart", help="Configure and start a run at once.", envvar="HLTFARM_CONTROL_AUTOSTART")
    ] = False,
    tokens: TokensOption = None,
    open_metrics: OpenMetricsOption = False,
    key: OwnKeyOption = None,
    server_key: ServerKeyOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Serve the control plane (HTTP) of ingests that run elsewhere. A folder of a model is one on the workers' machines."""
    import asyncio

    from hltfarm.service.cli.security import access_settings, client_curve
    from hltfarm.service.control.alone import run_control
    from hltfarm.service.control.discovery import check_name
    from hltfarm.service.control.settings import ControlSettings
    from hltfarm.service.logs import log_to
    from hltfarm.workers.run_models import check

    for found_by in ingest_dns or ():
        check_name(found_by)
    settings = ControlSettings(
        ingests=tuple(ingest or (() if ingest_dns else (DEFAULT_CONTROL,))),
        ingest_names=tuple(ingest_dns or ()),
        database=database,
        farm=farm_name(farm),
        models=None if models is None else models.absolute(),
        menu=menu_text(menu),
        detector=detector,
        model=model or "",
        working_point=working_point or "",
        engine=engine or "",
        event_model=event_model or "",
        first_run=run,
        autostart=autostart,
        access=access_settings(http, tokens, open_metrics=open_metrics, insecure=insecure),
    )
    curve = client_curve(key, server_key)
    check(settings.defaults)
    log_to()
    asyncio.run(run_control(settings, http, lambda url: typer.echo(f"hltfarm: API at {url} (documentation: {url}/docs)"), curve))


def ingest(
    clients: Annotated[str, typer.Option(help="Where clients send events.", envvar="HLTFARM_INGEST_CLIENTS")] = "tcp://127.0.0.1:7400",
    workers: Annotated[str, typer.Option(help="Where workers connect.", envvar="HLTFARM_INGEST_WORKERS")] = "ipc:///tmp/hltfarm-workers",
    control: Annotated[
        str, typer.Option(help="Where the control plane connects.", envvar="HLTFARM_INGEST_CONTROL")
    ] = "tcp://127.0.0.1:7402",
    ring: Annotated[
        Path | None, typer.Option(help="File of the slot ring, in /dev/shm (default: one of its own).", envvar="HLTFARM_INGEST_RING")
    ] = None,
    slots: Annotated[
        int,
        typer.Option(min=1, max=1 << 16, help=SLOTS, envvar="HLTFARM_INGEST_SLOTS"),
    ] = 256,
    errors: Annotated[Path, typer.Option(help="Folder of the error stream.", envvar="HLTFARM_INGEST_ERRORS")] = Path("hltfarm-data/errors"),
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the files of accepted events; none if not given.", envvar="HLTFARM_INGEST_OUTPUT"),
    ] = None,
    output_url: UrlOption = None,
    fsync: FsyncOption = Fsync.LUMISECTION,
    output_columns: ColumnsOption = True,
    output_file: FileOption = "4G",
    output_keep: KeepOption = "0",
    output_reserve: ReserveOption = "256M",
    output_grace_s: GraceOption = 5.0,
    worker_timeout_s: Annotated[
        float, typer.Option(min=1.1, max=3600, help=WORKER_TIMEOUT, envvar="HLTFARM_INGEST_WORKER_TIMEOUT_S")
    ] = 5.0,
    batch_timeout_s: Annotated[
        float, typer.Option(min=0.1, max=86_400, help=BATCH_TIMEOUT, envvar="HLTFARM_INGEST_BATCH_TIMEOUT_S")
    ] = 60.0,
    stop_timeout_s: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=3600,
            help="Time for events in flight when a run ends, this process is told to end, or its last worker leaves.",
            envvar="HLTFARM_INGEST_STOP_TIMEOUT_S",
        ),
    ] = 5.0,
    window: Annotated[
        int, typer.Option(min=1, max=1 << 26, help="Decisions remembered, to answer what is sent again.", envvar="HLTFARM_INGEST_WINDOW")
    ] = 262_144,
    canary_s: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            help="Time between two canary events of a worker (outside of the books); 0: none.",
            envvar="HLTFARM_INGEST_CANARY_S",
        ),
    ] = 5.0,
    recent_bytes: RecentOption = "32M",
    status: StatusOption = None,
    payload_format: Annotated[
        list[str] | None,
        typer.Option(help="NUMBER=MODULE:FUNCTION: makes FED tables of payloads of this format.", envvar="HLTFARM_INGEST_PAYLOAD_FORMAT"),
    ] = None,
    curve_key: CurveKeyOption = None,
    allow: AllowOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Take events from clients, keep account of them, have workers process them."""
    from hltfarm.service.cli.security import server_curve
    from hltfarm.service.ingest.main import run_ingest
    from hltfarm.service.ingest.payload_formats import load_converters
    from hltfarm.service.ingest.settings import IngestSettings
    from hltfarm.service.logs import log_to
    from hltfarm.service.security.binds import check_endpoint

    curve = server_curve(curve_key, allow)
    accepted = output_settings(output, output_url, fsync, output_columns, output_file, output_keep, output_reserve, output_grace_s)
    consumers = (("--output-url", output_url, curve),) if output_url is not None else ()
    for option, url, guarded in (("--clients", clients, curve), ("--workers", workers, None), ("--control", control, curve), *consumers):
        check_endpoint(option, url, curve=guarded is not None, insecure=insecure)
    log_to()
    run_ingest(
        IngestSettings(
            clients_url=clients,
            workers_url=workers,
            control_url=control,
            ring=ring or Path("/dev/shm") / f"hltfarm-{os.getpid()}",
            slots=slots,
            error_dir=errors,
            curve=curve,
            output=accepted,
            status=status,
            worker_timeout_s=worker_timeout_s,
            batch_timeout_s=batch_timeout_s,
            stop_timeout_s=stop_timeout_s,
            window=max(window, slots),
            canary_s=canary_s,
            recent_bytes=size("--recent-bytes", recent_bytes),
            payload_formats=load_converters(payload_format or []),
        )
    )


def worker(
    ingest: Annotated[
        list[str],
        typer.Option(help="Where an ingest of this machine waits for workers; repeat it for more.", envvar="HLTFARM_WORKER_INGEST"),
    ] = ["ipc:///tmp/hltfarm-workers"],  # noqa: B006 typer copies it
    name: Annotated[
        str, typer.Option(help="Unique name (default: host and process, of a container the host).", envvar="HLTFARM_WORKER_NAME")
    ] = "",
    backend: Annotated[str, typer.Option(help="cpu, cuda or auto.", envvar="HLTFARM_WORKER_BACKEND")] = "auto",
    device: Annotated[
        int | None, typer.Option(min=0, help="GPU, counted from 0 (default: the first).", envvar="HLTFARM_WORKER_DEVICE")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, max=LARGEST_THREADS, help="CPU threads; 0 for all cores.", envvar="HLTFARM_WORKER_THREADS")
    ] = 0,
    batch: Annotated[int, typer.Option(min=0, max=LARGEST_BATCH, help=BATCH, envvar="HLTFARM_WORKER_BATCH")] = 0,
    deadline_ms: Annotated[float, typer.Option(min=0, max=10_000, help=DEADLINE, envvar="HLTFARM_WORKER_DEADLINE_MS")] = 2.0,
    hang_s: Annotated[float, typer.Option(min=0, max=86_400, help=HANG, envvar="HLTFARM_WORKER_HANG_S")] = 0.0,
    fallback: Annotated[bool, typer.Option("--fallback", help=FALLBACK, envvar="HLTFARM_WORKER_FALLBACK")] = False,
    otlp: OtlpOption = None,
    otlp_share: OtlpShareOption = SHARE,
    status: StatusOption = None,
) -> None:
    """Reconstruct events for the ingests of this machine."""
    from hltfarm.proto.errors import ConfigError
    from hltfarm.service.logs import log_to
    from hltfarm.workers.devices import check_cuda, choose_device
    from hltfarm.workers.process import WorkerSettings, run_worker
    from hltfarm.workers.reconstructor import cuda_available

    if backend not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"--backend {backend!r}: choose cpu, cuda or auto")
    if device is not None:
        choose_device(device)
    if backend == "auto":
        backend = "cuda" if cuda_available() else "cpu"
    elif backend == "cuda":
        check_cuda()
    log_to()
    threads = threads or cores()
    settings = WorkerSettings(
        ingests=tuple(ingest),
        name=name or default_name(),
        backend=backend,
        threads=threads,
        max_events=batch or (CUDA_BATCH if backend == "cuda" else CPU_BATCH * threads),
        max_wait_s=deadline_ms * 1e-3,
        hang_s=hang_s,
        fallback=fallback,
        traces=trace_settings(otlp, otlp_share),
        status=status,
    )
    build = None
    if faults := os.environ.get("HLTFARM_FAULTS"):  # never set but by `hltfarm chaos`
        from hltfarm.workers.faults import FaultFile, faulty

        build = faulty(settings.build, FaultFile(Path(faults), settings.name))
    run_worker(settings, build)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("control")(control)
    app.command("ingest")(ingest)
    app.command("worker")(worker)
