"""`hltfarm reco --out` and `hltfarm export`: the same bits as the .npz file and as the output files, in every format; clear errors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from numpy.typing import NDArray

from hltfarm.loadgen.sample import Sample, SampleWriter
from hltfarm.proto.columns import encode_columns
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.proto.messages import RunConfig
from hltfarm.proto.results import OUTPUT_DECISION
from hltfarm.proto.worker_link import PathInfo
from hltfarm.service import cli
from hltfarm.service.export import event_schema, source
from hltfarm.service.export.block import Lists
from hltfarm.service.export.truth import ARRAYS, TRUTH
from hltfarm.service.output.events import Deciders, OutputEvent
from hltfarm.service.output.hlt_file import Opening, OutputFile, Place
from hltfarm.service.output.hlt_file import metadata_of as metadata
from tests.unit.event_tables import FORMATS, columns_of, metadata_of

ROOT = Path(__file__).resolve().parents[2]
DEMO, EXAMPLE = ROOT / "loadgen" / "data" / "demo.hlt", ROOT / "docs" / "examples" / "plot_events.py"
COMMAND = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()"]
PATHS = (PathInfo("HLT_A", "physics"), PathInfo("HLT_B", "monitoring"))
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command line that cannot work; its one line."""

    def run(*arguments: str, code: int = 2) -> str:
        capsys.readouterr()
        assert cli.run(list(arguments)) == code
        text = capsys.readouterr()
        assert text.out == ""
        assert text.err.startswith("hltfarm: error: ")
        assert text.err.count("\n") == 1
        return text.err

    return run


# -- reco ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo sample, read twice (12 events), in all formats."""
    folder = tmp_path_factory.mktemp("reco")
    common = ["reco", "demo", "--backend", "cpu", "--threads", "1", "--events", "9", "--json", str(folder / "reco.json")]
    assert cli.run([*common, "--out", str(folder / "events.npz")]) == 0
    tables = [option for table in ("tracks", "vertices", "hits", "particles") for option in ("--table", table)]
    for name in FORMATS:
        layout = ["--root", "ttree"] if "ttree" in name else []
        assert cli.run([*common, *tables, *layout, "--out", str(folder / name)]) == 0
    assert not list(folder.glob("*.part"))
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_reco_writes_the_bits_of_the_npz_file(reco: Path, name: str) -> None:
    found = columns_of(reco / name)
    compared = 0
    with np.load(reco / "events.npz") as archive:
        for prefix in ("track", "vertex", "hit"):
            for key in archive.files:
                column = found.get(key)
                if not key.startswith(prefix) or key.endswith("offsets") or key == "track_hits":
                    continue
                assert isinstance(column, Lists), key
                assert column.values.dtype == archive[key].dtype, key
                assert column.values.tobytes() == archive[key].tobytes(), key
                wide = archive[key].shape[1] if archive[key].ndim == 2 and "ttree" in name else 1
                np.testing.assert_array_equal(column.offsets, archive[f"{prefix}_offsets"] * wide)
                compared += 1
        hits = found["track_hits"]
        assert isinstance(hits, Lists)
        np.testing.assert_array_equal(hits.values, archive["track_hits"])
        starts = archive["track_hit_offsets"]
        if hits.inner is None:
            np.testing.assert_array_equal(hits.offsets, starts[archive["track_offsets"]])
        else:
            np.testing.assert_array_equal(hits.inner, starts)
    assert compared == 11 + 4 + 5


@pytest.mark.parametrize("name", FORMATS)
def test_reco_writes_decisions_and_truth(reco: Path, name: str) -> None:
    found = columns_of(reco / name)
    report = json.loads((reco / "reco.json").read_text())
    plain = {key: column.tolist() for key, column in found.items() if not isinstance(column, Lists)}
    for i, event in enumerate(report["per_event"]):
        paths = [key.removeprefix("passed_") for key, column in plain.items() if key.startswith("passed_") and column[i]]
        assert (plain["event"][i], f"{plain['digest'][i]:016x}", paths) == (event["event"], event["digest"], event["paths"])
        assert all(plain[key][i] == event[key] for key in ("tracks", "vertices", "vertex_ht", "event_score", "flags"))
        assert f"{plain['menu'][i]:016x}" == report["menu"]
    pt, sample = found["particle_pt"], Sample(DEMO)
    assert isinstance(pt, Lists)
    expected = [sample.truth(i % len(sample))["part_pt"] for i in range(9)]  # type: ignore[index]
    np.testing.assert_array_equal(pt.values, np.concatenate(expected))
    text = metadata_of(reco / name)
    assert text["sources"] == [{"file": "demo.hlt", "bytes": DEMO.stat().st_size, "sha256": hashlib.sha256(DEMO.read_bytes()).hexdigest()}]
    assert text["deciders"][0]["menu"] == report["menu"]
    assert text["deciders"][0]["models"][0]["name"].startswith("track-mlp")
    assert text["detectors"][0]["beam_spot_cm"] == [0.0, 0.0, 0.0] or len(text["detectors"][0]["beam_spot_cm"]) == 3


def test_reco_says_at_once_what_it_cannot_write(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("reco", str(DEMO), "--backend", "cpu", "--out")
    assert "use .npz, .root, .parquet, .arrow" in refused(*common, str(tmp_path / "x.csv"))
    assert "an .npz file holds what it always does" in refused(*common, str(tmp_path / "x.npz"), "--table", "tracks")
    assert "table 'muons' is unknown" in refused(*common, str(tmp_path / "x.root"), "--table", "muons")
    assert "no column matches 'muon_*'" in refused(*common, str(tmp_path / "x.root"), "--columns", "muon_*")
    assert "--root 'tree' is none of rntuple, ttree" in refused(*common, str(tmp_path / "x.root"), "--root", "tree")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "install hltfarm[data]" in refused(*common, str(tmp_path / "x.parquet"), code=1)
    assert list(tmp_path.iterdir()) == []


def test_the_plots_of_the_example_are_the_same_from_every_format(
    reco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = set()
    for name in FORMATS:
        picture = tmp_path / f"{name}.png"
        monkeypatch.setattr(sys, "argv", ["plot_events.py", str(reco / name), "--out", str(picture)])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        told.add(capsys.readouterr().out)
        assert _drawn(picture) > 5000
    (line,) = told
    found = re.fullmatch(r"(\d+) events, (\d+) loose tracks, (\d+) of (\d+) particles above 1 GeV found\n", line)
    assert found is not None, line
    quality = columns_of(reco / "events.arrow")["track_quality"]
    assert isinstance(quality, Lists)
    assert (int(found[1]), int(found[2])) == (9, int((quality.values >= 2).sum()))
    sample, wanted = Sample(DEMO), 0
    for i in range(9):
        t = sample.truth(i % len(sample)) or {}
        prompt = (t["part_vtx"] >= 0) & (np.hypot(t["part_vx"], t["part_vy"]) < 1) & (abs(t["part_eta"]) < 2.4)
        wanted += int((prompt & (t["part_q"] != 0) & (t["part_pt"] > 1)).sum())
    assert int(found[4]) == wanted
    assert 0.8 < int(found[3]) / wanted < 1


def _drawn(picture: Path) -> int:
    """Pixels that are not white."""
    from matplotlib.image import imread

    return int((imread(picture)[..., :3] < 0.99).any(axis=-1).sum())


# -- export ----------------------------------------------------------------------------------------------------------------


def tables_of(number: int) -> dict[str, dict[str, NDArray[Any]]]:
    """Tracks and vertices whose bits follow from the event's number."""
    rng = np.random.default_rng(number)
    made: dict[str, dict[str, NDArray[Any]]] = {}
    for table, fields in event_schema(decision=None, tables=("tracks", "vertices")).tables.items():
        n = number % 4
        made[table] = {
            f.source: rng.integers(0, 2**32, (n, *f.shape), dtype=np.uint32).view(np.float32)
            if f.dtype == np.float32
            else rng.integers(0, 9, (n, *f.shape)).astype(f.dtype)
            for f in fields
        }
    made["tracks"]["hits"] = np.full((number % 4, 6), -1, np.int32)
    made["tracks"]["hits"][:, :3] = 5
    return made


def output(folder: Path, lumi: int, stream: str, numbers: range, paths: tuple[PathInfo, ...] = PATHS, menu: str = "c0ffee") -> None:
    """An output file of run 7."""
    place = Place(7, lumi, stream)
    deciders = Deciders(RunConfig(run=7, menu="text"), menu, (), paths)
    place.folder(folder).mkdir(parents=True, exist_ok=True)
    file = OutputFile(place.folder(folder) / place.name(1), Opening(place, metadata(place, deciders.description(), None, True)))
    for number in numbers:
        payload = np.random.default_rng(number).integers(0, 256, 4 * number).astype(np.uint8).tobytes()
        decision = np.zeros(1, OUTPUT_DECISION)
        decision["path_bits"], decision["digest"], decision["menu"] = 1 + number % 3, 2**64 - number, int(menu, 16)
        columns = encode_columns(tables_of(number))
        bits = int(decision["path_bits"][0])
        file.append([OutputEvent(0, EventId(7, lumi, number, 3), payload, crc32c(payload), bits, decision.tobytes(), columns)])
    file.close(sync=False)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Output files of two lumisections and two streams; the second lumisection has another menu."""
    folder = tmp_path / "output"
    output(folder, 1, "physics", range(10, 15))
    output(folder, 1, "monitoring", range(12, 14))
    output(folder, 2, "physics", range(20, 23), paths=(PathInfo("HLT_C", "physics"), *PATHS), menu="feed")
    (folder / "run000007" / "physics" / "run000007_ls0003_physics.hlt.part").write_bytes(b"still being written")
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_export_writes_the_bits_of_the_output_files(outputs: Path, name: str, tmp_path: Path) -> None:
    layout = ["--root", "ttree"] if "ttree" in name else []
    assert cli.run(["export", str(outputs), "--out", str(tmp_path / name), "--raw", *layout]) == 0
    found = columns_of(tmp_path / name)
    numbers = [12, 13, 10, 11, 12, 13, 14, 20, 21, 22]
    plain = {key: column.tolist() for key, column in found.items() if not isinstance(column, Lists)}
    assert plain["event"] == numbers
    assert plain["lumi"] == [1] * 7 + [2] * 3
    assert plain["stream"] == [0] * 2 + [1] * 8
    assert plain["digest"] == [2**64 - number for number in numbers]
    assert plain["menu"] == [0xC0FFEE] * 7 + [0xFEED] * 3
    assert plain["has_tables"] == [True] * 10
    bits = [1 + number % 3 for number in numbers]
    assert plain["passed_HLT_A"] == [bool(b & 1) for b in bits[:7]] + [bool(b & 2) for b in bits[7:]]
    assert plain["passed_HLT_B"] == [bool(b & 2) for b in bits[:7]] + [bool(b & 4) for b in bits[7:]]
    assert plain["passed_HLT_C"] == [False] * 7 + [bool(b & 1) for b in bits[7:]]
    for table, prefix in (("tracks", "track_"), ("vertices", "vertex_")):
        for column in tables_of(0)[table]:
            lists, parts = found[prefix + column], [tables_of(number)[table][column] for number in numbers]
            assert isinstance(lists, Lists)
            values = np.concatenate([part[part >= 0] if column == "hits" else part for part in parts])
            assert lists.values.tobytes() == values.tobytes(), column
    raw = found["raw"]
    assert isinstance(raw, Lists)
    assert np.diff(raw.offsets).tolist() == [4 * number for number in numbers]
    assert raw.values.tobytes() == b"".join(np.random.default_rng(n).integers(0, 256, 4 * n).astype(np.uint8).tobytes() for n in numbers)
    text = metadata_of(tmp_path / name)
    assert text["streams"] == ["monitoring", "physics"]
    assert [(d["menu"], d["paths"], d["config"]["menu"]) for d in text["deciders"]] == [
        ("c0ffee", ["HLT_A", "HLT_B"], "text"),
        ("feed", ["HLT_C", "HLT_A", "HLT_B"], "text"),
    ]
    assert [entry["file"] for entry in text["sources"]] == [path.name for path in (source.sample_files(outputs))]


def test_export_one_file_for_each_lumisection(outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", str(outputs), "--out", str(tmp_path / "new"), "--format", "parquet"]) == 0
    assert "10 events" in capsys.readouterr().out
    files = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in files] == ["run000007_ls0001.parquet", "run000007_ls0002.parquet"]
    assert [columns_of(path)["event"].tolist() for path in files] == [[12, 13, 10, 11, 12, 13, 14], [20, 21, 22]]  # type: ignore[union-attr]
    assert len(metadata_of(files[1])["sources"]) == 1


def test_a_file_is_read_once_for_all_its_lumisections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SampleWriter(tmp_path / "long.hlt", {}) as writer:
        for number in range(12):
            writer.add(RawEvent(EventId(7, 1 + number // 3, number, 3), np.zeros(4, np.uint8)))
    asked: list[str] = []

    def counted(file: Any, name: str) -> Any:
        asked.append(file.name)
        return hashlib.file_digest(file, name)

    monkeypatch.setattr(source, "hashlib", type("Counted", (), {"file_digest": staticmethod(counted)}))
    assert cli.run(["export", str(tmp_path / "long.hlt"), "--out", str(tmp_path / "new"), "--format", "arrow"]) == 0
    files = sorted((tmp_path / "new").iterdir())
    assert [columns_of(path)["event"].tolist() for path in files] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]  # type: ignore[union-attr]
    assert len({metadata_of(path)["sources"][0]["sha256"] for path in files}) == 1
    assert asked == [str(tmp_path / "long.hlt")]


def test_has_tables_is_true_also_where_no_table_is_wanted(outputs: Path, tmp_path: Path) -> None:
    assert cli.run(["export", str(outputs), "--out", str(tmp_path / "x.arrow"), "--columns", "has_*"]) == 0
    assert columns_of(tmp_path / "x.arrow")["has_tables"].tolist() == [True] * 10  # type: ignore[union-attr]
    assert cli.run(["reco", str(DEMO), "--backend", "cpu", "--events", "2", "--out", str(tmp_path / "y.arrow"), "--columns", "has_*"]) == 0
    found = columns_of(tmp_path / "y.arrow")
    assert (list(found), found["has_tables"].tolist()) == (["run", "lumi", "event", "has_tables"], [True] * 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "events"),
    [
        (["--stream", "physics"], [10, 11, 12, 13, 14, 20, 21, 22]),
        (["--stream", "monitoring", "--stream", "physics", "--lumi", "2-9"], [20, 21, 22]),
        (["--run", "7", "--lumi", "1", "--stream", "monitoring"], [12, 13]),
    ],
)
def test_export_chooses_events(outputs: Path, tmp_path: Path, options: list[str], events: list[int]) -> None:
    assert (
        cli.run(["export", str(outputs), "--out", str(tmp_path / "x.arrow"), *options, "--columns", "track_pt", "--columns", "digest"]) == 0
    )
    found = columns_of(tmp_path / "x.arrow")
    assert found["event"].tolist() == events  # type: ignore[union-attr]
    assert list(found) == ["run", "lumi", "event", "digest", "track_pt"]


def test_export_of_a_sample_gives_its_truth(tmp_path: Path) -> None:
    tables = [option for table in TRUTH for option in ("--table", table)]
    assert cli.run(["export", "demo", "--out", str(tmp_path / "truth.root"), *tables]) == 0
    found, sample = columns_of(tmp_path / "truth.root"), Sample(DEMO)
    truth = [sample.truth(i) or {} for i in range(len(sample))]
    prefixes = {"particles": "particle_", "collisions": "collision_", "crossings": "crossing_", "pixels": "pixel_"}
    names = {f"{prefixes[table]}{column.name}": ARRAYS[table] + column.name for table, columns in TRUTH.items() for column in columns}
    assert set(names.values()) == set(truth[0]), "all that a simulation leaves is exported"
    for name, array in names.items():
        column, parts = found[name], [event[array] for event in truth]
        assert isinstance(column, Lists)
        assert (column.values.dtype, column.values.tobytes()) == (parts[0].dtype, np.concatenate(parts).tobytes()), name
        assert np.diff(column.offsets).tolist() == [len(part) for part in parts]
    text = metadata_of(tmp_path / "truth.root")
    assert text["samples"][0]["process"]
    assert "deciders" not in text


def test_export_errors_are_one_line(refused: Refused, outputs: Path, tmp_path: Path) -> None:
    def export(source: object, out: str, *options: str, code: int = 2) -> str:
        return refused("export", str(source), "--out", out, *options, code=code)

    new = tmp_path / "new"
    new.mkdir()
    good = str(new / "x.parquet")
    assert "use .root, .parquet, .arrow" in export(outputs, str(new / "x.npz"))
    assert "is a folder: " in export(outputs, str(new)) or "is a folder; " in export(outputs, str(new))
    assert "there is no folder" in export(outputs, str(new / "no" / "x.root"))
    assert "'csv' is none of root, parquet, arrow" in export(outputs, str(new), "--format", "csv")
    assert "no such file or folder" in export(tmp_path / "absent", good)
    assert "no .hlt files in it" in export(new, good)
    assert "no event passes; the streams there are monitoring, physics" in export(outputs, good, "--stream", "egamma")
    assert "--lumi '5-2'" in export(outputs, good, "--lumi", "5-2")
    assert "hltfarm reco --table hits" in export(outputs, good, "--table", "hits")
    assert "'particles' is not in the files; there are tracks, vertices" in export(outputs, good, "--table", "particles")
    both = refused("export", str(outputs), str(DEMO), "--out", good)
    assert "export them apart" in both
    (tmp_path / "bad.hlt").write_bytes(b"nonsense")
    assert "bad.hlt" in export(tmp_path / "bad.hlt", good)
    assert list(new.iterdir()) == []


def test_damage_in_the_middle_leaves_no_file(refused: Refused, outputs: Path, tmp_path: Path) -> None:
    path = next((outputs / "run000007" / "physics").glob("*ls0002*.hlt"))
    data = bytearray(path.read_bytes())
    at = data.rindex(np.array([2**64 - 22], "<u8").tobytes())  # in the decision of the last event
    data[at] ^= 1
    path.write_bytes(data)
    assert str(path) in refused("export", str(outputs), "--out", str(tmp_path / "x.parquet"))
    assert not list(tmp_path.glob("x.*"))


def test_an_interrupted_export_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    """SIGINT while events are being written: exit code 130, nothing left."""
    fifo, out = tmp_path / "go", tmp_path / "x.parquet"
    os.mkfifo(fifo)
    code = (
        "import sys; from hltfarm.service import cli; from hltfarm.service.export import source\n"
        "rows = source.rows\n"
        "def slow(*arguments):\n"
        "    for row in rows(*arguments):\n"
        "        yield row\n"
        f"        open({str(fifo)!r}).read()\n"
        "from hltfarm.service.export import job; job.rows = slow\n"
        f"sys.exit(cli.run(['export', {str(DEMO)!r}, '--out', {str(out)!r}]))\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stderr=subprocess.PIPE)
    try:
        with fifo.open("w"):  # it has written its first event
            assert [path.name for path in tmp_path.glob("x.*")] == ["x.parquet.part"]
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, b"")
    assert not list(tmp_path.glob("x.*"))
