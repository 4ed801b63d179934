"""`hltfarm tap` into columns: what ends it, and events in memory; without a farm."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import EventId
from hltfarm.proto.results import OUTPUT_DECISION
from hltfarm.service.consumer import StreamEvent
from hltfarm.service.export import EventSink, memory, to_arrow
from hltfarm.service.tap import run_tap
from tests.unit.event_tables import columns_of


def event(number: int, path: str = "HLT_A") -> StreamEvent:
    """Of a menu with one path, which accepted it."""
    decision = np.zeros(1, OUTPUT_DECISION)
    decision["path_bits"] = 1
    payload = np.random.default_rng(number).integers(0, 256, 100 + number, dtype=np.uint8)
    return StreamEvent(EventId(1, 1, number), payload, decision, b"", 0, False, {"paths": [path], "path_streams": ["s"], "menu": path})


class Stream:
    """In place of a consumer: three events with every poll."""

    missed = 0
    connected = True

    def __init__(self) -> None:
        self._next = 0

    def poll(self, timeout: float) -> list[StreamEvent]:
        self._next += 3
        return [event(number) for number in range(self._next - 3, self._next)]

    def confirm(self) -> None:
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_write_ends_it_in_order(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = EventSink.append

    def interrupted(sink: EventSink, one: StreamEvent) -> None:
        if one.id.event == 4:
            signal.raise_signal(number)
        append(sink, one)

    def unheld(number: int, frame: object) -> None:
        raise RuntimeError("the signal broke off what was under way")

    monkeypatch.setattr(EventSink, "append", interrupted)
    before = signal.signal(number, unheld)
    try:
        result = run_tap(Stream(), tmp_path / "x.parquet")  # type: ignore[arg-type]
        assert signal.getsignal(number) is unheld
    finally:
        signal.signal(number, before)
    assert (result.events, result.files) == (6, [tmp_path / "x.parquet"])
    assert columns_of(tmp_path / "x.parquet")["event"].tolist() == list(range(6))  # type: ignore[union-attr]


def test_events_of_two_menus_that_come_in_turns_are_in_two_files(tmp_path: Path) -> None:
    with EventSink(tmp_path / "x.arrow") as sink:
        for number, path in enumerate("ABABBABAACCBC"):
            sink.append(event(number, f"HLT_{path}"))
    assert sink.files == [tmp_path / name for name in ("x.arrow", "x.part2.arrow", "x.part3.arrow")]
    found = [columns_of(path) for path in sink.files]
    assert [columns["event"].tolist() for columns in found] == [[0, 2, 5, 7, 8], [1, 3, 4, 6, 11], [9, 10, 12]]  # type: ignore[union-attr]
    assert [all(found[i][f"passed_HLT_{path}"]) for i, path in enumerate("ABC")] == [True] * 3  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 3


def test_an_error_leaves_no_file_that_was_open(tmp_path: Path) -> None:
    sink = EventSink(tmp_path / "x.arrow")
    for number, path in enumerate("ABAB"):
        sink.append(event(number, path))
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ConfigError, match="carry no raw data"), sink:
        raise ConfigError("decisions of a client carry no raw data")
    assert (sink.files, list(tmp_path.iterdir())) == ([], [])


def test_a_table_in_memory_is_made_of_batches_that_32_bits_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK_BYTES", 4000)
    events = [event(number) for number in range(50)]
    table = to_arrow(events, raw=True)
    assert table["raw"].num_chunks > 2
    assert table["raw"].to_pylist() == [one.payload.tobytes() for one in events]
    assert table["event"].to_pylist() == list(range(50))
    assert to_arrow([]).num_rows == 0
