"""A short soak of a real farm: what is sampled, and that its books close."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hltfarm.service.cli import run
from hltfarm.service.soak.footprint import farm_footprint

#: Quantities that a busy machine does not change.
STEADY = ("descriptors", "threads")


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "soak.json"
    code = run(["soak", "--duration", "10", "--interval", "0.3", "--rate", "20", "--backend", "cpu", "--json", str(out)])
    document = json.loads(out.read_text())
    assert code == (0 if document["sound"] else 1)
    # memory and latency need longer than this, and a machine of their own; everything else has to be right
    assert [problem for problem in document["problems"] if not problem.startswith(("memory of", "p99 of"))] == []
    assert document["load"]["closed"] is True
    ledger = document["ledger"]
    assert ledger["received"] == ledger["accepted"] + ledger["rejected"] > document["load"]["sent"] > 0, "the warm-up counts, too"
    assert ledger["mismatch"] == 0
    assert set(document["mismatches"]) == {"0"}
    judged = {(item["subject"], item["quantity"]): item["flat"] for item in document["judgements"]}
    assert {subject for subject, _ in judged} == {"control", "ingest", "worker-0", "/dev/shm", "clients"}
    assert all(flat for (_, quantity), flat in judged.items() if quantity in STEADY)
    sample = document["footprints"][-1]
    assert sample["shared_bytes"] > 0
    assert sample["processes"]["worker-0"]["resident_bytes"] > sample["processes"]["worker-0"]["private_bytes"] > 1 << 20
    assert sum(item["events"] for item in document["intervals"]) <= document["load"]["sent"]
    assert "p99" in capsys.readouterr().out


def test_the_footprint_of_a_process_and_its_child() -> None:
    code = "import os,sys; held = bytearray(64 << 20); files = [open(os.devnull) for _ in range(40)]"
    command = [sys.executable, "-c", f"{code}; print('up', flush=True); sys.stdin.read()", "worker", "--name", "w7"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        found = farm_footprint(os.getpid(), 1.5)
        process.stdin.close()
    assert found.at_s == 1.5
    assert found.processes["control"].pid == os.getpid()
    usage = found.processes["w7"]
    assert usage.pid == process.pid
    assert usage.private_bytes > 64 << 20
    assert usage.descriptors >= 40
    assert usage.threads == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--duration", "1"], "--duration"),
        (["--load", "1.5"], "--load"),
        (["--source", "/no/such.hlt"], "/no/such.hlt"),
        (["--json", "/no/such/folder/x.json"], "/no/such/folder"),
    ],
)
def test_bad_options_end_with_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["soak", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert said in errors
