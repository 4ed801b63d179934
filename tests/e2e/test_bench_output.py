"""`hltfarm bench output` with real processes, small; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hltfarm.proto.errors import ConfigError
from hltfarm.proto.events import EventId, RawEvent
from hltfarm.service.bench.ingest_alone import Blind, Decides
from hltfarm.service.bench.output import Measurement, Plan, to_json
from hltfarm.service.cli.bench_output import shares
from hltfarm.service.output.settings import Fsync

COMMAND = [sys.executable, "-P", "-c", "from hltfarm.service.cli import main; main()", "bench", "output"]


def test_a_small_measurement(tmp_path: Path, demo_sample: Path) -> None:
    out = tmp_path / "output.json"
    options = ["--accepted", "0.25", "--fsync", "event", "--seconds", "0.3", "--rounds", "1", "--columns", "64"]
    command = [*COMMAND, str(demo_sample), *options, "--folder", str(tmp_path), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(out.read_text())
    assert document["closed"]
    assert [case["output"] for case in document["cases"]] == ["no output", "event"]
    plain, files = document["measurements"]
    assert plain["written_bytes"] == 0
    for one in (plain, files):
        assert one["received"] > 0
        assert one["ingest_us"] > 0
        assert one["accepted"] == pytest.approx(one["received"] / 4, rel=0.1, abs=3)
    mean = files["gb_per_s"] * 1e9 / files["rate_hz"]  # bytes of an event
    assert files["written_bytes"] > 0.5 * files["accepted"] * mean, "what is accepted is in the files"
    assert "files, fsync event" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["output.json"], "nothing is left behind"


def test_accepted_events_are_spread_evenly() -> None:
    blind = Blind(Decides(0.02, 400))
    events = [RawEvent(EventId(1, 1, number, 0), np.zeros(1, dtype=np.uint8)) for number in range(10_000)]
    done = blind.run(events, columns=None, programme=1)
    places = np.flatnonzero(done.results["accept"])
    assert len(places) == pytest.approx(200, abs=5)
    assert np.diff(places).max() < 150
    tables = done.reply(0)
    assert tables is not None
    assert tables["tracks"]["pt"].nbytes == 400
    assert not Blind(Decides(0.0)).run(events, columns=None, programme=1).results["accept"].any()
    assert Blind(Decides(1.0)).run(events, columns=None, programme=1).results["accept"].all()


def test_ratios_are_of_the_medians() -> None:
    plan = Plan(source=Path("s"), shares=[1], policies=[Fsync.NONE], rounds=3, seconds=1, slots=1, columns_bytes=0, folder=Path())
    rates = {"no output": (100.0, 1000.0, 200.0), "none": (50.0, 1.0, 90.0)}
    measurements = [
        Measurement(share=1, output=output, rate_hz=rate, gb_per_s=0.1, ingest_us=9.0, received=1, accepted=1, written_bytes=0, problems=[])
        for output, all_of_it in rates.items()
        for rate in all_of_it
    ]
    assert [case["ratio"] for case in to_json(plan, measurements)["cases"]] == [1.0, 0.25]


@pytest.mark.parametrize("text", ["", "x", "2", "0.5,-1", "nan"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="numbers from 0 to 1"):
        shares(text)
