"""`hltfarm compare` and `hltfarm bench equality`: equal is said of what is equal to the last bit, and differences are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hltfarm.loadgen.source import open_source
from hltfarm.proto.errors import BackendError
from hltfarm.proto.results import RESULT
from hltfarm.service.cli import run
from hltfarm.workers import bench, equality
from hltfarm.workers.configuration import DEFAULT
from hltfarm.workers.equality import different_rows, run_equality
from hltfarm.workers.reconstructor import BatchResult

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"


def row(event: int, **changes: Any) -> dict[str, Any]:
    return {"event": event, "hits": 10 * event, "best_z": 0.5, "paths": ["HLT_All"], "digest": f"{event:016x}", **changes}


def report(path: Path, rows: list[dict[str, Any]], **about: Any) -> str:
    path.write_text(json.dumps({"backend": "cpu", "device": "cpu:1", "menu": "m", **about, "per_event": rows}))
    return str(path)


def test_what_reco_writes_is_equal_with_other_threads_and_when_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json")]
    assert run(["reco", str(DEMO), "--backend", "cpu", "--threads", "1", "--json", str(files[0])]) == 0
    assert run(["reco", str(DEMO), "--backend", "cpu", "--threads", "2", "--events", "14", "--json", str(files[1])]) == 0
    capsys.readouterr()
    assert run(["compare", *map(str, files)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("equal: ")
    assert "14 events in " in shown


def test_differences_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = report(tmp_path / "a.json", [row(1), row(2), row(3), row(4)])
    there = report(tmp_path / "b.json", [row(4), row(3, hits=31, digest="f" * 16), row(2, best_z=float("nan")), row(1)], menu="n")
    assert run(["compare", here, there]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("NOT equal: ")
    assert "2 of 4 events differ" in lines[0]
    assert lines[1:] == [
        "  menu: m / n",
        "  event 2: best_z 0.5 / nan",
        "  event 3: digest 0000000000000003 / ffffffffffffffff; hits 30 / 31",
    ]
    assert run(["compare", here, there, "--show", "1"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "  and 1 more"


def test_nan_is_equal_to_nan_and_a_missing_field_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = report(tmp_path / "a.json", [row(1, best_z=float("nan"))])
    there = report(tmp_path / "b.json", [row(1, best_z=float("nan"), extra=1)])
    assert run(["compare", here, here]) == 0
    assert run(["compare", here, there]) == 1
    assert "extra no such field / 1" in capsys.readouterr().out


def test_missing_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = report(tmp_path / "a.json", [row(1), row(2)]), report(tmp_path / "b.json", [row(2), row(3), row(4)])
    assert run(["compare", here, there]) == 1
    shown = capsys.readouterr().out
    assert f"0 of 1 events differ; 1 only in {here} (1); 2 only in {there} (3, 4)" in shown
    assert run(["compare", here, there, "--common"]) == 0
    assert "1 events in 4 fields; 3 that only one has are left out" in capsys.readouterr().out
    other = report(tmp_path / "c.json", [row(7)])
    assert run(["compare", here, other, "--common"]) == 1
    assert "no event in common" in capsys.readouterr().out


def test_all_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [report(tmp_path / f"{i}.json", [row(1, hits=5 + (i == 1))]) for i in range(3)]
    assert run(["compare", *files]) == 1
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")] == ["NOT equal", "equal"]


def test_an_event_that_is_read_again_counts_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = report(tmp_path / "a.json", [row(1)]), report(tmp_path / "b.json", [row(1), row(1, hits=11), row(1)])
    assert run(["compare", here, there]) == 1
    assert "1 of 3 events differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "No such file"), ("{", "no JSON"), ("[]", "no list 'per_event'"), ('{"per_event": [{"hits": 1}]}', "no list 'per_event'")],
)
def test_files_that_are_no_reports(text: str | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = tmp_path / "bad.json", report(tmp_path / "good.json", [row(1)])
    if text is not None:
        bad.write_text(text)
    assert run(["compare", good, str(bad)]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert "hltfarm reco --json" in error
    assert error.count("\n") == 1


def test_one_report_is_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", report(tmp_path / "a.json", [row(1)])]) == 2
    assert "two files" in capsys.readouterr().err


# ---------------------------------------------------------------- bench equality


def test_equality_of_tasks_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "equality.json"
    arguments = ["--backend", "cpu", "--threads", "1", "--events", "4", "--batches", "1,3,256,64"]
    assert run(["bench", "equality", str(DEMO), *arguments, "--json", str(out)]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [(r["batch"], r["events"], r["unequal"]) for r in runs] == [(1, 4, 0), (3, 4, 0), (16, 4, 0)]
    assert capsys.readouterr().out.count("yes") == 3


def test_rows_are_compared_by_their_bits() -> None:
    reference = np.zeros(3, RESULT)
    reference["best_z"] = [0.0, np.nan, 1.0]
    rows = np.resize(reference, 7)
    assert different_rows(rows, reference).tolist() == []
    rows["best_z"][3] = -0.0
    rows["digest"][5] = 1
    assert different_rows(rows, reference).tolist() == [3, 5]


class FakeChain:
    """A chain whose GPU gets one event wrong in batches of 64, and has no memory for more than 256."""

    device = "fake"

    def __init__(self, sample: bench.Sample, backend: str, batch: int, *_: Any, **__: Any) -> None:
        if batch > 256:
            raise BackendError("fake: not enough memory for batches")
        self.wrong = backend == "cuda" and batch == 64

    def __enter__(self) -> FakeChain:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, events: list[Any]) -> BatchResult:
        rows = np.zeros(len(events), RESULT)
        rows["digest"] = [e.id.event for e in events]
        if self.wrong:
            rows["tracks"][8] = 1
        return BatchResult(rows, {}, None)


def test_what_differs_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(equality, "opened", FakeChain)
    sample = bench.read(open_source(DEMO))
    runs = run_equality(sample, ("cpu", "cuda"), [1, 64, 512], 20, 1, DEFAULT, lambda what: None)
    assert [(r.backend, r.batch, r.events, r.unequal) for r in runs] == [
        ("cpu", 1, 6, 0),
        ("cpu", 16, 6, 0),
        ("cuda", 1, 20, 0),
        ("cuda", 64, 20, 1),
        ("cuda", 512, 0, 0),
    ]
    assert runs[3].differing == ["event 2: tracks 1 / 0"]
    assert runs[4].left_out == "fake: not enough memory for batches"
    assert run(["bench", "equality", str(DEMO), "--backend", "both", "--events", "20", "--batches", "64"]) == 1
    captured = capsys.readouterr()
    assert "NO: 1 differ" in captured.out
    assert "cuda, batches of 64: event 2: tracks 1 / 0" in captured.out
    assert "demo.hlt: results are not the same in all runs" in captured.err
    assert run(["bench", "equality", str(DEMO), "--backend", "cuda", "--batches", "512"]) == 1
    assert "nothing was compared: fake: not enough memory" in capsys.readouterr().err
