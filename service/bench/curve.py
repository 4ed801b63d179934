"""What keys (CURVE) cost the data path: two ingests that differ in nothing else, loaded in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hltfarm.loadgen.load.driver import LoadConfig, run_load
from hltfarm.loadgen.load.schedule import Schedule
from hltfarm.proto.errors import HltfarmError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.bench.ingest_alone import RUN, Commands, running
from hltfarm.service.bench.report import machine
from hltfarm.service.farm_process import LOOPBACK, free_ports
from hltfarm.service.ingest.settings import IngestSettings
from hltfarm.service.security.keys import ClientCurve, ServerCurve, load_public, load_secret, new_keys

HEAD_BYTES = 12  # of a FED table with one FED
PAYLOADS = 8  # different ones, sent in a circle
WARM_UP_S = 0.5
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Turn:
    """One load on each ingest, one right after the other: events per second without and with keys; seconds of the client's CPU an event."""

    plain_hz: float
    curve_hz: float
    plain_cpu_s: float
    curve_cpu_s: float

    @property
    def ratio(self) -> float:
        """Rate with keys by rate without."""
        return self.curve_hz / self.plain_hz


@dataclass(frozen=True, slots=True)
class Point:
    """The turns of one size of payload, in bytes."""

    size: int
    turns: tuple[Turn, ...]


def payload_of(size: int, tag: int) -> RawEvent:
    """An event whose payload has about `size` bytes: a FED table with one FED of arbitrary content."""
    fed = max(8, (size - HEAD_BYTES) // 8 * 8)
    head = np.array([1, 40, fed], "<u4").view(np.uint8)
    return RawEvent(EventId(RUN, 1, tag, 1), np.concatenate([head, np.random.default_rng(tag).integers(0, 256, fed, np.uint8)]))


class _Side:
    """An ingest, with or without keys."""

    def __init__(self, commands: Commands, url: str, connections: int, curve: ClientCurve | None) -> None:
        self._commands, self._url, self._connections, self._curve = commands, url, connections, curve
        self._next = 1

    def load(self, payloads: Sequence[RawEvent], seconds: float) -> tuple[float, float]:
        """(events per second, seconds of CPU an event). Raises HltfarmError unless every event was answered once."""
        config = LoadConfig(
            ingests=(self._url,),
            schedule=Schedule(None, seconds),
            source="made",
            connections=self._connections,
            first_event=self._next,
            curve=self._curve,
        )
        report = run_load(config, payloads)
        self._commands.check()
        self._next = report.last_event + 1
        if not report.closed:
            raise HltfarmError(f"{self._url}: {'; '.join(report.problems)}")
        return report.achieved_rate_hz, report.cpu_seconds / report.sent


def measure(sizes: Sequence[int], seconds: float, turns: int, connections: int, slots: int, say: Callable[[str], None]) -> Iterator[Point]:
    """Measure every size, `turns` times a load of `seconds` on each side. Raises HltfarmError if a load goes wrong."""
    with tempfile.TemporaryDirectory(prefix="hltfarm-bench-") as name, ExitStack() as stack:
        plain, curve = (
            stack.enter_context(_side(Path(name) / which, keys=which == "curve", connections=connections, slots=slots))
            for which in ("plain", "curve")
        )
        for size in sizes:
            payloads = [payload_of(size, tag) for tag in range(PAYLOADS)]
            say(f"{size} bytes: warming up")
            for side in (plain, curve):
                side.load(payloads, WARM_UP_S)
            done: list[Turn] = []
            for number in range(turns):
                say(f"{size} bytes: turn {number + 1} of {turns}")
                order = (plain, curve) if number % 2 == 0 else (curve, plain)  # what drifts falls on both
                found = {side: side.load(payloads, seconds) for side in order}
                done.append(Turn(found[plain][0], found[curve][0], found[plain][1], found[curve][1]))
            yield Point(size, tuple(done))


@contextmanager
def _side(folder: Path, *, keys: bool, connections: int, slots: int) -> Iterator[_Side]:
    """An ingest of its own, running until the end of the block."""
    folder.mkdir()
    server, client = _keys(folder) if keys else (None, None)
    url = f"tcp://{LOOPBACK}:{free_ports(1)[0]}"
    settings = IngestSettings(
        clients_url=url,
        workers_url=f"ipc://{folder}/workers",
        control_url=f"ipc://{folder}/control",
        ring=SHARED_MEMORY / f"{folder.parent.name}.{folder.name}",
        slots=slots,
        curve=server,
        error_dir=folder / "errors",
        canary_s=0.0,
    )
    with running(settings) as commands:
        yield _Side(commands, url, connections, client)


def _keys(folder: Path) -> tuple[ServerCurve, ClientCurve]:
    """Keys of an ingest that lets one client in, and those of that client."""
    farm_public, farm_secret = new_keys("farm", folder)
    public, secret = new_keys("client", folder)
    room = folder / "allow" / "clients"
    room.mkdir(parents=True)
    public.rename(room / public.name)
    return ServerCurve(load_secret(farm_secret), folder / "allow"), ClientCurve(load_public(farm_public), load_secret(secret))


def to_json(points: Sequence[Point], options: dict[str, Any]) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    return {
        "machine": machine(),
        "options": options,
        "points": [{"bytes": point.size, **summary(point), "turns": [asdict(turn) for turn in point.turns]} for point in points],
    }


def summary(point: Point) -> dict[str, float]:
    """Medians over the turns; the ratio of each turn has both rates from the same few seconds."""
    ratios = sorted(turn.ratio for turn in point.turns)
    return {
        "plain_hz": median(turn.plain_hz for turn in point.turns),
        "curve_hz": median(turn.curve_hz for turn in point.turns),
        "ratio": median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "plain_cpu_us": 1e6 * median(turn.plain_cpu_s for turn in point.turns),
        "curve_cpu_us": 1e6 * median(turn.curve_cpu_s for turn in point.turns),
    }


def print_points(points: Sequence[Point], console: Console) -> None:
    """A table, one row for each size."""
    table = Table(title="an ingest without and with keys (CURVE)", title_justify="left")
    for heading in ("bytes", "turns", "plain/s", "MB/s", "CURVE/s", "MB/s", "ratio", "least", "most", "client us/event", "with CURVE"):
        table.add_column(heading, justify="right")
    for point in points:
        found = summary(point)
        rates = [text for key in ("plain_hz", "curve_hz") for text in (f"{found[key]:,.0f}", f"{found[key] * point.size * 1e-6:,.0f}")]
        ratios = (f"{found[key]:.2f}" for key in ("ratio", "ratio_min", "ratio_max"))
        times = (f"{found[key]:,.0f}" for key in ("plain_cpu_us", "curve_cpu_us"))
        table.add_row(f"{point.size:,}", str(len(point.turns)), *rates, *ratios, *times)
    console.print(table)
