"""What a control plane costs for many ingests: a real one that looks at stand-ins, which answer with the snapshot of an ingest at work."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import msgspec
import psutil
import zmq

from hltfarm.proto.errors import BackendError
from hltfarm.proto.messages import Command, CommandReply, GpuUse, LedgerCounts, Resources, RunState, Snapshot, WorkerStatus
from hltfarm.service.farm_process import farm_process, free_ports, watcher
from hltfarm.service.ingest.server import IngestServer
from hltfarm.service.ingest.settings import IngestSettings

PATHS = 10
STREAMS = ("physics", "monitoring")
WAIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one number of ingests. `cores`: of the control plane while nobody asks it anything; a scrape takes that of one more look.

    first_s: from the start of the process until all ingests are in the status.
    """

    ingests: int
    first_s: float
    cores: float
    look_ms: float
    scrape_ms: float
    scrape_bytes: int
    series: int
    resident_bytes: int


def snapshot_at_work(folder: Path) -> Snapshot:
    """What an ingest says of itself in a run, with one GPU worker and a menu of some paths."""
    settings = IngestSettings(
        clients_url=f"ipc://{folder}/clients", workers_url=f"ipc://{folder}/workers", control_url=f"ipc://{folder}/control",
        ring=Path(f"/dev/shm/hltfarm-bench-control-{folder.name}"), slots=2, error_dir=folder / "errors",
    )  # fmt: skip
    with IngestServer(settings) as server:
        empty = server.snapshot()
    counts = LedgerCounts(received=10_000_000, accepted=200_000, rejected=9_799_900, in_flight=100)
    gpu = GpuUse(index=0, uuid="GPU-0", memory_used_bytes=1 << 34, memory_total_bytes=1 << 37, utilization=0.9)
    worker = WorkerStatus(
        name="worker", backend="cuda", device="gpu", up=True, ready=True, credit_events=640, in_flight=100, processed=10_000_000, pid=1,
        host="host", canary_at=1.0, canary_age_s=1.0, resources=Resources(resident_bytes=1 << 32, gpu=gpu),
    )  # fmt: skip
    paths = {f"HLT_Path{number}": 20_000 for number in range(PATHS)}
    return msgspec.structs.replace(
        empty, state=RunState.RUNNING, run=1, ledger=counts, totals=counts, workers=[worker], menu_hash="0123456789abcdef",
        path_accepts=paths, path_prescaled=paths, path_events=dict.fromkeys(paths, 10_000_000), stream_events=dict.fromkeys(STREAMS, 9_999),
        stream_bytes=dict.fromkeys(STREAMS, 1 << 35), problems=[], slots_total=256, slots_free=156,
    )  # fmt: skip


def stand_ins(count: int, told: Connection) -> None:
    """So many ingests in one process; tells their endpoints, then answers until it is killed."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot = snapshot_at_work(Path(folder))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4096)
    poller, endpoints, numbers = zmq.Poller(), [], {}
    for number in range(count):
        socket = context.socket(zmq.ROUTER)
        socket.bind("tcp://127.0.0.1:*")
        endpoints.append(socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())  # type: ignore[union-attr]
        poller.register(socket, zmq.POLLIN)
        worker = snapshot.workers[0]
        own = msgspec.structs.replace(worker, name=f"worker-{number}", host=f"host-{number}", device=f"host-{number}:0")
        numbers[socket] = msgspec.structs.replace(snapshot, workers=[own], started=float(number))
    told.send(endpoints)
    while True:
        for socket, _ in poller.poll():
            peer, body = socket.recv_multipart()
            reply = CommandReply(id=msgspec.json.decode(body, type=Command).id, snapshot=numbers[socket])
            socket.send_multipart([peer, msgspec.json.encode(reply)])


@contextmanager
def _standing_in(count: int) -> Iterator[list[str]]:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=stand_ins, args=(count, there), name="stand-ins", daemon=True)
    process.start()
    try:
        if not here.poll(WAIT_S):
            raise BackendError(f"{count} stand-ins did not start within {WAIT_S:g} s")
        yield here.recv()
    finally:
        process.kill()
        process.join()
        here.close()
        there.close()


def measure(counts: Sequence[int], seconds: float, scrapes: int, say: Callable[[str], None]) -> Iterator[Cost]:
    """The cost for each number of ingests. Raises BackendError if a process fails."""
    for count in counts:
        say(f"{count} ingests")
        with _standing_in(count) as endpoints, tempfile.TemporaryDirectory() as folder:
            yield _measure(endpoints, seconds, scrapes, Path(folder))


def _measure(endpoints: Sequence[str], seconds: float, scrapes: int, folder: Path) -> Cost:
    (port,) = free_ports(1)
    arguments = ["--http", f"127.0.0.1:{port}", "--database", f"sqlite:///{folder}/runs.db"]
    arguments += [text for endpoint in endpoints for text in ("--ingest", endpoint)]
    began = time.monotonic()
    with (
        farm_process(arguments, folder / "log", role="control") as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        check = watcher(process, folder / "log")
        _wait(http, len(endpoints), check)
        first = time.monotonic() - began
        own = psutil.Process(process.pid)
        busy, start = sum(own.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)  # the length of the measurement
        cores = (sum(own.cpu_times()[:2]) - busy) / (time.monotonic() - start)
        busy, text, took = sum(own.cpu_times()[:2]), "", []
        for _ in range(scrapes):
            asked = time.monotonic()
            text = http.get("/metrics", timeout=60).raise_for_status().text
            took.append(time.monotonic() - asked)
            time.sleep(0.3)  # closer together they would share a look
        check()
        return Cost(
            ingests=len(endpoints),
            first_s=first,
            cores=cores,
            look_ms=1e3 * cores * 0.5,  # two looks a second
            scrape_ms=1e3 * sorted(took)[len(took) // 2],
            scrape_bytes=len(text.encode()),
            series=sum(not line.startswith("#") for line in text.splitlines()),
            resident_bytes=own.memory_info().rss,
        )


def _wait(http: httpx.Client, count: int, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        check()
        try:
            ingests = http.get("/v1/status", timeout=30).json()["ingests"]
        except httpx.TransportError:
            ingests = []
        if sum(ingest["up"] for ingest in ingests) == count:
            return
        time.sleep(0.1)
    raise BackendError(f"the control plane did not see {count} ingests within {WAIT_S:g} s")


def to_json(costs: Sequence[Cost]) -> dict[str, object]:
    """For a report."""
    return {"control": [asdict(cost) for cost in costs]}
