"""What a farm on one machine consists of: its settings, and the command lines of its processes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from hltfarm.proto.messages import RunConfig
from hltfarm.service.control.access import AccessSettings
from hltfarm.service.endpoints import client_endpoints
from hltfarm.service.output.settings import OutputSettings
from hltfarm.service.supervisor.leftovers import RuntimeFolder
from hltfarm.service.supervisor.policy import RestartPolicy
from hltfarm.service.supervisor.processes import ProcessSpec
from hltfarm.service.supervisor.watchdog import WatchdogSettings

HLTFARM = (sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()")
FALLBACK = "fallback"
FALLBACK_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFarmSettings:
    """A farm on one machine. Durations in seconds.

    ingests: shards side by side; clients_url is where the first listens, `client_endpoints` tells where the others do.
    devices: a worker for each of these GPUs, then `workers` is their number; empty: the workers choose. slots: of each ingest.
    batch, deadline_ms, threads: of each worker, as `hltfarm worker` takes them. config: of runs that are told nothing else.
    fallback: one more worker, on the CPU, for events that the others failed on and for the time in which none of them is ready.
    batch_timeout_s: longest batch, 0 for what `hltfarm ingest` takes.
    """

    workers: int
    backend: str
    threads: int
    http: str
    clients_url: str
    config: RunConfig
    data: Path
    ingests: int = 1
    devices: tuple[int, ...] = ()
    batch: int = 0
    deadline_ms: float = 2.0
    first_run: int | None = None
    autostart: bool = True
    slots: int = 256
    fallback: bool = False
    batch_timeout_s: float = 0.0
    access: AccessSettings = field(default_factory=AccessSettings)
    curve: tuple[Path, Path] | None = None  # secret key file and allow-list of the ingests
    output: OutputSettings = field(default_factory=OutputSettings)
    otlp: str = ""  # collector of the workers' traces, empty for what the environment says
    otlp_share: float = 0.01  # of the batches
    insecure: bool = False  # the ingests may listen where others reach them without keys
    drain_s: float = 10.0  # longest wait for the run to end; the ingest forces what is left to the error stream before
    grace_s: float = 10.0  # longest wait for a process to end after SIGTERM
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)


def ingest_names(ingests: int) -> list[str]:
    """Names of the ingests: of their processes, their sockets and their folders of the error stream."""
    return ["ingest"] if ingests == 1 else [f"ingest-{index}" for index in range(ingests)]


def ingest_specs(settings: LocalFarmSettings, folder: RuntimeFolder) -> list[ProcessSpec]:
    """The ingests of the farm."""
    names = ingest_names(settings.ingests)
    errors, output = settings.data / "errors", settings.output
    consumers = client_endpoints(output.url, settings.ingests) if output.url is not None else [None] * settings.ingests
    return [
        ProcessSpec(
            name=name,
            role="ingest",
            command=(
                *HLTFARM,
                "ingest",
                *("--clients", clients),
                *("--workers", folder.endpoint(f"{name}-workers")),
                *("--control", folder.endpoint(f"{name}-control")),
                *("--ring", str(folder.ring(index))),
                *("--slots", str(settings.slots)),
                *(("--curve-key", str(settings.curve[0]), "--allow", str(settings.curve[1])) if settings.curve is not None else ()),
                *(("--insecure",) if settings.insecure else ()),
                *("--errors", str(errors if settings.ingests == 1 else errors / name)),
                *output.arguments(_own_folder(output.folder, name, settings.ingests), consumers[index]),
                *(("--batch-timeout-s", str(settings.batch_timeout_s)) if settings.batch_timeout_s else ()),
            ),
        )
        for index, (name, clients) in enumerate(zip(names, client_endpoints(settings.clients_url, settings.ingests), strict=True))
    ]


def _own_folder(folder: Path | None, name: str, ingests: int) -> Path | None:
    """Folder of one ingest: each of several has its own."""
    return folder if folder is None or ingests == 1 else folder / name


def worker_spec(
    settings: LocalFarmSettings,
    folder: RuntimeFolder,
    name: str,
    *,
    backend: str | None = None,
    device: int | None = None,
    threads: int | None = None,
    fallback: bool = False,
) -> ProcessSpec:
    """One worker; what is not given is as the farm's settings say."""
    return ProcessSpec(
        name=name,
        role="worker",
        command=(
            *HLTFARM,
            "worker",
            *(option for ingest in ingest_names(settings.ingests) for option in ("--ingest", folder.endpoint(f"{ingest}-workers"))),
            *("--name", name),
            *("--backend", backend or settings.backend),
            *(("--device", str(device)) if device is not None else ()),
            *("--threads", str(threads or settings.threads)),
            *("--batch", str(0 if fallback else settings.batch)),
            *("--deadline-ms", str(settings.deadline_ms)),
            *(("--fallback",) if fallback else ()),
            *(("--otlp", settings.otlp) if settings.otlp else ()),
            *("--otlp-share", str(settings.otlp_share)),
        ),
    )


def worker_specs(settings: LocalFarmSettings, folder: RuntimeFolder) -> list[ProcessSpec]:
    """The workers that the farm starts with."""
    devices = settings.devices or (None,) * settings.workers
    specs = [worker_spec(settings, folder, f"worker-{index}", device=device) for index, device in enumerate(devices)]
    if settings.fallback:
        threads = min(FALLBACK_THREADS, settings.threads)
        specs.append(worker_spec(settings, folder, FALLBACK, backend="cpu", threads=threads, fallback=True))
    return specs


def process_specs(settings: LocalFarmSettings, folder: RuntimeFolder) -> list[ProcessSpec]:
    """The processes of the farm, the ingests first."""
    return [*ingest_specs(settings, folder), *worker_specs(settings, folder)]
