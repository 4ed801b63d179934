"""Columns from every side of a farm that reconstructs: client, consumer, `tap`, the output files. With the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hltfarm.loadgen.source import open_source
from hltfarm.proto.events import RawEvent
from hltfarm.proto.limits import Limits
from hltfarm.service import cli
from hltfarm.service.client import Decision
from hltfarm.service.consumer import Consumer, StreamEvent
from hltfarm.service.export import EventSink, to_arrow, to_awkward
from hltfarm.service.export.block import Lists
from hltfarm.service.output.settings import OutputSettings
from hltfarm.workers.menu import Menu
from hltfarm.workers.reconstructor import BatchResult, Reconstructor
from tests.integration.ingest_farm import DEADLINE_S, RUN, Farm
from tests.integration.test_reply_columns import DEMO, MENU, RealFarm
from tests.unit.event_tables import columns_of, metadata_of

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
PATH = "passed_HLT_Vertices"


@pytest.fixture(scope="module")
def expected() -> tuple[list[RawEvent], BatchResult]:
    """The demo sample, twice, and what becomes of it."""
    sample = open_source(DEMO)
    events = [
        RawEvent(sample[i % len(sample)].id._replace(run=RUN, lumi=1, event=100 + i), sample[i % len(sample)].payload)
        for i in range(2 * len(sample))
    ]
    with Reconstructor(sample.detector(), Menu.parse(json.dumps(MENU)), backend="cpu", threads=1) as reconstructor:
        return events, reconstructor.run(events, keep=True)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    output = OutputSettings(folder=tmp_path / "output", url=f"ipc://{tmp_path}/out", reserve_bytes=0, consumer_timeout_s=5.0)
    made = RealFarm(tmp_path / "farm", limits=Limits(max_payload_bytes=1 << 18), worker_timeout_s=5.0, output=output)
    try:
        made.run(**MENU)
        yield made
    finally:
        made.close()


def test_all_sides_tell_the_same_bits(
    farm: Farm, expected: tuple[list[RawEvent], BatchResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events, result = expected
    accepted = [i for i in range(len(events)) if result.results["accept"][i]]
    assert 0 < len(accepted) < len(events), "the menu decides"
    url = farm.server.output_url
    tap = ["tap", "--url", url, "--name", "tap", "--count", str(len(accepted)), "--out", str(tmp_path / "tap.root")]
    with Consumer(url, "dqm", heartbeat_s=0.1) as consumer, ThreadPoolExecutor(1) as pool:
        tapping = pool.submit(cli.run, tap)
        while not consumer.connected:
            consumer.poll(0.05)
        farm.wait(lambda s: sum(c.present for c in s.outputs[0].consumers) == 2)
        with farm.client() as client:
            client.wait_open(DEADLINE_S)
            for event in events:
                client.send(event, timeout=DEADLINE_S, want_columns=True)
            decisions = sorted(client.flush(DEADLINE_S), key=lambda decision: decision.id.event)
        came: list[StreamEvent] = []
        with EventSink(tmp_path / "dqm.parquet", raw=True) as sink:
            while len(came) < len(accepted):
                for one in consumer.poll(0.1):
                    came.append(one)
                    sink.append(one)
        assert tapping.result(DEADLINE_S) == 0
    assert f"{len(accepted)} events" in capsys.readouterr().out
    farm.command("stop")
    farm.wait(lambda s: (s.outputs[0].closed_files, s.outputs[0].open_files) == (1, 0))
    assert cli.run(["export", str(tmp_path / "output"), "--out", str(tmp_path / "files.arrow")]) == 0

    wanted = _wanted(result, accepted)
    for path in (tmp_path / "tap.root", tmp_path / "dqm.parquet", tmp_path / "files.arrow"):
        _compare(columns_of(path), wanted, [events[i].id.event for i in accepted])
        (decider,) = metadata_of(path)["deciders"]
        assert decider["paths"] == ["HLT_Vertices"]
    assert metadata_of(tmp_path / "files.arrow")["sources"][0]["sha256"]
    raw = columns_of(tmp_path / "dqm.parquet")["raw"]
    assert isinstance(raw, Lists)
    assert raw.values.tobytes() == b"".join(one.payload.tobytes() for one in came)

    _check_decisions(decisions, result, accepted, tmp_path)
    _check_memory(came, wanted)


def _check_decisions(decisions: list[Decision], result: BatchResult, accepted: list[int], tmp_path: Path) -> None:
    """What the client knows: all events, tables of those that were accepted."""
    with EventSink(tmp_path / "client.parquet", paths=["HLT_Vertices"]) as sink:
        for decision in decisions:
            sink.append(decision)
    found = columns_of(tmp_path / "client.parquet")
    accepts = result.results["accept"].astype(bool).tolist()
    for name in ("has_tables", PATH):
        assert found[name].tolist() == accepts, name  # type: ignore[union-attr]
    assert found["digest"].tolist() == result.results["digest"].tolist()  # type: ignore[union-attr]
    pt = found["track_pt"]
    assert isinstance(pt, Lists)
    sizes = [len(_loose(result, i, "pt")) if i in accepted else 0 for i in range(len(accepts))]
    assert np.diff(pt.offsets).tolist() == sizes
    assert pt.values.tobytes() == b"".join(_loose(result, i, "pt").tobytes() for i in accepted)
    table = to_arrow(decisions)
    assert table.num_rows == len(decisions)
    assert PATH not in table.column_names, "a client knows no names of paths"


def _check_memory(came: list[StreamEvent], wanted: dict[str, NDArray[Any]]) -> None:
    ordered = sorted(came, key=lambda one: one.id.event)
    array, table = to_awkward(ordered), to_arrow(ordered)
    assert np.asarray(array.track_pt.layout.content.data).tobytes() == wanted["track_pt"].tobytes()
    assert array.track_hits[0].tolist() == table["track_hits"].to_pylist()[0]
    assert table["vertex_z"].combine_chunks().flatten().to_numpy().tobytes() == wanted["vertex_z"].tobytes()
    assert table.schema.field("track_pt").metadata == {b"doc": b"transverse momentum", b"unit": b"GeV"}


def _loose(result: BatchResult, i: int, name: str) -> NDArray[Any]:
    tracks = result.tracks(i)
    return np.asarray(tracks[name][tracks["quality"] >= 2])


def _wanted(result: BatchResult, accepted: list[int]) -> dict[str, NDArray[Any]]:
    """Values of the accepted events, in their order."""
    tracks = {f"track_{name}": np.concatenate([_loose(result, i, name) for i in accepted]) for name in ("pt", "eta", "cov", "quality")}
    vertices = {f"vertex_{name}": np.concatenate([result.vertices(i)[name] for i in accepted]) for name in ("z", "ndof", "error")}
    return {**tracks, **vertices, "digest": result.results["digest"][accepted], "vertex_ht": result.results["vertex_ht"][accepted]}


def _compare(found: dict[str, NDArray[Any] | Lists], wanted: dict[str, NDArray[Any]], numbers: list[int]) -> None:
    """Events come in the order of the decisions; compare by their numbers."""
    event = found["event"]
    assert not isinstance(event, Lists)
    assert sorted(event.tolist()) == numbers
    order = np.argsort(event)
    for name, values in wanted.items():
        column = found[name]
        if isinstance(column, Lists):
            got = np.concatenate([column.values[column.offsets[i] : column.offsets[i + 1]] for i in order])
        else:
            got = column[order]
        assert (got.dtype, got.tobytes()) == (values.dtype, values.tobytes()), name
    assert found[PATH].all()  # type: ignore[union-attr]


def test_decisions_of_a_client_and_output_files_are_plotted_with_truth_of_the_sample(farm: Farm, tmp_path: Path) -> None:
    client = script("client_to_file.py", DEMO, "--ingest", farm.settings.clients_url, "--out", tmp_path / "decided.root")
    accepted = farm.snapshot().ledger.accepted
    farm.command("stop")
    farm.wait(lambda s: (s.outputs[0].closed_files, s.outputs[0].open_files) == (1, 0))
    assert client.startswith(f"{len(open_source(DEMO))} decisions, {accepted} accepted")
    assert cli.run(["export", str(tmp_path / "output"), "--out", str(tmp_path / "files.parquet")]) == 0
    assert cli.run(["export", "demo", "--out", str(tmp_path / "truth.arrow"), "--table", "particles"]) == 0
    told = {
        script("plot_events.py", tmp_path / name, "--truth", tmp_path / "truth.arrow", "--out", tmp_path / f"{name}.png")
        for name in ("decided.root", "files.parquet")
    }
    assert len(told) == 1
    assert f"{accepted} events" in told.pop()


def script(name: str, *arguments: object) -> str:
    """Run a script of the examples; what it prints."""
    command = [sys.executable, "-P", "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_tap_says_what_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["tap", "--out", str(tmp_path / "x.parquet"), "--lossless", "--name", "x"]) == 2
    assert "only an .hlt file keeps every event as it comes" in capsys.readouterr().err
    assert cli.run(["tap", "--out", str(tmp_path / "x.txt")]) == 2
    assert "use .hlt, .root, .parquet, .arrow" in capsys.readouterr().err


def test_a_sink_begins_a_new_part_where_another_menu_decides(tmp_path: Path, stream_event: Callable[[int, str], StreamEvent]) -> None:
    with EventSink(tmp_path / "x.parquet", columns=["event", "passed_*", "has_tables"]) as sink:
        for number, path in ((1, "HLT_A"), (2, "HLT_A"), (3, "HLT_B")):
            sink.append(stream_event(number, path))
    assert sink.files == [tmp_path / "x.parquet", tmp_path / "x.part2.parquet"]
    first, second = (columns_of(path) for path in sink.files)
    assert first["event"].tolist() == [1, 2]  # type: ignore[union-attr]
    assert (second["event"].tolist(), second["passed_HLT_B"].tolist()) == ([3], [True])  # type: ignore[union-attr]
    assert "passed_HLT_A" not in second
    table = to_arrow([stream_event(1, "HLT_A"), stream_event(2, "HLT_B")])
    assert table["passed_HLT_A"].to_pylist() == [True, False]
    assert table["has_tables"].to_pylist() == [False, False]


@pytest.fixture
def stream_event() -> Callable[[int, str], StreamEvent]:
    """An event of a menu with one path, which accepted it; without tables."""
    from hltfarm.proto.events import EventId
    from hltfarm.proto.results import OUTPUT_DECISION

    def make(number: int, path: str) -> StreamEvent:
        decision = np.zeros(1, OUTPUT_DECISION)
        decision["path_bits"] = 1
        description = {"paths": [path], "path_streams": ["physics"], "menu": path}
        return StreamEvent(EventId(1, 1, number), np.zeros(8, np.uint8), decision, b"", 0, False, description)

    return make
