"""`hltfarm bench kernels --counters`: tables of Nsight Compute are read as they are written; what cannot work says why."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest

from hltfarm.proto.errors import BackendError
from hltfarm.service.cli import run
from hltfarm.workers import counters
from hltfarm.workers.counters import Facts, command, find_ncu, number, parse, profile, reason, summary, unknown_metrics

DEMO = Path(__file__).resolve().parents[2] / "loadgen" / "data" / "demo.hlt"
FACTS = Facts("NVIDIA H200", 132, 1.98e9, 4.8e12, 4.2e12)
LEADING = ["ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream", "Block Size", "Grid Size", "Device", "CC"]
UNITS = {
    counters.TIME: "ns",
    counters.CLOCK: "hz",
    counters.DRAM: "byte",
    counters.L2: "byte",
    counters.OCCUPANCY: "%",
    counters.ISSUE: "%",
    counters.INSTRUCTIONS: "inst",
    counters.REGISTERS: "register/thread",
    **dict.fromkeys(counters.STALLS.values(), "inst"),
}


def page(launches: list[tuple[str, dict[str, str]]]) -> str:
    """What `ncu --csv --page raw --print-units base --log-file` writes for the launches; n/a for what they do not give."""
    names = sorted({name for _, values in launches for name in values} | {counters.TIME})
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow([*LEADING, *names])
    writer.writerow([*[""] * len(LEADING), *(UNITS.get(name, "") for name in names)])
    for i, (kernel, values) in enumerate(launches):
        row = [str(i), "4711", "python3.12", "127.0.0.1", kernel, "1", "13", "(128, 1, 1)", "(2112, 1, 1)", "0", "9.0"]
        writer.writerow([*row, *(values.get(name, "n/a") for name in names)])
    before = '==PROF== Connected to process 4711 (/usr/bin/python3.12)\n==PROF== Profiling "link_cells": 0%....50%....100% - 19 passes\n'
    return before + text.getvalue() + "==PROF== Disconnected from process 4711\n"


LINK = {
    counters.TIME: "1,280,000",
    counters.CLOCK: "1,980,000,000",
    counters.INSTRUCTIONS: "1,045,440,000",
    counters.DRAM: "614,400,000",
    counters.L2: "2,000,000,000",
    counters.OCCUPANCY: "61.5",
    counters.ISSUE: "50",
    counters.THREADS: "12.8",
    counters.L1_HITS: "71.25",
    counters.REGISTERS: "40",
    counters.MIX["integer"]: "12,800",
    counters.STALLS["long_scoreboard"]: "8.5",
    counters.STALLS["wait"]: "2",
    counters.STALLS["barrier"]: "0",
    counters.STALLS["lg_throttle"]: "3",
    counters.STALLS["not_selected"]: "1.5",
}
FILL = {counters.TIME: "640,000", counters.OCCUPANCY: "90", counters.INSTRUCTIONS: "1000"}


def test_a_table_becomes_kernels_per_event() -> None:
    launches = parse(page([("fill_cells", FILL), ("link_cells", LINK), ("fill_cells", {**FILL, counters.OCCUPANCY: "30"})]))
    fill, link = sorted(summary(launches, FACTS, batch=128), key=lambda k: k.kernel)
    assert (link.stage, link.kernel, link.launches, link.registers) == ("tracks", "link_cells", 1, 40)
    assert link.us == pytest.approx(10.0)
    assert link.memory_us == pytest.approx(1.0)  # 4.8 MB an event at 4.8 TB/s
    assert link.issue_us == pytest.approx(7.8125)  # 528 a cycle at 1.98 GHz: 1 ms for the batch
    assert link.dram_bytes == pytest.approx(4.8e6)
    assert link.thread_instructions == {"integer": 100}
    assert list(link.stalls.items()) == [("long_scoreboard", 8.5), ("lg_throttle", 3), ("wait", 2)]
    assert link.l2_hits is None
    assert (fill.launches, fill.us, fill.occupancy) == (2, pytest.approx(10.0), pytest.approx(60.0))
    assert fill.dram_bytes is None
    assert fill.memory_us is None


def test_clock_and_bandwidth_have_a_fallback() -> None:
    (kernel,) = summary(parse(page([("x", {counters.TIME: "1000", counters.INSTRUCTIONS: "528", counters.DRAM: "42"})])), FACTS, 1)
    assert kernel.issue_us == pytest.approx(1e6 / 1.98e9)
    (kernel,) = summary(parse(page([("x", {counters.TIME: "1000", counters.DRAM: "42"})])), Facts("GPU", 132, 0, 0, 4.2e12), 1)
    assert kernel.memory_us == pytest.approx(1e-5)
    assert kernel.stage == ""


@pytest.mark.parametrize(
    ("cell", "unit", "value"),
    [
        ("1,234.5", "Kbyte", 1_234_500.0),
        ("3", "byte", 3.0),
        ("2.5", "us", 2.5e-6),
        ("152192", "nsecond", 152192e-9),
        ("1.98", "Ghz", 1.98e9),
        ("1.98", "cycle/nsecond", 1.98e9),
        ("61.5", "%", 61.5),
        ("32", "register/thread", 32.0),
        ("n/a", "byte", None),
        ("(128, 1, 1)", "", None),
        ("", "", None),
    ],
)
def test_cells(cell: str, unit: str, value: float | None) -> None:
    assert number(cell, unit) == (None if value is None else pytest.approx(value))


def test_tables_of_other_forms() -> None:
    assert parse("") == []
    assert parse("==PROF== Connected to process 1\n==WARNING== No kernels were profiled.\n") == []
    with pytest.raises(BackendError, match="of another form: columns ID, Metric Name"):
        parse('"ID","Metric Name","Metric Unit"\n"0","a","b"\n"0","a","b"\n')


def test_the_call_profiles_what_is_asked_for(tmp_path: Path) -> None:
    call = command(Path("/opt/ncu"), tmp_path / "log", ["a.sum", "b.avg"], ["python3", "-c", "x"])
    assert call[0] == "/opt/ncu"
    assert call[-3:] == ["python3", "-c", "x"]
    pairs = dict(pairwise(call))
    assert pairs["--metrics"] == "a.sum,b.avg"
    assert pairs["--profile-from-start"] == "off"
    assert pairs["--clock-control"] == "none"
    assert pairs["--page"] == "raw"
    assert pairs["--log-file"] == str(tmp_path / "log")


def test_unknown_metrics_are_named_in_two_ways() -> None:
    metrics = ["a__b.sum", "a__b.avg", "a__bc.sum", "d__e"]
    assert unknown_metrics("==ERROR== Failed to find metric a__bc.sum", metrics) == ["a__bc.sum"]
    assert unknown_metrics("==ERROR== Failed to find metric regex:^a__b(\\.(sum|avg|ratio))?$", metrics) == ["a__b.sum", "a__b.avg"]
    assert unknown_metrics("==ERROR== Failed to find metric regex:^d__e$.", metrics) == ["d__e"]
    assert unknown_metrics("all is well", metrics) == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("==PROF== x\n==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", "run as root"),
        ("hltfarm: error: no usable CUDA device (cudaErrorNoDevice)\n==PROF== x", "no usable CUDA device"),
        ("==ERROR== Failed to initialize the profiler: LibraryNotLoaded", "Failed to initialize the profiler: LibraryNotLoaded"),
        ("one\ntwo\n", "two"),
        ("", "no message, exit code 9"),
    ],
)
def test_reasons(said: str, why: str) -> None:
    assert why in reason(said, 9)


def test_ncu_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(BackendError, match="no ncu on PATH"):
        find_ncu(tmp_path)
    for version in ("2024.1.0", "2025.3.1"):
        executable(tmp_path / "opt" / "nvidia" / "nsight-compute" / version / "ncu", "")
    assert find_ncu(tmp_path).parent.name == "2025.3.1"
    executable(tmp_path / "usr" / "local" / "cuda" / "bin" / "ncu", "")
    assert find_ncu(tmp_path).parts[-4:] == ("local", "cuda", "bin", "ncu")
    executable(tmp_path / "bin" / "ncu", "")
    assert find_ncu(tmp_path) == tmp_path / "bin" / "ncu"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def fake_ncu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put an `ncu` on the path that finds the log file's name in $log, the metrics in $metrics and the file of facts in $facts."""
    (tmp_path / "page.csv").write_text(page([("fill_cells", FILL), ("link_cells", LINK)]))
    (tmp_path / "facts.json").write_text(json.dumps(asdict(FACTS)))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    cases = '--log-file) log="$2";; --metrics) metrics="$2";; --under-ncu=*) facts="${1#*=}";;'
    arguments = f'while [ $# -gt 0 ]; do case "$1" in {cases} esac; shift; done'
    return lambda body: executable(tmp_path / "bin" / "ncu", f"{arguments}\ncd {tmp_path}\n{body}")


GOOD = 'cp page.csv "$log"; cp facts.json "$facts"'


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str], fake_ncu: Callable[[str], Path]) -> None:
    fake_ncu(GOOD)
    out = tmp_path / "counters.json"
    assert run(["bench", "kernels", str(DEMO), "--backend", "cuda", "--batch", "128", "--counters", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [k["kernel"] for k in document["kernels"]] == ["link_cells", "fill_cells"]
    assert document["us_per_event"] == pytest.approx(15.0)
    assert (document["batch"], document["facts"]["device"], document["missing"]) == (128, "NVIDIA H200", [])
    shown = capsys.readouterr().out
    assert "15.0 us per event in kernels; memory alone 1.0" in shown
    assert "long_scoreboard 8.5" in shown


def test_metrics_that_ncu_does_not_know_are_left_out(tmp_path: Path, fake_ncu: Callable[[str], Path]) -> None:
    gone = counters.STALLS["imc_miss"]
    ncu = fake_ncu(f'case "$metrics" in *{gone}*) echo "==ERROR== Failed to find metric regex:^{gone}$"; exit 1;; esac; {GOOD}')
    facts = tmp_path / "told.json"
    facts.write_text("")
    assert profile(ncu, ["python3", f"--under-ncu={facts}"], facts, 1).missing == [gone]
    ncu = fake_ncu(f'echo "==ERROR== Failed to find metric {counters.TIME}"; exit 1')
    with pytest.raises(BackendError, match="install a newer"):
        profile(ncu, ["python3"], facts, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            'echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission" > "$log"; exit 1',
            "read no counters: this user may not read",
        ),
        ('echo "hltfarm: error: no usable CUDA device" >&2; exit 1', "read no counters: no usable CUDA device"),
        ('echo "==WARNING== No kernels were profiled." > "$log"', "saw no kernels"),
    ],
)
def test_command_says_why_there_are_none(
    body: str, message: str, capsys: pytest.CaptureFixture[str], fake_ncu: Callable[[str], Path]
) -> None:
    fake_ncu(body)
    assert run(["bench", "kernels", str(DEMO), "--backend", "cuda", "--counters"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("hltfarm: error:") == 1


def test_there_are_none_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", str(DEMO), "--backend", "cpu", "--counters"]) == 2
    assert "--backend cuda" in capsys.readouterr().err
