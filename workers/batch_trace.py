"""What a trace tells of a batch: its times, and the spans that they make. Pure; seconds of the machine's monotonic clock.

    batch                          arrival of the oldest event in the worker until the answers are sent
    ├── wait                       for company, in the batcher
    ├── queue                      for its turn, behind other batches
    ├── reconstruct                on the device
    │   └── unpack, clusters, ...  stages, where the reconstruction timed them (a GPU does so every 10 s)
    └── report                     until the answers are sent

Stages are known by their length alone: they lie one after the other in the order of the chain. What several CPU threads took together is
shortened so that it fits; the attribute `seconds` is what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Attribute: TypeAlias = str | int | float | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Where traces go. url: OTLP over HTTP, with the path; empty: where the variables OTEL_EXPORTER_OTLP_* say. share: of the batches."""

    url: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTimes:
    """One batch of the engine. arrived: its oldest event; given: to the engine; begin, end: of the reconstruction, decisions included."""

    arrived: float
    given: float
    begin: float
    end: float
    events: int
    payload_bytes: int
    runs: tuple[int, ...]
    generations: tuple[int, ...]
    backend: str
    device: str
    stage_seconds: Mapping[str, float]
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTimes:
    """A span before it is one."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str | None = None
    children: tuple[SpanTimes, ...] = ()


def spans(times: BatchTimes, reported: float) -> SpanTimes:
    """The tree of a batch whose answers were sent at `reported`."""
    about: dict[str, Attribute] = {
        "hltfarm.events": times.events,
        "hltfarm.payload_bytes": times.payload_bytes,
        "hltfarm.runs": times.runs,
        "hltfarm.generations": times.generations,
        "hltfarm.backend": times.backend,
        "hltfarm.device": times.device,
    }
    return SpanTimes(
        name="batch",
        begin=times.arrived,
        end=reported,
        attributes=about,
        error=times.error,
        children=(
            SpanTimes(name="wait", begin=times.arrived, end=times.given),
            SpanTimes(name="queue", begin=times.given, end=times.begin),
            SpanTimes(name="reconstruct", begin=times.begin, end=times.end, error=times.error, children=_stages(times)),
            SpanTimes(name="report", begin=times.end, end=reported),
        ),
    )


def _stages(times: BatchTimes) -> tuple[SpanTimes, ...]:
    total = sum(times.stage_seconds.values())
    if total <= 0.0:
        return ()
    scale = min(1.0, (times.end - times.begin) / total)
    found, at = [], times.begin
    for stage, seconds in times.stage_seconds.items():
        length = scale * seconds
        found.append(SpanTimes(name=stage, begin=at, end=at + length, attributes={"hltfarm.seconds": seconds}))
        at += length
    return tuple(found)


class Share:
    """Takes a share of what comes, evenly, the first one too."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._sum = 1.0

    def take(self) -> bool:
        """Whether the next one is taken."""
        taken = self._sum >= 1.0
        self._sum += self._share - taken
        return taken
