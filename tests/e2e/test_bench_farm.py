"""`hltfarm bench farm` with real processes, small; and its end by Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()", "bench", "farm"]
#: One slow point after the one at full speed, on two ingests with two client processes; a few events of credit, so that it is soon over.
SMALL = ["--backend", "cpu", "--threads", "1", "--ingests", "2", "--slots", "4", "--fractions", "0.2", "--limit-ms", "10000"]


def test_a_small_curve(tmp_path: Path, demo_sample: Path) -> None:
    out = tmp_path / "farm.json"
    options = [*SMALL, "--seconds", "0.5", "--chain-events", "32", "--json", str(out)]
    done = subprocess.run([*COMMAND, str(demo_sample), *options], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    (curve,) = document["curves"]
    full, paced = curve["points"]
    assert (full["offered_hz"], document["closed"], document["mismatch"]) == (None, True, 0)
    for point in (full, paced):
        assert point["ledger"]["received"] == point["ledger"]["accepted"] + point["ledger"]["rejected"] > 0
        assert point["share"] == point["reached_hz"] / document["chain"]["events_per_second"]
        assert point["cores"]["worker"] > 0
        assert point["cores"]["clients"] > 0
    assert "of chain" in done.stdout


def test_ctrl_c_ends_everything(tmp_path: Path, demo_sample: Path) -> None:
    options = [*SMALL, "--seconds", "60", "--chain-events", "0"]
    with subprocess.Popen([*COMMAND, str(demo_sample), *options], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as bench:
        assert bench.stderr is not None
        said = ""
        while "as much as credit allows" not in said:
            line = bench.stderr.readline()
            assert line, said
            said += line
        bench.send_signal(signal.SIGINT)
        bench.stderr.read()
        assert bench.wait(60) == 130
    # the fixture that watches this suite finds processes and segments that were left behind
