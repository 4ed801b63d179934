"""Events of a consumer into files: the work of `hltfarm tap`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from hltfarm.proto.framing import checksum
from hltfarm.service.consumer import Consumer, StreamEvent
from hltfarm.service.export import SUFFIXES, EventSink, RootLayout
from hltfarm.service.output.detectors import DetectorBlocks
from hltfarm.service.output.events import OutputEvent
from hltfarm.service.output.hlt_file import Opening, OutputFile, Place


@dataclass(slots=True)
class Tapped:
    """What came: events, their payload bytes, events that were missed, whether an ingest ever answered, and the files."""

    events: int = 0
    payload_bytes: int = 0
    missed: int = 0
    subscribed: bool = False
    files: list[Path] = field(default_factory=list)


def run_tap(
    consumer: Consumer,
    out: Path | None,
    *,
    count: int = 0,
    seconds: float = 0.0,
    poll_s: float = 0.5,
    layout: RootLayout = RootLayout.RNTUPLE,
    clock: Callable[[], float] = time.monotonic,
) -> Tapped:
    """Take events until there are `count` of them or `seconds` are over (0: neither), or until SIGINT or SIGTERM, which end it in order.

    If `out` is an .hlt file, events are in it, and on the medium, before they are confirmed. Columns (.root, .parquet, .arrow) are
    of use when the file is complete, and are written block by block: only for consumers that may miss events. Where another menu or
    model decides, `out` gets a further part. Raises OSError if the disk refuses; the events of the last poll are not confirmed then.
    """
    result, files = Tapped(), _files_for(out, layout) if out is not None else None
    end = clock() + seconds if seconds else float("inf")
    with _asked_to_end() as asked:
        try:
            while not asked.is_set() and clock() < end and not (count and result.events >= count):
                events = consumer.poll(min(poll_s, max(0.0, end - clock())))
                if count:
                    events = events[: count - result.events]
                if files is not None:
                    files.write(events)
                consumer.confirm()
                result.subscribed = result.subscribed or consumer.connected
                result.events += len(events)
                result.payload_bytes += sum(event.payload.nbytes for event in events)
        finally:
            result.missed = consumer.missed
            if files is not None:
                result.files = files.close()
    return result


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM: neither breaks off a write, which would cost the file. A second one does. Signals are for the main thread
    alone; another is never asked."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    main = threading.current_thread() is threading.main_thread()
    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Target(Protocol):
    def write(self, events: list[StreamEvent]) -> None: ...

    def close(self) -> list[Path]: ...


def _files_for(out: Path, layout: RootLayout) -> _Target:
    return _Columns(EventSink(out, metadata={"made_by": "tap"}, layout=layout)) if out.suffix in SUFFIXES else _Files(out)


class _Columns:
    """Tracks, vertices and decisions in a sink."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink

    def write(self, events: list[StreamEvent]) -> None:
        """Append events; if that fails, the file that is not complete goes."""
        try:
            for event in events:
                self._sink.append(event)
        except BaseException:
            self._sink.abort()
            raise

    def close(self) -> list[Path]:
        """Complete the present file; all that were."""
        self._sink.close()
        return self._sink.files


class _Files:
    def __init__(self, out: Path) -> None:
        self._out = out
        self._detectors = DetectorBlocks()
        self._file: OutputFile | None = None
        self._description: dict[str, Any] = {}
        self._closed: list[Path] = []

    def write(self, events: list[StreamEvent]) -> None:
        """Append events and force them to the medium."""
        for event in events:
            file = self._file
            if file is None or event.description != self._description:
                file = self._next(event)
            data = OutputEvent(
                number=0,
                id=event.id,
                payload=event.payload.data,
                crc=checksum(event.payload),
                bits=int(event.decision["path_bits"][0]),
                decision=event.decision.tobytes(),
                columns=event.columns,
            )
            file.append([data])
        if self._file is not None and events:
            self._file.sync()

    def _next(self, event: StreamEvent) -> OutputFile:
        self.close()
        part = len(self._closed) + 1
        path = self._out if part == 1 else self._out.with_name(f"{self._out.stem}.part{part}{self._out.suffix}")
        config = event.description.get("config")
        spec = config.get("detector") if isinstance(config, dict) else None
        detector, block = self._detectors.of(str(spec)) if spec else (None, b"")
        metadata = {**event.description, **({"detector": detector} if detector is not None else {})}
        self._description = event.description
        metadata |= {"run": event.id.run, "columns": bool(event.columns)}
        self._file = OutputFile(path, Opening(Place(event.id.run, event.id.lumi, "tap"), metadata, block))
        return self._file

    def close(self) -> list[Path]:
        """Complete the present file; all that were."""
        if self._file is not None:
            self._file.close(sync=True)
            self._closed.append(self._file.path)
            self._file = None
        return self._closed
