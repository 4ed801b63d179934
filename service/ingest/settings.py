"""Settings of an ingest, passed in by whoever starts one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.limits import Limits
from hltfarm.service.ingest.payload_formats import Converter
from hltfarm.service.output.settings import OutputSettings
from hltfarm.service.security.keys import ServerCurve


def _ring() -> Path:
    return Path("/dev/shm") / f"hltfarm-{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """Endpoints, capacities and times of one ingest.

    slots: events in the farm at a time, queued or in processing. Too few starve the workers (each wants two to three batches), too many
    make overload show up as latency and not as backpressure. The ring takes slots x limits.max_payload_bytes of address space in /dev/shm.
    bytes_in_farm: payload bytes in the farm at a time, 0 for all that the slots can hold.
    curve: keys of the ingest, and whom its tcp endpoints for clients and control let in; None lets everybody in.
    window: decisions remembered to answer events that are sent again (280 bytes each).
    recent_bytes: payloads of the latest accepted and failed events that are kept to be shown; 0 for none. Too little shows few.
    status: file that is rewritten every second as a sign of life, None for none.
    output: where accepted events go; nowhere unless it names a folder or an endpoint.
    """

    clients_url: str = "tcp://127.0.0.1:7400"
    workers_url: str = "ipc:///tmp/hltfarm-workers"
    control_url: str = "tcp://127.0.0.1:7402"
    ring: Path = field(default_factory=_ring)
    slots: int = 256
    bytes_in_farm: int = 0
    limits: Limits = field(default_factory=Limits)
    window: int = 262_144
    max_clients: int = 64
    curve: ServerCurve | None = None
    error_dir: Path = Path("build/errors")
    status: Path | None = None
    recent_bytes: int = 32 << 20
    output: OutputSettings = field(default_factory=OutputSettings)
    payload_formats: Mapping[int, Converter] = field(default_factory=dict)  # of others, by number
    client_timeout_s: float = 10.0  # silence after which a session is closed; its credit is free then
    worker_heartbeat_s: float = 0.5
    worker_timeout_s: float = 5.0  # silence after which a worker is taken for lost; too low calls a busy machine's workers dead
    batch_timeout_s: float = 60.0  # a batch that runs longer is taken for hung; must exceed the slowest honest batch
    canary_s: float = 5.0  # time between two canaries of a worker, 0 for none; a tenth of a second costs a CPU worker some percent
    forget_worker_s: float = 120.0  # a lost worker that does not come back stops degrading the run
    stop_timeout_s: float = (
        5.0  # time that `stop` gives the workers before the rest goes to the error stream; the last worker stays as long
    )
    confirm_timeout_s: float = 1.0  # time that clients have to confirm a withdrawn licence before a run ends without them

    def __post_init__(self) -> None:
        """Raises ConfigError for values that contradict each other."""
        if self.slots < 1 or self.window < self.slots:
            raise ConfigError(f"slots={self.slots}, window={self.window}: at least one slot, and a window of at least as many decisions")
        if self.canary_s < 0 or 0 < self.canary_s < 0.05:
            raise ConfigError(f"canary_s={self.canary_s:g}: give at least 0.05 s between two canaries of a worker, or 0 for none")
        if self.worker_timeout_s <= 2 * self.worker_heartbeat_s:
            raise ConfigError(f"worker_timeout_s={self.worker_timeout_s} must exceed two heartbeats of {self.worker_heartbeat_s} s")
